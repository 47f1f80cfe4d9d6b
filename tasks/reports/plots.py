"""The plots that `dvc plots show` and `dvc plots diff` draw: curves of the training stages, tables of the evaluation.

Each is drawn from files that every night writes, whatever its params, for DVC complains of a plot whose file is
missing. They stand before the files of data/plots, which DVC draws too, each by itself and without a title.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Literal

from tasks.figures import find


@dataclass(frozen=True)
class Plot:
    """One plot; `y` names the columns of each file below data/plots, `x` the column they are drawn over.

    An axis is labelled by the figure that its column holds, where it holds one.
    """

    name: str
    x: str
    y: dict[str, list[str]]
    x_label: str
    y_label: str
    template: Literal["linear", "simple", "scatter", "bar_horizontal"] = "simple"


KL = find("kl").label
PLOTS = (
    Plot("SFT: loss", "step", {"sft/loss.csv": ["loss"], "sft/eval_loss.csv": ["eval_loss"]}, "step",
         find("sft.loss").label),
    Plot("Reward model: loss", "step", {"reward/reward_loss.csv": ["loss"]}, "step", find("reward.loss").label,
         "linear"),
    Plot("Reward model: calibration", "confidence", {"reward/calibration.csv": ["accuracy", "calibrated"]},
         "confidence in a test pair", "share of pairs that are right"),
    Plot("Policy: reward against KL", "kl", {"policy/reward_over_kl.csv": ["reward_mean"]}, KL,
         find("policy.reward_mean").label, "scatter"),
    Plot("Policy: KL", "step", {"policy/kl.csv": ["kl"]}, "iteration", KL),
    Plot("Policy: length", "step", {"policy/response_tokens.csv": ["response_tokens"]}, "iteration",
         find("policy.response_tokens").label),
    Plot("Evaluation: length", "words", {"evaluate/lengths.csv": ["sft", "policy"]}, find("length").label,
         "share of completions"),
    Plot("Evaluation: ROUGE", "F1", {"evaluate/rouge.csv": ["score"]}, "F1", find("score").label, "bar_horizontal"),
)  # fmt: skip


def render() -> str:
    """The section `plots` of dvc.yaml."""
    lines = ["plots:"]
    for plot in PLOTS:
        lines += [f"  - {json.dumps(plot.name)}:", f"      template: {plot.template}", f"      x: {plot.x}", "      y:"]
        lines += [f"        data/plots/{file}: {_columns(names)}" for file, names in plot.y.items()]
        labels = {"title": plot.name, "x_label": plot.x_label, "y_label": plot.y_label}
        lines += [f"      {key}: {json.dumps(label)}" for key, label in labels.items()]
    return "\n".join(lines) + "\n"


def _columns(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"[{', '.join(names)}]"
