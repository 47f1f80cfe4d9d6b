"""What learnt from rows: along digests, through gone data, through a champion, and no further."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from tasks.erasure import descent
from tasks.erasure.descent import DID, MAY, NOT
from tasks.erasure.request import Request
from tasks.paths import Paths
from tasks.registry import versions
from tasks.tracking import mlflow_store

ROW = Request("row", "d1")


def tags_of(number: int, **other: str) -> dict[str, str]:
    """The digests of a night whose data are all its own, but for those given (`train` for data/validated/train)."""
    paths = {
        **{name: f"data/validated/{name}" for name in ("train", "dev", "test", "feedback")},
        **{name: f"data/models/{name}" for name in ("sft", "reward", "judge", "policy")},
        **{name: f"data/{name}" for name in ("raw", "rollouts", "rankings", "pairs", "champion")},
    }
    return {f"data.{path}": other.get(name, f"{name}{number}") for name, path in paths.items()}


@pytest.fixture
def client(tracked: Paths) -> Any:
    """A store with the two registered models."""
    client = mlflow_store.open_client(tracked)
    for kind in ("policy", "reward"):
        client.create_registered_model(f"nightjar-{kind}")
    return client


def register(client: Any, number: int, **tags: str) -> None:
    """A policy and a reward model of such a night."""
    made = tags_of(number, **tags)
    for kind in ("policy", "reward"):
        own = {**made, "content": made[f"data.data/models/{kind}"]} | {n: t for n, t in tags.items() if "." not in n}
        client.create_model_version(f"nightjar-{kind}", "file:///nowhere", tags=own)


def levels(client: Any, request: Request, holding: set[str], known: set[str]) -> dict[str, int]:
    """By version (p1: policy 1), whether it learnt."""
    traced = descent.trace(client, [], request, holding, known | holding)
    return {f"{each.model.rpartition('-')[2][0]}{each.version}": each.level for each in traced.versions}


def all_data(*numbers: int) -> set[str]:
    names = ("train", "dev", "test", "feedback", "raw", "rankings")
    return {f"{name}{number}" for number in numbers for name in names}


def test_a_night_that_held_the_rows_and_no_other(client: Any) -> None:
    """What was in train reaches SFT, and from there both models."""
    register(client, 1)
    register(client, 2)
    assert levels(client, ROW, {"raw1", "train1"}, all_data(1, 2)) == {"p1": DID, "r1": DID, "p2": NOT, "r2": NOT}


def test_rows_that_validation_set_aside_taught_nothing(client: Any) -> None:
    """They are in data/raw, and in no split."""
    register(client, 1)
    assert levels(client, ROW, {"raw1"}, all_data(1)) == {"p1": NOT, "r1": NOT}


def test_a_test_prompt_is_measured_on(client: Any) -> None:
    """The policy is said to be; nothing learnt."""
    register(client, 1)
    traced = descent.trace(client, [], ROW, {"raw1", "test1"}, all_data(1))
    assert [(each.model, each.level, each.tested) for each in traced.versions] == [
        ("nightjar-policy", NOT, True),
        ("nightjar-reward", NOT, False),
    ]


def test_whoever_starts_from_a_champion_that_learnt_has_learnt(client: Any) -> None:
    """2 began with 1's weights, and 3 with 2's; their own data are free of the rows."""
    register(client, 1)
    register(client, 2, champion="policy1")
    register(client, 3, champion="policy2")
    register(client, 4, champion="other")
    found = levels(client, ROW, {"train1"}, all_data(1, 2, 3, 4))
    assert [found[f"p{number}"] for number in (1, 2, 3, 4)] == [DID, DID, DID, NOT]


def test_where_the_data_are_gone_it_may_have(client: Any) -> None:
    """Of night 1 nothing is left to read; of night 2 all is, and holds none."""
    register(client, 1)
    register(client, 2)
    assert levels(client, ROW, set(), all_data(2)) == {"p1": MAY, "r1": MAY, "p2": NOT, "r2": NOT}


def test_gone_splits_of_data_that_are_known_to_be_free_are_free(client: Any) -> None:
    """What is not in data/raw is in no split of it."""
    register(client, 1)
    assert levels(client, ROW, set(), {"raw1"}) == {"p1": NOT, "r1": NOT}


def test_an_annotator_is_known_when_the_rankings_are_gone(client: Any) -> None:
    """The version says who made them."""
    register(client, 1, annotators='{"ana": 3}')
    register(client, 2, annotators='{"bo": 3}')
    found = levels(client, Request("annotator", "ana"), set(), set())
    assert found == {"p1": DID, "r1": DID, "p2": NOT, "r2": NOT}


def test_versions_whose_retirement_is_on_record_are_not_asked_again(client: Any) -> None:
    """They are named in the record of their time; where there is none, the command was cut off before it."""
    register(client, 1)
    for kind in ("policy", "reward"):
        versions.tag(client, f"nightjar-{kind}", 1, {"retired": "2026"})
    known, recorded = all_data(1), {"nightjar-policy version 1", "nightjar-policy version 12"}
    found = descent.trace(client, [], ROW, {"train1"}, known, recorded).versions
    assert [(each.name, each.level, each.retired) for each in found] == [("nightjar-reward version 1", DID, True)]


def run(number: int, stage: str, reads: dict[str, str], writes: dict[str, str]) -> Any:
    """A run as MLflow returns it."""
    inputs = [SimpleNamespace(dataset=SimpleNamespace(name=path, digest=digest)) for path, digest in reads.items()]
    tags = {"stage": stage, **{f"output.{path}": digest for path, digest in writes.items()}}
    return SimpleNamespace(
        info=SimpleNamespace(run_id=f"run{number}"),
        data=SimpleNamespace(tags=tags),
        inputs=SimpleNamespace(dataset_inputs=inputs),
    )


def test_runs_name_models_that_nobody_registered() -> None:
    """Whichever order they stand in; a run on other data is not among them."""
    runs = [
        run(1, "policy", {"data/models/sft": "s"}, {"data/models/policy": "p"}),
        run(2, "sft", {"data/validated/train": "t"}, {"data/models/sft": "s"}),
        run(3, "sft", {"data/validated/train": "u"}, {"data/models/sft": "v"}),
        run(4, "", {"data/validated/train": "t"}, {}),
    ]
    traced = descent.trace(None, runs, ROW, {"t"}, {"t", "u"})
    assert traced.runs == ["run1", "run2", "run4"]
    assert traced.models == {"data/models/sft": ["s"], "data/models/policy": ["p"]}
    assert traced.data == {"data/validated/train": ["t"]}


def test_pairs_of_rankings_that_hold_the_rows_are_known() -> None:
    """A pair has no id: nothing else would say where it came from."""
    runs = [run(1, "pairs", {"data/rankings": "r", "data/models/sft/tokenizer.json": "k"}, {"data/pairs": "q"})]
    assert descent.trace(None, runs, ROW, {"r"}, {"r"}).pairs == {"q"}
    assert descent.trace(None, runs, ROW, {"k"}, {"k", "r"}).pairs == set()
