"""Ranks completions: the simulated annotator, or what people ranked.

`simulated` reads data/rollouts/rollouts.jsonl and ranks each prompt's completions by their gold score plus
noise; `people` reads the validated feedback files that `rank.feedback` names for each split. Writes
data/rankings/rankings.jsonl; each row's `split` says where its pairs may go (`any`: by prompt).

    python -m tasks rank
"""

from __future__ import annotations

import random
from pathlib import PurePosixPath

from rlhf.preferences import tied_couples
from rlhf.records import Ranking, Rollout, prompt_text
from tasks.files import read_records, write_records
from tasks.params.rank import FeedbackParams, RankParams
from tasks.sources.files import rankings_name, read_file
from tasks.sources.rows import Problems, RawRow, as_records
from tasks.stage_files import StageFiles


def run(files: StageFiles, params: RankParams) -> dict[str, float]:
    """Writes the rankings and returns their number, that of the annotators, and the share of tied couples.

    Raises:
        FileNotFoundError: rollouts or a named feedback file are missing.
        ValueError: no feedback file is named, one is named twice, or an id occurs in two files.
    """
    rankings = _simulate(files, params) if params.annotator == "simulated" else gather(files, params.feedback)
    write_records(files.outputs["rankings"] / "rankings.jsonl", rankings)
    couples = sum(len(ranking.ranks) * (len(ranking.ranks) - 1) // 2 for ranking in rankings)
    return {
        "rankings": len(rankings),
        "annotators": len({ranking.annotator for ranking in rankings}),
        "tie_share": sum(tied_couples(ranking.ranks) for ranking in rankings) / couples,
    }


def _simulate(files: StageFiles, params: RankParams) -> list[Ranking]:
    rows = read_records(files.inputs["rollouts"] / "rollouts.jsonl", Rollout)
    return [simulate_ranking(rollout, params.noise, params.seed) for rollout in rows]


def simulate_ranking(rollout: Rollout, noise: float, seed: int) -> Ranking:
    """One rollout as the simulated annotator ranks it: the same in whatever order rollouts come."""
    from rlhf.annotator import rank_completions

    texts = [completion.text for completion in rollout.completions]
    generator = random.Random(f"{seed} {rollout.prompt_id}")
    return Ranking.model_validate(
        {
            "id": f"{rollout.prompt_id}-r",
            "prompt": rollout.prompt,
            "completions": texts,
            "ranks": rank_completions(prompt_text(rollout.prompt), texts, noise, generator),
            "annotator": "simulated",
            "source": "simulated",
            "split": "any",
        }
    )


def gather(files: StageFiles, feedback: FeedbackParams) -> list[Ranking]:
    """The rankings of all named files, each with the role of its file as `split`; raises as `run`."""
    roles = {role: getattr(feedback, role) for role in type(feedback).model_fields}
    named = [(role, name) for role, names in roles.items() for name in names]
    if not named:
        raise ValueError(
            "rank.annotator is people, but rank.feedback names no file; list files below data/feedback "
            "under train, dev, test, judge or any"
        )
    rows: list[RawRow] = []
    problems = Problems()
    seen: dict[str, str] = {}
    for role, name in named:
        if name in seen:
            raise ValueError(f"rank.feedback names {name} under {seen[name]} and {role}; name it once")
        seen[name] = role
        rows += [
            RawRow(row.location, row.name, row.line, {**row.values, "split": role})
            for row in _read(files, role, name, problems)
        ]
    rankings = as_records(rows, Ranking, problems)
    problems.stop()
    return rankings


def _read(files: StageFiles, role: str, name: str, problems: Problems) -> list[RawRow]:
    plain = PurePosixPath(rankings_name(name) or "")
    if plain.is_absolute() or ".." in plain.parts or not plain.name:
        raise ValueError(
            f"rank.feedback.{role} names {name}; expected a .jsonl or .jsonl.gz file, or another format that "
            "data/feedback/README.md names, by its path from data/feedback"
        )
    file = files.inputs["feedback"] / plain
    if not file.is_file():
        raise FileNotFoundError(
            f"data/feedback/{name}: no such file, though rank.feedback.{role} names it; "
            "put it there (validate checks it first), or correct the name"
        )
    if file.stat().st_size == 0:
        raise ValueError(f"data/feedback/{name}: validate kept no ranking of it; see data/quarantine/feedback.jsonl")
    return read_file(file, f"data/validated/feedback/{plain}", problems)
