"""The whole of params.yaml, read once into frozen strict models: one section per stage, plus `model` and `night`.

The only module that imports yaml.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Self

import yaml
from pydantic import Field, ValidationError, model_validator

from rlhf.settings.base import Settings
from rlhf.settings.model import ModelSettings
from rlhf.settings.policy import PolicySettings
from rlhf.settings.reward import RewardSettings
from rlhf.settings.rollouts import RolloutSettings
from rlhf.settings.sft import SftSettings
from tasks.files import explain
from tasks.params.evaluate import EvaluateParams
from tasks.params.ingest import IngestParams
from tasks.params.night import NightParams
from tasks.params.pairs import PairsParams
from tasks.params.rank import RankParams
from tasks.params.register import RegisterParams
from tasks.params.validate import ValidateParams

RENAMED = {"ppo": "policy"}
"""Sections by the name that they had before."""
GONE = {
    ("pairs", "max_completion_tokens"): "reward.max_completion_tokens is the one param of this now: give it the value",
    ("evaluate", "bootstrap"): "the win rate's interval is computed now, and draws nothing",
}
"""Params by section and name, as they were before, and why they went."""


class Params(Settings):
    """The whole of params.yaml."""

    model: ModelSettings
    ingest: IngestParams = IngestParams()
    validate_: Annotated[ValidateParams, Field(alias="validate")] = ValidateParams()
    sft: SftSettings
    rollouts: RolloutSettings = RolloutSettings()
    rank: RankParams = RankParams()
    pairs: PairsParams = PairsParams()
    reward: RewardSettings
    policy: PolicySettings
    evaluate: EvaluateParams = EvaluateParams()
    register_: Annotated[RegisterParams, Field(alias="register")] = RegisterParams()
    night: NightParams = NightParams()

    @model_validator(mode="after")
    def _judge_has_rankings(self) -> Self:
        feedback = self.rank.feedback
        if self.rank.annotator == "people" and not feedback.judge and not (feedback.any and self.pairs.judge_share):
            raise ValueError(
                "rank.annotator is people, but no rankings are held out for the judge, so nothing independent could "
                "tell whether the policy is better; name files in rank.feedback.judge, or set pairs.judge_share (0.3, "
                "say) when rank.feedback.any has files"
            )
        return self

    @model_validator(mode="after")
    def _adapter_has_a_base(self) -> Self:
        if self.sft.adapter is not None and self.model.name is None:
            raise ValueError(
                "sft.adapter keeps the base model's weights as they are, but model.config builds random ones that know "
                "nothing; name a trained model in model.name, or set sft.adapter to null"
            )
        return self

    @model_validator(mode="after")
    def _forgetting_is_measured(self) -> Self:
        if self.register_.max_forgetting is not None and self.ingest.general is None:
            raise ValueError(
                "register.max_forgetting bounds the loss on general demonstrations, but ingest.general names none; "
                "name a source of them there, or set register.max_forgetting to null"
            )
        return self

    def section(self, name: str) -> Settings:
        """The section called `name` in params.yaml."""
        section: Settings = next(
            getattr(self, field) for field, info in type(self).model_fields.items() if name in (field, info.alias)
        )
        return section


def read_params(path: Path) -> Params:
    """Reads and checks params.yaml.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not YAML, or a param is misspelt, of a wrong type or out of range.
    """
    return check(read_sections(path), str(path))


def read_sections(path: Path) -> dict[str, Any]:
    """The sections of a params file, unchecked.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not YAML, or holds no sections.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; copy a preset there with: nightjar preset tiny")
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except yaml.YAMLError as error:
        raise ValueError(f"{path}: not YAML: {error}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path}: found {type(content).__name__}; expected sections such as model: and sft:")
    return content


def check(content: dict[str, Any], source: str) -> Params:
    """The params of these sections; raises ValueError that opens with `source`."""
    night = content.get("night")
    variants = night.get("variants") if isinstance(night, dict) else None
    for where, sections in {"": content, **(variants if isinstance(variants, dict) else {})}.items():
        for old in RENAMED.keys() & (sections if isinstance(sections, dict) else {}):
            at = f"night.variants.{where}.{old}" if where else old
            raise ValueError(
                f"{source}: {at}: this section is called {RENAMED[old]} now; rename it (what was {old}.X is "
                f"{RENAMED[old]}.X, in `dvc exp run -S` too)"
            )
        for (section, name), why in GONE.items():
            given = sections.get(section) if isinstance(sections, dict) else None
            if isinstance(given, dict) and name in given:
                at = f"night.variants.{where}.{section}.{name}" if where else f"{section}.{name}"
                raise ValueError(f"{source}: {at}: {why}; take it out here (it is {given[name]})")
    try:
        return Params.model_validate(content)
    except ValidationError as error:
        raise ValueError(f"{source}: {explain(error)}") from None


def dump(sections: dict[str, Any]) -> str:
    """Sections as the text of a params file."""
    return yaml.safe_dump(sections, sort_keys=False, allow_unicode=True)


class _Loader(yaml.SafeLoader):
    """Takes 1e-05 for a number, as DVC does, which writes it so (`dvc exp run -S`); PyYAML alone reads a text."""


_Loader.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), "-+0123456789")
