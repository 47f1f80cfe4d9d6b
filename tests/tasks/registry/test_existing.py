"""A registry that people edited by hand: what is there is asked, and what is gone is named."""

from __future__ import annotations

from collections.abc import Callable
from math import nan
from typing import Any

import pytest

from tasks.files import write_json
from tasks.paths import Paths
from tasks.registry import decisions, existing, lineage, retirement, rollback, versions
from tasks.registry.decisions import Decision
from tasks.scheduling import status

NAME = "nightjar"
AGAIN = "a night registers and decides again: nightjar run"


@pytest.fixture
def client(tracked: Paths, register_policies: Callable[[int, int], Any]) -> Any:
    """Three policies, each from the reward model of its number; 1 and then 2 became champion, 3 did not."""
    client = register_policies(3, 2)
    versions.move(client, NAME, {"champion": 2, "challenger": 3})
    for version, after in ((2, 2), (3, 2)):
        decisions.append(tracked, decision(version, after))
    made = {kind: {"name": f"{NAME}-{kind}", "version": 3} for kind in ("policy", "reward")}
    write_json(tracked.registered, made)
    return client


def decision(version: int, after: int | None) -> Decision:
    """Of the gates, on a day of its number."""
    return Decision(
        when=f"day {version}",
        version=version,
        promoted=version == after,
        by="gates",
        reason="won" if version == after else "lost",
        findings=[],
        figures={"policy.kl": nan},  # what is no number is written down as well
        champion_before=None,
        champion_after=after,
    )


@pytest.fixture
def delete(client: Any) -> Callable[..., None]:
    """Deletes as MLflow's UI does: a version of a kind, or without a number the whole model."""

    def edit(kind: str, number: int | None = None) -> None:
        model = f"{NAME}-{kind}"
        if number is not None:
            client.delete_model_version(model, str(number))
            return
        for alias in dict(client.get_registered_model(model).aliases):
            client.delete_registered_model_alias(model, alias)
        client.delete_registered_model(model)

    return edit


def holders(client: Any, kind: str) -> dict[str, int]:
    """Who has which alias."""
    return {alias: int(number) for alias, number in client.get_registered_model(f"{NAME}-{kind}").aliases.items()}


def test_the_tables_say_what_mlflow_says(tracked: Paths, client: Any, delete: Callable[..., None]) -> None:
    """Versions, aliases and who learnt from what, also after a deletion; nothing of a name that nobody has."""
    delete("policy", 1)
    delete("reward", 3)
    now = existing.read(tracked, NAME)
    for kind, found in (("policy", now.policies), ("reward", now.rewards)):
        assert found == {int(each.version) for each in client.search_model_versions(f"name = '{NAME}-{kind}'")}
    assert now.aliases == holders(client, "policy") == {"champion": 2, "challenger": 3}
    assert (now.reward_of[2], now.reward_of[3]) == (2, 3)
    assert existing.read(tracked, "other") == (frozenset(), frozenset(), {}, {}, {})


def test_where_all_is_there_nothing_is_said(tracked: Paths, client: Any) -> None:
    """And register has nothing to do."""
    assert existing.notices(tracked, NAME) == []
    assert not existing.must_register(tracked, NAME)
    assert status.champion(tracked, NAME) == "policy version 2 since day 2: won"


@pytest.mark.parametrize(
    ("deleted", "again", "champion"),
    [
        ([("policy", 1)], False, "policy version 2 since day 2: won"),
        ([("policy", 2)], True, f"none; {NAME}-policy version 2 is gone from the registry; {AGAIN}"),
        (
            [("policy", None)],
            True,
            f"none; {NAME}-policy version 2 is gone from the registry; {AGAIN}; "
            f"{NAME}-policy version 3 is gone from the registry; {AGAIN}",
        ),
        (
            [("reward", 3)],
            True,
            f"policy version 2 since day 2: won; {NAME}-reward version 3 is gone from the registry; {AGAIN}",
        ),
        (
            [("reward", 2)],
            False,
            f"policy version 2 since day 2: won; {NAME}-reward version 2, from which the champion learnt, is gone from "
            "the registry; the policy answers without it, and the next promotion brings both",
        ),
    ],
)
def test_what_is_gone_is_named_and_what_a_night_can_make_again_it_makes(
    tracked: Paths, delete: Callable[..., None], deleted: list[tuple[str, int | None]], again: bool, champion: str
) -> None:
    """An old version is missed by nobody; of the last ones and the champion each is named, with what to do."""
    for kind, number in deleted:
        delete(kind, number)
    assert existing.must_register(tracked, NAME) is again
    assert status.champion(tracked, NAME) == champion


