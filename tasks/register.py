"""Register: the night's policy and reward model become versions in MLflow's registry, behind gates.

Reads data/models, data/evaluation, data/metrics, data/rankings (who made them) and data/validated, and plays the
policy against the champion in the registry. Compares the night's data with the champion's and the last nights' as
MLflow keeps them (tasks/drift/nights.py), and draws nights/drift.html. Writes the model versions `<name>-policy` and
`<name>-reward` with the alias `challenger`, and `champion` when every gate passes, with a model card; the decision also
goes to nights/decisions.jsonl and nights/register.json. The same weights are never registered twice: the existing
version gets the new decision. Command: `python -m tasks register`.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from rlhf.settings.model import ModelSettings
from tasks import digests
from tasks.drift import compare, nights, profile
from tasks.files import read_rows, write_json
from tasks.params.register import RegisterParams
from tasks.paths import Paths
from tasks.progress import warn
from tasks.registry import card, decisions, gates, lineage, versions
from tasks.registry.decisions import Decision
from tasks.registry.gates import Finding, Rematch
from tasks.registry.versions import KINDS
from tasks.reports import summary
from tasks.reports.canaries import markdown
from tasks.serving.package import package
from tasks.stages import STAGES
from tasks.tracking import mlflow_store, tracker
from tasks.tracking.tracker import StageRun
from tasks.trials import canaries, rematch, standings, table
from tasks.versioning import git, provenance

CARDS = {"policy": "model_card.md", "reward": "reward_card.md"}


def run(paths: Paths, params: RegisterParams, model: ModelSettings) -> dict[str, float]:
    """Registers both models and decides on the champion; the stage run that is open becomes their source.

    Raises:
        FileNotFoundError: a model or the evaluation is missing.
        ValueError: the evaluation lacks a figure that a gate needs, or the champion cannot be loaded.
    """
    stage = tracker.current_stage()
    metrics = read_evaluation(paths)
    findings = gates.judge_evaluation(metrics, params) + gates.judge_monitor(standings.read_monitor(paths), params)
    contents = {kind: digests.digest(paths.models / kind) for kind in KINDS}
    existing = {kind: versions.find_version(stage.client, f"{params.name}-{kind}", contents[kind]) for kind in KINDS}
    known = existing["policy"]
    marks = [each.tags.get(versions.RETIRED) for each in existing.values() if each is not None]
    retired = next(filter(None, marks), None)
    findings += gates.judge_judge(standings.read_judge(paths), params)
    findings.append(gates.judge_seeds(*standings.seeds_of(paths), params))
    findings += gates.judge_rollback(None if known is None else known.tags.get(versions.ROLLED_BACK))
    findings += gates.judge_retired(retired)
    champion = versions.champion_of(stage.client, params.name)
    other = None if champion is None or champion.tags.get("content") == contents["policy"] else champion
    played = None if other is None else rematch.play(paths, other, model, params.min_win_rate_low)
    findings.append(gates.judge_rematch(played, params))
    if params.false_promotions_a_year is not None:
        evidence = [rematch.evidence_over_sft(paths, params.min_win_rate_low)]
        evidence += [] if played is None else [played.evidence]
        findings += gates.judge_year(evidence, _decided(paths), params)
    drift = watch_drift(paths, stage, champion, params)
    findings += drift.findings

    tags = _lineage(paths, stage)
    report = {
        kind: register_version(paths, stage, params.name, kind, content, tags) for kind, content in contents.items()
    }
    version, before = report["policy"]["version"], None if champion is None else int(champion.version)
    promoted = gates.is_promoted(findings)
    measured = {key: metrics[key] for keys in gates.READ.values() for key in keys if key in metrics}
    decision = Decision(
        when=decisions.now(),
        version=version,
        promoted=promoted,
        by="gates",
        reason="; ".join(filter(None, (gates.reason(findings), _choice(paths)))),
        findings=[finding._asdict() for finding in findings],
        figures=measured | _figures(played),
        champion_before=before,
        champion_after=version if promoted else before,
    )
    record(paths, stage, params.name, decision, {kind: report[kind]["version"] for kind in KINDS})
    aliases = [versions.CHALLENGER] * (retired is None) + [versions.CHAMPION] * promoted
    versions.move(stage.client, params.name, dict.fromkeys(aliases, version))
    decisions.append(paths, decision)
    for kind in KINDS:
        report[kind]["aliases"] = versions.aliases_of(stage.client, f"{params.name}-{kind}", report[kind]["version"])
    shown = canaries.answer(paths, params.canaries, other, model)
    if shown:
        stage.client.log_text(stage.run_id, markdown(shown), "canaries.md")
    summed = {"promoted": promoted, "reason": decision.reason, "champion": played and played._asdict()}
    summed |= {"drift": drift.text, "drifted": drift.drifted}
    write_json(paths.registered, report | summed | {"canaries": shown})
    numbers = {f"{kind}_version": report[kind]["version"] for kind in KINDS}
    return {"promoted": float(promoted), **numbers, **_figures(played), **drift.figures}


class Drift(NamedTuple):
    """What came of comparing the night's data with those before: in a line, as figures, and what its gate finds."""

    text: str
    drifted: bool
    figures: dict[str, float]
    findings: list[Finding]


