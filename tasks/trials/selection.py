"""The selection among a night's candidates: each is scored by a held-out scorer, and the best goes on.

The score is that of whom training never asks (the judge of the first candidate, or the simulated annotator), on dev
prompts: test prompts decide the gates, so they must not choose who comes before them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import sqrt
from statistics import fmean, stdev
from typing import NamedTuple

from rlhf.records import Prompt
from tasks import digests
from tasks.files import read_records
from tasks.params.whole import Params
from tasks.paths import Paths
from tasks.stages import STAGES, VERSIONED
from tasks.tracking import mlflow_store, tracker
from tasks.training import monitor
from tasks.trials import standings, workspaces
from tasks.trials.candidates import Candidate
from tasks.trials.standings import Selection, Standing
from tasks.versioning import dvc_repo


class HeldOut(NamedTuple):
    """Scores of some policies on the same prompts.

    Attributes:
        referee: who scored.
        scores: by candidate, the mean score of its samples of each prompt.
    """

    referee: str
    scores: dict[str, list[float]]


def decide(paths: Paths, candidates: Sequence[Candidate], errors: Mapping[str, str], night_id: str) -> Selection:
    """Scores every candidate that was trained to the end, and keeps how all of them stand.

    Args:
        paths: the workspace that they belong to; its own params are the first candidate.
        candidates: all of them.
        errors: by name, why a candidate was not trained to the end.
        night_id: the night's MLflow run.
    """
    trained = {row.name: workspaces.of_night(paths, row.name) for row in candidates if row.name not in errors}
    held_out = score(paths, candidates[0].params, trained)
    results = [
        _standing(paths, row, held_out.scores.get(row.name)).model_copy(
            update={"error": errors.get(row.name), "run_id": tracker.find_candidate(paths, night_id, row.name)}
        )
        for row in candidates
    ]
    selection = Selection(
        key=standings.key(paths, candidates),
        winner=best(results),
        referee=held_out.referee,
        prompts=len(next(iter(held_out.scores.values()))),
        candidates=results,
    )
    standings.write(paths, selection)
    client = mlflow_store.open_client(paths)
    for row in results:
        if row.run_id and row.score is not None and row.standard_error is not None:
            points = [("held_out.score", row.score, 0), ("held_out.standard_error", row.standard_error, 0)]
            mlflow_store.log(client, row.run_id, metrics=points)
    return selection


def record(paths: Paths, selection: Selection, night_id: str) -> None:
    """Writes to the night's run who won, and that one's figures, pictures and runs."""
    client = mlflow_store.open_client(paths)
    client.log_artifact(night_id, str(paths.candidates))
    mlflow_store.log(client, night_id, tags={"winner": selection.winner})
    workspace = workspaces.of_night(paths, selection.winner)
    for stage in VERSIONED:
        made = dvc_repo.digests(stage, workspace.root).outputs
        written = {name: made[name] for name in STAGES[stage].writes}
        tracker.record_skipped(workspace, stage, f"by {selection.winner}", written)


def best(results: Sequence[Standing]) -> str:
    """The name of the candidate with the highest held-out score; of equals the first."""
    scored = {row.name: row.score for row in results if row.score is not None}
    return max(scored, key=scored.__getitem__)


def score(paths: Paths, params: Params, trained: Mapping[str, Paths]) -> HeldOut:
    """What the held-out scorer says of samples of each policy, drawn with the same seeds on the same dev prompts.

    Raises:
        ValueError: there are too few dev prompts, or nobody whom training never asked.
    """
    from rlhf.annotator import Annotator
    from rlhf.evaluation.answers import sampled_answers
    from rlhf.models import load_policy

    file, sampling = paths.validated / "dev" / "prompts.jsonl", params.evaluate
    prompts = [row.prompt for row in read_records(file, Prompt, may_be_empty=True)][: sampling.max_prompts]
    if len(prompts) < 2:
        raise ValueError(f"{file}: {len(prompts)} prompts cannot choose among candidates; raise validate.dev_share")
    scorer = monitor.find_held_out(paths.models / "judge", params.model, prompts, sampling.seed)
    if scorer is None:
        raise ValueError(
            f"{paths.models / 'judge'}: no judge here, so that only the reward model that PPO optimised could choose "
            "among the candidates; hold rankings out for a judge (pairs.judge_share), or empty night.seeds and "
            "night.variants"
        )
    scores = {}
    repeated = [prompt for prompt in prompts for _ in range(sampling.samples)]
    for name, workspace in trained.items():
        policy = load_policy(workspace.models / "policy", params.model)
        texts = sampled_answers(
            policy, prompts, sampling.samples, sampling.max_new_tokens, sampling.seed, sampling.batch_size
        )
        given = scorer.score(repeated, [text for row in texts for text in row])
        scores[name] = given.view(len(prompts), -1).mean(dim=1).tolist()
    return HeldOut("simulated annotator" if isinstance(scorer, Annotator) else "judge", scores)


def _standing(paths: Paths, candidate: Candidate, scores: list[float] | None) -> Standing:
    workspace = workspaces.of_night(paths, candidate.name)
    if scores is None:
        return standings.standing(paths, workspace, candidate, [])
    measured = {
        "score": fmean(scores),
        "standard_error": stdev(scores) / sqrt(len(scores)),
        "policy": digests.digest(workspace.models / "policy"),
    }
    return standings.standing(paths, workspace, candidate, ["evaluate"]).model_copy(update=measured)
