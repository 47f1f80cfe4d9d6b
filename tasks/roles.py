"""The models of a night by the role that each plays: what it is called, the stage that makes it, where it lies."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Role:
    """One model.

    Attributes:
        key: its name in metrics and files.
        title: what people read.
        stage: the stage that makes it; None where it was there before.
        path: its folder in the workspace; None where it is not saved.
    """

    key: str
    title: str
    stage: str | None = None
    path: str | None = None

    @property
    def heading(self) -> str:
        """The title as a sentence begins."""
        return self.title[0].upper() + self.title[1:]


ROLES = {
    role.key: role
    for role in (
        Role("base", "base model"),
        Role("sft", "SFT", "sft", "data/models/sft"),
        Role("policy", "policy", "policy", "data/models/policy"),
        Role("best_of_n", "best of n", "evaluate"),
        Role("reward", "reward model", "reward", "data/models/reward"),
        Role("judge", "judge", "reward", "data/models/judge"),
    )
}
POLICIES = ("sft", "policy")
"""The language models that a night trains; samples of both are kept, and the second is to beat the first."""
CONTESTANTS = (*POLICIES, "best_of_n")
"""Whose completions are set side by side."""
FAMILY = ("base", *POLICIES)
"""Each language model after the one that it was trained from."""
SCORERS = ("reward", "judge")
"""The models that score completions, which may differ from night to night; gold is one function."""