def watch_drift(paths: Paths, stage: StageRun, champion: Any, params: RegisterParams) -> Drift:
    """Compares the night's data with the champion's and the last nights', warns, and keeps their profile for later.

    Args:
        paths: the workspace, evaluated.
        stage: the run that keeps the profile and the page.
        champion: the policy version in the registry, or None.
        params: when data count as drifted, and whether that is a gate.
    """
    tonight = profile.profile(paths)
    baselines = nights.baselines(stage.client, paths, tonight, champion, params.drift.nights)
    measured = compare.compare(tonight, baselines, params.drift, profile.prompts_of(paths))
    page = nights.keep(stage.client, stage.run_id, paths, tonight, measured, baselines, params.drift)
    text = compare.describe(measured, baselines)
    drifted = any(each.drifted for each in measured)
    if drifted:
        warn(f"{text}; see {page}")
    against = next((each for each in baselines if each.key == versions.CHAMPION), None)
    names = None if against is None or against.profiles is None else compare.drifted(measured, against.key)
    findings = gates.judge_drift("" if against is None else against.title, names, params)
    return Drift(text, drifted, nights.figures(measured), findings)


def read_evaluation(paths: Paths) -> dict[str, float]:
    """What evaluate measured; raises FileNotFoundError that says which command measures it."""
    path = paths.metrics("evaluate")
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no evaluation to judge the policy by; run first: nightjar stage evaluate")
    figures: dict[str, float] = json.loads(path.read_text(encoding="utf-8"))
    return figures


def register_version(
    paths: Paths, stage: StageRun, name: str, kind: str, content: str, tags: Mapping[str, str]
) -> dict[str, Any]:
    """The version that serves this content: its name, its number, and whether it is new and so got these tags."""
    model = f"{name}-{kind}"
    version = versions.find_version(stage.client, model, content)
    is_new = version is None
    if version is None:
        logged = mlflow_store.log_pyfunc(paths, stage.run_id, model, **package(kind, paths))
        version = versions.create_version(stage.client, model, *logged, stage.run_id, content)
        versions.tag(stage.client, model, version.version, tags)
    return {"name": model, "version": int(version.version), "new": is_new}


def record(paths: Paths, stage: StageRun, name: str, decision: Decision, numbers: Mapping[str, int]) -> None:
    """Writes a decision with its numbers to the versions, as tags and as the model card, which the run keeps too."""
    policy = f"{name}-policy"
    tags = {"promoted": "yes" if decision.promoted else "no", "reason": decision.reason, "decided": decision.when}
    for kind in KINDS:
        versions.tag(stage.client, f"{name}-{kind}", numbers[kind], tags)
    figures = {"figures": json.dumps(decision.figures), "reward_version": str(numbers["reward"])}
    if decision.promoted and decision.champion_before not in (None, decision.version):
        figures[versions.CHAMPION_BEFORE] = str(decision.champion_before)
    versions.tag(stage.client, policy, numbers["policy"], figures)
    judged = stage.client.get_model_version(policy, str(numbers["policy"])).tags
    versions.untag(stage.client, policy, numbers["policy"], [key for key in judged if key.startswith("gate.")])
    for row in decision.findings:
        how = "passed" if row["passed"] else "failed"
        versions.tag(stage.client, policy, numbers["policy"], {f"gate.{row['name']}": f"{how}: {row['text']}"})

    scores = json.loads((paths.evaluation / "scores.json").read_text(encoding="utf-8"))
    facts = card.Facts(
        lineage=lineage.trace(stage.client, stage.client.get_model_version(policy, str(numbers["policy"]))),
        referee=scores["sampling"]["referee"],
        evaluation=read_evaluation(paths) | decision.figures,
        findings=[Finding(**row) for row in decision.findings],
        reason=decision.reason,
        signatures=summary.signatures(paths),
    )
    for kind in KINDS:
        text = card.render(kind, facts)
        stage.client.log_text(stage.run_id, text, CARDS[kind])
        description = card.describe(text, f"{CARDS[kind]} of run {stage.run_id}")
        stage.client.update_model_version(f"{name}-{kind}", str(numbers[kind]), description)


def _lineage(paths: Paths, stage: StageRun) -> dict[str, str]:
    """The tags that lead a version back: runs, data digests, who ranked, params, commit and libraries."""
    data = sorted({name for each in STAGES.values() for name in (*each.reads, *each.writes)})
    written = provenance.digests(paths, data)
    tags = {"run": stage.run_id, "night": stage.night_id or "none: registered by itself"}
    tags |= {f"data.{name}": content for name, content in written.items()}
    for name, each in STAGES.items():
        runs = (tracker.find_run_by_output(paths, path, written[path]) for path in each.writes if path in written)
        if source := next((run_id for run_id in runs if run_id), None):
            tags[f"run.{name}"] = source
    if (params := paths.root / "params.yaml").is_file():
        tags["params.md5"] = digests.digest(params)
        stage.client.log_artifact(stage.run_id, str(params))
    ranked = Counter(str(row["annotator"]) for _, row in read_rows(paths.rankings))
    tags["annotators"] = json.dumps(dict(ranked.most_common()))
    tags |= {f"git.{name}": value for name, value in git.state(paths.root).items()}
    return tags | {f"version.{name}": number for name, number in provenance.versions().items()}


def _decided(paths: Paths) -> int:
    """How many decisions the gates took in the last 365 days."""
    since = datetime.now().astimezone() - timedelta(days=365)
    return sum(row.by == "gates" and datetime.fromisoformat(row.when) > since for row in decisions.read(paths))


def _choice(paths: Paths) -> str | None:
    """Why this policy and none of the night's other candidates is judged, where a trade of figures chose it."""
    competed = standings.own(paths)
    return table.choice(*competed) if competed else None


def _figures(played: Rematch | None) -> dict[str, float]:
    if played is None:
        return {}
    figures = {"win_rate": played.rate, "win_rate_low": played.low, "win_rate_high": played.high}
    return {f"champion.{name}": value for name, value in figures.items()}
