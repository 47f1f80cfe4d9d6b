"""Aliases that move together, whatever happens in between, and versions found by number or alias."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tasks.paths import Paths
from tasks.registry import versions
from tasks.tracking import mlflow_store

NAME = "nightjar"
KINDS = ("policy", "reward")


class PowerCut(BaseException):
    """The process dies: nothing after it runs, no handler either."""


@pytest.fixture
def client(tracked: Paths) -> Any:
    """Three versions of policy and reward model: policy n learnt from reward model n + 1, but the last from the first.

    Version 1 is champion, version 2 challenger.
    """
    client = mlflow_store.open_client(tracked)
    for kind in KINDS:
        client.create_registered_model(f"{NAME}-{kind}")
        for number in (1, 2, 3):
            client.create_model_version(f"{NAME}-{kind}", f"file:///{kind}/{number}", tags={"content": f"{number}"})
    for number, reward in ((1, 2), (2, 3), (3, 1)):
        versions.tag(client, f"{NAME}-policy", number, {"reward_version": str(reward)})
    versions.move(client, NAME, {"champion": 1, "challenger": 2})
    return client


def aliases(client: Any) -> dict[str, tuple[int | None, int | None]]:
    """Who has each alias: policy and reward model, read from the two models themselves."""
    found: list[dict[str, int]] = []
    for kind in KINDS:
        model = client.get_registered_model(f"{NAME}-{kind}")
        found.append({alias: int(version) for alias, version in model.aliases.items()})
    return {alias: (found[0].get(alias), found[1].get(alias)) for alias in sorted(found[0].keys() | found[1].keys())}


BEFORE = {"challenger": (2, 3), "champion": (1, 2)}
AFTER = {"challenger": (3, 1), "champion": (3, 1)}


def interrupt(
    monkeypatch: pytest.MonkeyPatch, client: Any, after: int, error: BaseException, lasting: bool = False
) -> None:
    """Lets so many aliases move and raises at the next one, once or for good."""
    good: Callable[..., None] = client.set_registered_model_alias
    calls: list[str] = []

    def set_alias(name: str, alias: str, version: str) -> None:
        calls.append(alias)
        if len(calls) == after + 1 or (lasting and len(calls) > after):
            raise error
        good(name, alias, version)

    monkeypatch.setattr(client, "set_registered_model_alias", set_alias)


def test_a_policy_takes_its_reward_model_along(client: Any) -> None:
    """Both aliases of both models; the reward model is the one that the policy's tag names."""
    assert aliases(client) == BEFORE
    versions.move(client, NAME, {"challenger": 3, "champion": 3})
    assert aliases(client) == AFTER
    assert "aliases.moving" not in client.get_registered_model(f"{NAME}-policy").tags


