"""The contest of a night's candidates: each is trained and evaluated, and the best by a held-out score goes on.

The score is that of whom training never asks (the judge of the first candidate, or the simulated annotator), on dev
prompts: test prompts decide the gates, so they must not choose who comes before them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from math import sqrt
from statistics import fmean, stdev
from typing import NamedTuple

from rlhf.records import Prompt
from tasks import digests
from tasks.files import read_records
from tasks.params.whole import Params
from tasks.paths import Paths
from tasks.reports import summary
from tasks.stages import STAGES, VERSIONED
from tasks.tracking import mlflow_store, tracker
from tasks.training import monitor
from tasks.trials import standings
from tasks.trials.candidates import Candidate
from tasks.trials.standings import Contest, Standing
from tasks.versioning import dvc_repo


class HeldOut(NamedTuple):
    """Scores of some policies on the same prompts.

    Attributes:
        referee: who scored.
        scores: by candidate, the mean score of its samples of each prompt.
    """

    referee: str
    scores: dict[str, list[float]]


def decide(paths: Paths, field: Sequence[Candidate], errors: Mapping[str, str], night_id: str) -> Contest:
    """Scores every candidate that was trained to the end, and keeps how all of them stand.

    Args:
        paths: the workspace that they belong to; its own params are the first candidate.
        field: all candidates.
        errors: by name, why a candidate was not trained to the end.
        night_id: the night's MLflow run.
    """
    trained = {row.name: standings.place_of(paths, row.name) for row in field if row.name not in errors}
    found = score(paths, field[0].params, trained)
    ranked = [
        _standing(paths, row, found.scores.get(row.name)).model_copy(
            update={"error": errors.get(row.name), "run_id": tracker.find_candidate(paths, night_id, row.name)}
        )
        for row in field
    ]
    contest = Contest(
        key=standings.key(paths, list(field)),
        winner=best(ranked),
        referee=found.referee,
        prompts=len(next(iter(found.scores.values()))),
        candidates=ranked,
    )
    standings.write(paths, contest)
    client = mlflow_store.open_client(paths)
    for row in ranked:
        if row.run_id and row.score is not None and row.standard_error is not None:
            points = [("held_out.score", row.score, 0), ("held_out.standard_error", row.standard_error, 0)]
            mlflow_store.log(client, row.run_id, metrics=points)
    return contest


def record(paths: Paths, contest: Contest, night_id: str) -> None:
    """Writes to the night's run who won, and that one's figures, pictures and runs."""
    client = mlflow_store.open_client(paths)
    client.log_artifact(night_id, str(paths.candidates))
    mlflow_store.log(client, night_id, tags={"winner": contest.winner})
    place = standings.place_of(paths, contest.winner)
    for stage in VERSIONED:
        made = dvc_repo.digests(stage, place.root).outputs
        written = {name: made[name] for name in STAGES[stage].writes}
        tracker.record_skipped(place, stage, f"by {contest.winner}", written)


def best(standings: Sequence[Standing]) -> str:
    """The name of the candidate with the highest held-out score; of equals the first."""
    scored = {row.name: row.score for row in standings if row.score is not None}
    return max(scored, key=scored.__getitem__)


def score(paths: Paths, params: Params, places: Mapping[str, Paths]) -> HeldOut:
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
    for name, place in places.items():
        policy = load_policy(place.models / "policy", params.model)
        texts = sampled_answers(
            policy, prompts, sampling.samples, sampling.max_new_tokens, sampling.seed, sampling.batch_size
        )
        given = scorer.score(repeated, [text for row in texts for text in row])
        scores[name] = given.view(len(prompts), -1).mean(dim=1).tolist()
    return HeldOut("simulated annotator" if isinstance(scorer, Annotator) else "judge", scores)


def _standing(paths: Paths, candidate: Candidate, scores: list[float] | None) -> Standing:
    place = standings.place_of(paths, candidate.name)
    folder = place.root.relative_to(paths.root).as_posix()
    row = Standing(name=candidate.name, variant=candidate.variant, seed=candidate.seed, folder=folder)
    if scores is None:
        return row
    measured = {
        "score": fmean(scores),
        "standard_error": stdev(scores) / sqrt(len(scores)),
        "figures": json.loads(place.metrics("evaluate").read_text(encoding="utf-8")),
        "policy": digests.digest(place.models / "policy"),
    }
    return row.model_copy(update=measured)


def rows(contest: Contest) -> list[dict[str, str]]:
    """A table of the contest for people, the best first."""
    ranked = sorted(contest.candidates, key=lambda row: -float("inf") if row.score is None else row.score, reverse=True)
    return [
        {
            "candidate": row.name,
            "held-out score": "" if row.score is None else f"{row.score:.4f} ± {row.standard_error:.4f}",
            "win rate over SFT": summary.interval(row.figures, "win_rate") if "win_rate" in row.figures else "",
            "KL": f"{row.figures['policy.kl']:.2f}" if "policy.kl" in row.figures else "",
            "ROUGE-L": f"{row.figures['policy.rougeL']:.4f}" if "policy.rougeL" in row.figures else "",
            "": "goes on" if row.name == contest.winner else row.error or "",
        }
        for row in ranked
    ]
