"""Back to an earlier champion: who it is, what moves along, what is recorded, and when there is none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tasks.paths import Paths
from tasks.registry import decisions, rollback, versions

NAME = "nightjar"


@pytest.fixture
def client(register_policies: Callable[[int, int], Any]) -> Any:
    """Four policies; 1, then 2, then 3 became champion, each with the reward model of its number; 4 never was."""
    client = register_policies(4, 3)
    versions.move(client, NAME, {"champion": 3})
    versions.move(client, NAME, {"challenger": 4})
    return client


@pytest.fixture
def champions(client: Any) -> Callable[[], tuple[int, int]]:
    """Called, it says which policy and reward model are champion."""

    def read() -> tuple[int, int]:
        found = [client.get_model_version_by_alias(f"{NAME}-{kind}", "champion") for kind in ("policy", "reward")]
        return int(found[0].version), int(found[1].version)

    return read


def test_back_goes_to_the_champion_before_with_its_reward_model(
    tracked: Paths, client: Any, champions: Callable[[], tuple[int, int]]
) -> None:
    """One step each time; the challenger stays who it is; before the first champion there is none."""
    assert rollback.roll_back(tracked, NAME, None, "too curt").version == 2
    assert champions() == (2, 2)
    rollback.roll_back(tracked, NAME, None, "too curt as well")
    assert champions() == (1, 1)
    assert client.get_model_version_by_alias(f"{NAME}-policy", "challenger").version == 4
    with pytest.raises(ValueError, match=r"version 1 is the first champion, so there is none to go back to.*--to"):
        rollback.roll_back(tracked, NAME, None, "further")
    assert champions() == (1, 1)


def test_a_rollback_is_recorded_with_its_reason(tracked: Paths, client: Any) -> None:
    """A line among the decisions, and a mark on the version that was taken back, which goes when it comes back."""
    rollback.roll_back(tracked, NAME, None, "too curt")
    [told] = decisions.read(tracked)
    assert (told.by, told.version, told.champion_before, told.champion_after) == ("rollback", 2, 3, 2)
    assert (told.promoted, told.reason, told.findings, told.figures) == (True, "too curt", [], {})
    assert client.get_model_version(f"{NAME}-policy", "3").tags["rolled_back"] == f"{told.when}: too curt"
    rollback.roll_back(tracked, NAME, "v3", "it was not")
    assert "rolled_back" not in client.get_model_version(f"{NAME}-policy", "3").tags
    assert client.get_model_version(f"{NAME}-policy", "2").tags["rolled_back"].endswith("it was not")
    assert [(told.champion_before, told.champion_after) for told in decisions.read(tracked)] == [(3, 2), (2, 3)]


def test_a_version_of_ones_choice_may_be_any(
    tracked: Paths, client: Any, champions: Callable[[], tuple[int, int]]
) -> None:
    """Also one that no gate promoted: from there the way back leads to who was champion before it."""
    rollback.roll_back(tracked, NAME, "challenger", "people like it")
    assert champions() == (4, 4)
    rollback.roll_back(tracked, NAME, None, "they do not")
    assert champions() == (3, 3)
    rollback.roll_back(tracked, NAME, "1", "back to the roots")
    assert champions() == (1, 1)


@pytest.mark.parametrize(
    ("to", "said"), [("3", "version 3 is the champion already"), ("9", "9: no such version"), ("x", "x: no such")]
)
def test_what_cannot_be_is_refused(
    tracked: Paths, client: Any, champions: Callable[[], tuple[int, int]], to: str, said: str
) -> None:
    """And changes nothing, and is no decision."""
    with pytest.raises(ValueError, match=said):
        rollback.roll_back(tracked, NAME, to, "")
    assert champions() == (3, 3)
    assert decisions.read(tracked) == []
    assert "rolled_back" not in client.get_model_version(f"{NAME}-policy", "3").tags


def test_a_champion_before_that_was_deleted_is_named(tracked: Paths, client: Any) -> None:
    """Somebody tidied the registry up."""
    client.delete_model_version(f"{NAME}-policy", "2")
    with pytest.raises(
        ValueError, match=r"version 2 was champion before version 3 and has been deleted; name another with --to"
    ):
        rollback.roll_back(tracked, NAME, None, "")


def test_a_rollback_that_fails_leaves_everything(
    tracked: Paths, client: Any, champions: Callable[[], tuple[int, int]]
) -> None:
    """The reward model's version is gone, so its alias cannot move: nor does the policy's, and nothing is recorded."""
    client.delete_model_version(f"{NAME}-reward", "2")
    with pytest.raises(ValueError, match="nightjar-reward version 2, which was deleted from the registry"):
        rollback.roll_back(tracked, NAME, None, "")
    assert champions() == (3, 3)
    assert decisions.read(tracked) == []
    assert "rolled_back" not in client.get_model_version(f"{NAME}-policy", "3").tags


def test_without_a_champion_there_is_nothing_to_go_back_from(tracked: Paths, client: Any) -> None:
    """It says so."""
    for kind in ("policy", "reward"):
        client.delete_registered_model_alias(f"{NAME}-{kind}", "champion")
    with pytest.raises(ValueError, match="nightjar-policy has no champion"):
        rollback.roll_back(tracked, NAME, None, "")