@pytest.mark.parametrize("after", range(4))
def test_when_a_move_fails_none_has_moved(client: Any, monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    """Whichever of the four calls it is: all are back where they were, and the error goes on."""
    interrupt(monkeypatch, client, after, OSError("disk full"))
    with pytest.raises(OSError, match="disk full"):
        versions.move(client, NAME, {"challenger": 3, "champion": 3})
    assert aliases(client) == BEFORE
    assert "aliases.moving" not in client.get_registered_model(f"{NAME}-policy").tags


def test_when_going_back_fails_too_the_next_command_goes_back(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The database is gone from the second call on; when it is there again, the next command repairs the aliases."""
    with monkeypatch.context() as broken:
        interrupt(broken, client, 1, OSError("disk full"), lasting=True)
        with pytest.raises(OSError, match="disk full"):
            versions.move(client, NAME, {"challenger": 3, "champion": 3})
    assert aliases(client) == {"challenger": (3, 3), "champion": (1, 2)}
    assert versions.champion_of(client, NAME).version == 1
    assert aliases(client) == BEFORE


@pytest.mark.parametrize("after", range(4))
def test_a_move_that_was_cut_off_is_ended_by_the_next_command(
    client: Any, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    """Killed before any of the four calls, the process had said where it was going: that is where all go."""
    with monkeypatch.context() as killed:
        interrupt(killed, client, after, PowerCut())
        with pytest.raises(PowerCut):
            versions.move(client, NAME, {"challenger": 3, "champion": 3})
    assert aliases(client) != AFTER
    assert versions.champion_of(client, NAME).version == 3
    assert aliases(client) == AFTER
    assert "aliases.moving" not in client.get_registered_model(f"{NAME}-policy").tags


def test_a_first_promotion_that_fails_leaves_no_alias(tracked: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where an alias was on nobody before, it is on nobody after."""
    client = mlflow_store.open_client(tracked)
    for kind in KINDS:
        client.create_registered_model(f"{NAME}-{kind}")
        client.create_model_version(f"{NAME}-{kind}", "file:///nowhere", tags={"reward_version": "1"})
    interrupt(monkeypatch, client, 3, OSError("disk full"))
    with pytest.raises(OSError, match="disk full"):
        versions.move(client, NAME, {"challenger": 1, "champion": 1})
    assert aliases(client) == {}
    assert versions.champion_of(client, NAME) is None


def test_an_alias_moved_by_hand_takes_the_reward_model_along_later(client: Any) -> None:
    """As in the MLflow UI: who moves the policy's alias alone gets the reward model's at the next command."""
    client.set_registered_model_alias(f"{NAME}-policy", "champion", "3")
    versions.repair_aliases(client, NAME)
    assert aliases(client) == {"challenger": (2, 3), "champion": (3, 1)}


def test_a_version_that_names_no_reward_model_leaves_it_where_it_was(client: Any) -> None:
    """Versions that were registered by hand carry no such tag."""
    versions.untag(client, f"{NAME}-policy", 3, ["reward_version"])
    versions.move(client, NAME, {"champion": 3})
    assert aliases(client) == {"challenger": (2, 3), "champion": (3, 2)}


@pytest.mark.parametrize(("which", "version"), [("3", 3), ("v3", 3), ("champion", 1), ("challenger", 2)])
def test_a_policy_is_found_by_number_or_alias(client: Any, which: str, version: int) -> None:
    """With the aliases that it has."""
    found = versions.get_policy(client, NAME, which)
    assert found.version == version
    assert list(found.aliases) == [alias for alias, (policy, _) in BEFORE.items() if policy == version]


@pytest.mark.parametrize("which", ["4", "v0", "best", "v", ""])
def test_an_unknown_version_lists_those_that_there_are(client: Any, which: str) -> None:
    """Numbers and aliases."""
    with pytest.raises(ValueError, match=r"no such version of nightjar-policy; give one of 1, 2, 3, or an alias"):
        versions.get_policy(client, NAME, which)


def test_an_empty_registry_says_how_to_fill_it(tracked: Paths) -> None:
    """With a database and no model in it, and without a database, which nobody then makes."""
    with pytest.raises(ValueError, match=r"no version of nightjar-policy is registered yet.*nightjar run"):
        versions.get_policy(mlflow_store.open_client(tracked), NAME, "champion")
    (tracked.mlruns / "mlflow.db").unlink()
    with pytest.raises(ValueError, match=r"nothing is registered here yet"):
        versions.open_existing(tracked)
    assert not (tracked.mlruns / "mlflow.db").exists()


def test_the_same_content_is_found_at_its_latest_version(client: Any) -> None:
    """Of the versions with this content; another model's version does not count."""
    again = client.create_model_version(f"{NAME}-policy", "file:///again", tags={"content": "2"})
    assert versions.find_version(client, f"{NAME}-policy", "2").version == again.version == 4
    assert versions.find_version(client, f"{NAME}-reward", "2").version == 2
    assert versions.find_version(client, f"{NAME}-policy", "9") is None
