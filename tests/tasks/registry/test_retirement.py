"""Versions taken out of service: aliases and tags, who refuses them, and an annotator's name taken out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tasks.paths import Paths
from tasks.registry import retirement, rollback, versions

NAME = "nightjar"


@pytest.fixture
def client(register_policies: Callable[[int, int], Any]) -> Any:
    """Three policies with the reward models of their numbers; 1, then 2, then 3 became champion."""
    client = register_policies(3, 3)
    versions.move(client, NAME, {"champion": 3, "challenger": 2})
    return client


def aliases(client: Any) -> list[dict[str, int]]:
    return [client.get_registered_model(f"{NAME}-{kind}").aliases for kind in ("policy", "reward")]


def test_aliases_of_retired_versions_go_from_both_models(client: Any) -> None:
    """Also the reward model's, which is not retired itself; the other alias stays."""
    with retirement.retired(client, {f"{NAME}-policy": [3]}, "2026: a letter"):
        pass
    assert aliases(client) == [{"challenger": 2}, {"challenger": 2}]
    assert client.get_model_version(f"{NAME}-policy", "3").tags["retired"] == "2026: a letter"
    assert "retired" not in client.get_model_version(f"{NAME}-reward", "3").tags


@pytest.mark.parametrize(("gone", "stays"), [("reward", "policy"), ("policy", "reward")])
def test_where_a_model_was_deleted_by_hand_the_other_is_retired(client: Any, gone: str, stays: str) -> None:
    """Whichever of the two is left: its alias goes, its version is marked, and nothing stops on the one that is not."""
    for alias in ("champion", "challenger"):
        client.delete_registered_model_alias(f"{NAME}-{gone}", alias)
    client.delete_registered_model(f"{NAME}-{gone}")
    with retirement.retired(client, {f"{NAME}-{stays}": [3]}, "x"):
        pass
    assert client.get_registered_model(f"{NAME}-{stays}").aliases == {"challenger": 2}
    assert "retired" in client.get_model_version(f"{NAME}-{stays}", "3").tags
    assert versions.champion_of(client, NAME) is None


def test_who_asks_for_the_champion_is_told_of_those_that_are_left(client: Any) -> None:
    """Retired ones are not offered; with none left, a night has to decide."""
    with retirement.retired(client, {f"{NAME}-policy": [1, 3]}, "x"):
        pass
    with pytest.raises(ValueError, match=r"is champion: it was never one, or was deleted or retired; give one of 2, "):
        versions.get_policy(client, NAME, "champion")
    with retirement.retired(client, {f"{NAME}-policy": [2]}, "x"):
        pass
    with pytest.raises(ValueError, match=r"or was deleted or retired; let a night decide \(nightjar run\)"):
        versions.get_policy(client, NAME, "champion")


def test_an_error_sets_all_back(client: Any) -> None:
    """Tags and aliases of both models."""
    before = aliases(client)

    def fail() -> None:
        with retirement.retired(client, {f"{NAME}-policy": [2, 3], f"{NAME}-reward": [3]}, "x"):
            raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        fail()
    assert aliases(client) == before
    assert not [n for n in (2, 3) if "retired" in client.get_model_version(f"{NAME}-policy", str(n)).tags]


def test_a_rollback_passes_over_retired_versions(tracked: Paths, client: Any) -> None:
    """Back from 3 leads to 1 when 2 is retired; when 1 is retired too, there is none."""
    with retirement.retired(client, {f"{NAME}-policy": [2]}, "x"):
        pass
    assert rollback.roll_back(tracked, NAME, None, "").version == 1
    rollback.roll_back(tracked, NAME, "3", "")
    with retirement.retired(client, {f"{NAME}-policy": [1]}, "x"):
        pass
    with pytest.raises(ValueError, match="every champion before nightjar-policy version 3 is retired"):
        rollback.roll_back(tracked, NAME, None, "")


def test_every_registered_name_is_known(client: Any) -> None:
    """Params may have another name by now."""
    client.create_registered_model("older-policy")
    client.create_registered_model("something")
    assert retirement.names(client) == [NAME, "older"]


def test_an_annotators_name_goes_and_the_count_stays(client: Any) -> None:
    """From the tag and the description; a version that does not name them is left alone."""
    model = f"{NAME}-policy"
    versions.tag(client, model, 1, {"annotators": '{"a|b": 3, "bo": 1}'})
    client.update_model_version(model, "1", "| rankings by a\\|b | 3 |\n| rankings by bo | 1 |\n")
    assert retirement.erase_annotator(client, model, 1, "a|b")
    version = client.get_model_version(model, "1")
    assert version.tags["annotators"] == '{"bo": 1, "forgotten": 3}'
    assert version.description == "| rankings by forgotten | 3 |\n| rankings by bo | 1 |\n"
    assert not retirement.erase_annotator(client, model, 2, "a|b")