def test_an_alias_that_was_moved_or_removed_by_hand_is_believed(tracked: Paths, client: Any) -> None:
    """Status goes by the registry, not by the last decision; nothing is registered again for it."""
    client.set_registered_model_alias(f"{NAME}-policy", "champion", "1")
    assert status.champion(tracked, NAME) == "policy version 1, made so in the registry itself"
    client.delete_registered_model_alias(f"{NAME}-policy", "champion")
    assert status.champion(tracked, NAME) == (
        "none: version 2 was, and has lost the alias; give it back: nightjar rollback --to 2"
    )
    assert not existing.must_register(tracked, NAME)


def test_a_champion_that_was_retired_is_none_whatever_the_decisions_and_aliases_say(
    tracked: Paths, client: Any
) -> None:
    """Also where the process died before it was written down, and where somebody gave it the alias again by hand."""
    again = "; name another (nightjar rollback --to VERSION), or let a night decide (nightjar run)"
    with retirement.retired(client, {f"{NAME}-policy": [2]}, "2026: a letter"):
        pass
    assert existing.read(tracked, NAME).retired == {2: "2026: a letter"}
    assert status.champion(tracked, NAME) == f"none: version 2 was, and was retired (2026: a letter){again}"
    forgotten = decision(2, None).model_copy(update={"by": "forget", "champion_before": 2})
    refused = decision(3, None)
    for row in (forgotten, refused):
        decisions.append(tracked, row)
        assert status.champion(tracked, NAME) == f"none: version 2 was, and was retired (2026: a letter){again}"
    client.set_registered_model_alias(f"{NAME}-policy", "champion", "2")
    assert status.champion(tracked, NAME) == f"none: version 2 has the alias, and was retired (2026: a letter){again}"
    client.delete_registered_model_alias(f"{NAME}-policy", "champion")
    rollback.roll_back(tracked, NAME, "3", "until tonight")
    assert status.champion(tracked, NAME).startswith("policy version 3 since ")


def test_a_reward_model_that_is_gone_leaves_its_policy_at_work(client: Any, delete: Callable[..., None]) -> None:
    """The champion is found and told of; no other policy's reward model has its alias; lineage says what is gone."""
    delete("reward", 2)
    client.set_registered_model_alias(f"{NAME}-reward", "champion", "1")
    champion = versions.champion_of(client, NAME)
    assert champion.version == 2
    assert "champion" not in holders(client, "reward")
    assert "nightjar-reward version 2, deleted from the registry" in lineage.render(lineage.trace(client, champion))


def test_back_from_such_a_champion_and_not_to_one(tracked: Paths, client: Any, delete: Callable[..., None]) -> None:
    """Policy and reward model move together, so who lost the one is not gone back to."""
    delete("reward", 2)
    assert rollback.roll_back(tracked, NAME, None, "too curt").version == 1
    with pytest.raises(ValueError, match=r"version 2 learnt from nightjar-reward version 2, which was deleted"):
        rollback.roll_back(tracked, NAME, "2", "again")
    assert (holders(client, "policy")["champion"], holders(client, "reward")["champion"]) == (1, 1)


def test_where_the_champion_is_gone_another_can_be_named(
    tracked: Paths, client: Any, delete: Callable[..., None]
) -> None:
    """Without --to there is nothing to go back from, and the message says what to do."""
    delete("policy", 2)
    with pytest.raises(ValueError, match=r"no champion \(there never was one, or it was deleted or retired\).*--to"):
        rollback.roll_back(tracked, NAME, None, "")
    with pytest.raises(ValueError, match=r"no version of nightjar-policy is champion.*give one of 1, 3, make one"):
        versions.get_policy(client, NAME, "champion")
    assert rollback.roll_back(tracked, NAME, "3", "it will do").champion_before is None
    assert (holders(client, "policy")["champion"], holders(client, "reward")["champion"]) == (3, 3)


def test_a_move_that_was_cut_off_before_its_target_went_is_no_dead_end(
    client: Any, delete: Callable[..., None]
) -> None:
    """The next command drops the alias of what is gone, and goes on."""
    moving = '{"champion": {"policy": 1, "reward": 1}}'
    client.set_registered_model_tag(f"{NAME}-policy", versions.MOVING, moving)
    delete("policy", 1)
    assert versions.champion_of(client, NAME) is None
    assert holders(client, "policy") == {"challenger": 3}
