"""Completions are ranked by the simulated annotator, or by people's files."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from rlhf.annotator import gold_score
from rlhf.corpus import make_demonstrations, make_prompts
from rlhf.records import Rollout
from tasks import rank, stages
from tasks.files import write_records, write_rows
from tasks.params.rank import FeedbackParams, RankParams
from tasks.paths import Paths


def run(paths: Paths, params: RankParams) -> dict[str, float]:
    """The stage on a workspace's files."""
    return rank.run(stages.files("rank", paths), params)


def rollouts(count: int) -> list[Rollout]:
    sampling = {"tokens": 5, "finish_reason": "eos", "seed": 0, "sampling": {}, "logprob": -1.0}
    prompts, demonstrations = make_prompts(count, 0), make_demonstrations(count, 0)
    found = []
    for prompt, demonstration in zip(prompts, demonstrations, strict=True):
        texts = [demonstration.response, prompt.references[0], "nothing to say"]
        completions = [{"text": text, **sampling} for text in texts]
        row = {"prompt_id": prompt.id, "prompt": prompt.prompt, "completions": completions}
        found.append(Rollout.model_validate(row))
    return found


def written(paths: Paths) -> list[dict[str, Any]]:
    return [json.loads(line) for line in paths.rankings.read_text().splitlines()]


def feedback(root: Path, files: dict[str, list[dict[str, Any]]]) -> Paths:
    paths = Paths(root)
    for name, rows in files.items():
        write_rows(paths.validated / "feedback" / name, rows)
    return paths


def ranking(identifier: str, ranks: list[int] | None = None, **fields: object) -> dict[str, Any]:
    row = {"id": identifier, "prompt": "p", "completions": ["a", "b", "c"], "annotator": "ann"}
    return {**row, "ranks": ranks or [1, 2, 3], **fields}


def people(**names: list[str]) -> RankParams:
    return RankParams(annotator="people", feedback=FeedbackParams(**names))


def test_the_simulated_annotator_ranks_by_gold_and_says_that_it_is_simulated(tmp_path: Path) -> None:
    """Without noise the order is gold's own, rank 1 for the highest; the row goes to any split."""
    paths = Paths(tmp_path)
    rows = rollouts(20)
    write_records(paths.rollouts, rows)
    metrics = run(paths, RankParams(noise=0.0))
    assert (metrics["rankings"], metrics["annotators"]) == (20, 1)
    for rollout, found in zip(rows, written(paths), strict=True):
        scores = [gold_score(str(rollout.prompt), text) for text in found["completions"]]
        assert found["ranks"] == [1 + sum(other > score for other in scores) for score in scores]
        assert found["id"] == f"{rollout.prompt_id}-r"
        assert (found["annotator"], found["source"], found["split"]) == ("simulated", "simulated", "any")


def test_a_simulated_ranking_depends_on_its_prompt_and_the_seed_not_on_the_order(tmp_path: Path) -> None:
    """Shuffled rollouts get the same ranks prompt by prompt; strong noise and another seed give others."""
    paths = Paths(tmp_path)
    rows = rollouts(30)
    seen = []
    for seed in (0, 0, 1):
        write_records(paths.rollouts, rows)
        run(paths, RankParams(noise=2.0, seed=seed))
        seen.append({row["id"]: row["ranks"] for row in written(paths)})
        random.Random(5).shuffle(rows)
    assert seen[0] == seen[1] != seen[2]


def test_people_s_rankings_carry_the_split_of_their_file_and_all_their_fields(tmp_path: Path) -> None:
    """Two files with two roles; ties of 1, 1, 3 are one couple of three, so one in six overall."""
    rows = [ranking("x", [1, 1, 3], unit=4, split="own")]
    paths = feedback(tmp_path, {"a.jsonl": rows, "sub/b.jsonl": [ranking("y", annotator="bo")]})
    metrics = run(paths, people(train=["a.jsonl.gz"], judge=["sub/b.jsonl"]))
    assert metrics == {"rankings": 2, "annotators": 2, "tie_share": 1 / 6}
    first, second = written(paths)
    assert (first["split"], first["unit"], first["source"]) == ("train", 4, "people")
    assert second["split"] == "judge"


@pytest.mark.parametrize(
    ("params", "message"),
    [
        (people(), "rank.feedback names no file; list files below data/feedback"),
        (
            people(test=["gone.jsonl"]),
            r"data/feedback/gone\.jsonl: no such file, though rank\.feedback\.test names",
        ),
        (people(train=["a.jsonl"], dev=["a.jsonl"]), r"names a\.jsonl under train and dev; name it once"),
        (people(any=["../a.jsonl"]), r"rank\.feedback\.any names \.\./a\.jsonl; expected a \.jsonl"),
        (people(any=["a.csv"]), r"expected a \.jsonl or \.jsonl\.gz file"),
        (people(any=["empty.jsonl"]), r"data/feedback/empty\.jsonl: validate kept no ranking of it"),
        (
            people(any=["a.jsonl", "b.jsonl"]),
            r"b\.jsonl:1: id 'x' is at data/validated/feedback/a\.jsonl:1",
        ),
        (RankParams(), r"rollouts\.jsonl: no such file"),
    ],
)
def test_feedback_that_is_missing_or_named_wrongly_is_a_clear_error(
    tmp_path: Path, params: RankParams, message: str
) -> None:
    """Each says which name is meant and what to do; nothing is written."""
    paths = feedback(tmp_path, {"a.jsonl": [ranking("x")], "b.jsonl": [ranking("x")], "empty.jsonl": []})
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        run(paths, params)
    assert not paths.rankings.exists()
