"""The table of model roles: one row a model, and the folders are those that its stage writes."""

from __future__ import annotations

from tasks import roles
from tasks.registry.versions import KINDS
from tasks.roles import ROLES
from tasks.stages import STAGES


def test_a_models_folder_is_an_output_of_the_stage_that_makes_it() -> None:
    """So that no path stands twice with two meanings; what is not saved has none."""
    saved = {role.key: role for role in ROLES.values() if role.path}
    assert set(saved) == {"sft", "policy", "reward", "judge"}
    for role in saved.values():
        assert role.path in STAGES[str(role.stage)].writes


def test_the_lists_of_roles_are_of_the_table() -> None:
    """Also the names that evaluate gives its contestants and those that are registered."""
    for listed in (roles.POLICIES, roles.CONTESTANTS, roles.FAMILY, roles.SCORERS, KINDS):
        assert set(listed) <= set(ROLES)
