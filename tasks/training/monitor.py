"""The reward-hacking monitor of the policy stage: its prompts, its scorers and the files that it leaves."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rlhf.records import Prompt, PromptText, Sampling
from rlhf.settings.model import ModelSettings
from rlhf.settings.policy import MonitorSettings, PolicySettings
from tasks.files import read_records, write_curve, write_json

if TYPE_CHECKING:
    from rlhf.policy.monitor import Monitor
    from rlhf.policy.rollouts import Scorer


def monitor_inputs(dev: Path, judge: Path) -> list[Path]:
    """What the monitor depends on beside what PPO reads anyway."""
    return [dev / "prompts.jsonl", judge]


def watched_prompts(dev: Path, limits: MonitorSettings) -> list[PromptText]:
    """The dev prompts of a reading; raises ValueError when there are too few to tell a fall from chance."""
    file = dev / "prompts.jsonl"
    prompts = [row.prompt for row in read_records(file, Prompt, may_be_empty=True)][: limits.prompts]
    if len(prompts) < 2:
        raise ValueError(
            f"{file}: found {len(prompts)} prompts, but policy.monitor needs at least 2 to tell a fall from chance; "
            "raise validate.dev_share, or set policy.monitor to null"
        )
    return prompts


def build_monitor(
    judge: Path, params: PolicySettings, model: ModelSettings, proxy: Scorer, prompts: Sequence[PromptText]
) -> Monitor:
    """The monitor of a run on this proxy."""
    from rlhf.policy.monitor import Monitor

    assert params.monitor is not None
    sampling = Sampling(temperature=params.temperature, max_new_tokens=params.max_new_tokens)
    held_out = find_held_out(judge, model, prompts, params.seed)
    return Monitor(prompts, proxy, held_out, params.monitor, sampling, params.iterations, params.seed)


def find_held_out(judge: Path, model: ModelSettings, prompts: Sequence[PromptText], seed: int) -> Scorer | None:
    """A scorer that training never uses: the judge where rankings were held out for it, else the builtin annotator.

    The annotator takes the place of people, who would look at some completions of a run now and then.
    """
    from rlhf.annotator import Annotator, has_gold
    from rlhf.reward import load_reward_model

    if (judge / "reward.json").is_file():
        return load_reward_model(judge, model)
    return Annotator(seed) if has_gold(prompts) else None


def write_monitor(plots: Path, policy: Path, monitor: Monitor, kept: int) -> dict[str, float]:
    """Writes the readings, and beside the policy the warnings in them; returns its metrics.

    Args:
        plots: the folder of curves.
        policy: the folder of the policy.
        monitor: after the run.
        kept: the iteration whose policy is kept.
    """
    from rlhf.evaluation.hacking import verdict

    measured = [reading for reading in monitor.readings if not reading.unmeasured()]
    rows = [{"step": float(reading.iteration), **monitor.figures(reading)} for reading in measured]
    findings, stop = verdict(monitor.readings, monitor.limits).findings, monitor.stop_reason()
    write_curve(plots / "monitor.csv", rows)
    readings = [
        {"iteration": reading.iteration, "warnings": texts}
        for reading, texts in zip(monitor.readings, findings, strict=True)
    ]
    write_json(policy / "monitor.json", {"kept_iteration": kept, "stopped": stop, "readings": readings})
    return {
        "monitor_stopped": float(stop is not None),
        "monitor_kept_iteration": float(kept),
        "monitor_warnings": float(sum(map(bool, findings))),
    }
