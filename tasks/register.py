"""Register: the night's policy and reward model become versions in MLflow's registry, behind gates.

Reads data/models/policy, data/models/reward, data/metrics/evaluate.json and, as the example, test prompts.
Writes the model versions `<name>-policy` and `<name>-reward` with the alias `challenger`, and `champion` when
every gate passes; what was done and why also goes to nights/register.json. The same weights are never
registered twice: the version there is gets the new decision. Command: `python -m tasks register`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from tasks import mlflow_store, provenance, registry, tracking
from tasks.files import write_json
from tasks.params import RegisterParams
from tasks.paths import Paths
from tasks.serving.package import package
from tasks.stages import STAGES

KINDS = ("policy", "reward")
GATE_FIGURES = ("win_rate", "win_rate_low", "win_rate_high", "policy.rougeL", "sft.rougeL", "policy.kl")


@dataclass(frozen=True)
class Decision:
    """Whether the policy becomes the champion: every gate's finding when it does, else those that failed."""

    promote: bool
    reasons: list[str]

    def __str__(self) -> str:
        return f"{'promoted' if self.promote else 'not promoted'}: {'; '.join(self.reasons)}"


def run(paths: Paths, params: RegisterParams) -> dict[str, float]:
    """Registers both models and decides on the champion; the stage run that is open becomes their source.

    Raises:
        FileNotFoundError: a model or the evaluation is missing.
        ValueError: the evaluation lacks a figure that a gate needs.
    """
    stage = tracking.current_stage()
    decision = decide(read_evaluation(paths), params)
    contents = {kind: provenance.digest(paths.models / kind) for kind in KINDS}
    report: dict[str, Any] = {"promoted": decision.promote, "reason": str(decision)}
    for kind, content in contents.items():
        name = f"{params.name}-{kind}"
        version = registry.find_version(stage.client, name, content)
        is_new = version is None
        if version is None:
            model = mlflow_store.log_pyfunc(paths, stage.run_id, name, **package(kind, paths))
            version = registry.create_version(stage.client, name, *model, stage.run_id, content)
            registry.tag(stage.client, name, version, _lineage(paths, stage))
        registry.judge(stage.client, name, version, decision.promote, str(decision))
        aliases = registry.set_aliases(stage.client, name, version, decision.promote)
        report[kind] = {"name": name, "version": int(version), "new": is_new, "aliases": aliases}
    if (file := paths.root / "params.yaml").is_file():
        stage.client.log_artifact(stage.run_id, str(file))
    write_json(paths.registered, report)
    return {
        "promoted": float(decision.promote),
        **{f"{kind}_version": report[kind]["version"] for kind in KINDS},
    }


def decide(metrics: dict[str, float], params: RegisterParams) -> Decision:
    """The gates between challenger and champion; a figure that is not a number passes none.

    Raises:
        ValueError: a figure is missing.
    """
    missing = [name for name in GATE_FIGURES if name not in metrics]
    if missing:
        raise ValueError(f"the evaluation lacks {', '.join(missing)}; run again: python -m tasks evaluate")
    rate, low, high, rouge, sft_rouge, kl = (metrics[name] for name in GATE_FIGURES)
    floor = sft_rouge - params.max_rouge_drop
    wins, keeps_rouge, stays_near = low > params.min_win_rate_low, rouge >= floor, kl <= params.max_kl
    interval = f"win rate {rate:.3f} [{low:.3f}, {high:.3f}]"
    findings = [
        (wins, f"{interval} {'above' if wins else 'not above'} {params.min_win_rate_low:g}"),
        (
            keeps_rouge,
            f"ROUGE-L {rouge:.4f} {'not below' if keeps_rouge else 'below'} {floor:.4f} "
            f"(SFT's {sft_rouge:.4f} less {params.max_rouge_drop:g})",
        ),
        (stays_near, f"KL {kl:.2f} {'within' if stays_near else 'above'} {params.max_kl:g} nats"),
    ]
    promote = all(passed for passed, _ in findings)
    return Decision(promote, [finding for passed, finding in findings if promote or not passed])


def read_evaluation(paths: Paths) -> dict[str, float]:
    """What evaluate measured; raises FileNotFoundError that says which command measures it."""
    path = paths.metrics("evaluate")
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no evaluation to judge the policy by; run first: python -m tasks evaluate")
    figures: dict[str, float] = json.loads(path.read_text(encoding="utf-8"))
    return figures


def _lineage(paths: Paths, stage: tracking.StageRun) -> dict[str, str]:
    """The tags that lead a version back: runs, data digests, params and commit."""
    data = sorted({name for each in STAGES.values() for name in (*each.reads, *each.writes)})
    found = provenance.digests(paths, data)
    tags = {"run": stage.run_id, "night": stage.night_id or "none: registered by itself"}
    tags |= {f"data.{name}": content for name, content in found.items()}
    for name, each in STAGES.items():
        runs = (tracking.find_run_by_output(paths, path, found[path]) for path in each.writes if path in found)
        if source := next((run_id for run_id in runs if run_id), None):
            tags[f"run.{name}"] = source
    if (params := paths.root / "params.yaml").is_file():
        tags["params.md5"] = provenance.digest(params)
    git = provenance.git_state(paths.root)
    return tags | {f"git.{name}": value for name, value in git.items()}
