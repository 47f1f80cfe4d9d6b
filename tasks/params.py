"""params.yaml, read once into frozen strict models: one section per stage, plus `model`.

The only module that imports yaml.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import Field, ValidationError, model_validator

from rlhf.settings import (
    ModelSettings,
    NonNegative,
    Positive,
    PpoSettings,
    RewardSettings,
    RolloutSettings,
    Settings,
    SftSettings,
    Share,
)
from tasks.files import explain


class IngestParams(Settings):
    """Where demonstrations and prompts come from."""

    source: str = "builtin"
    """`builtin`, a path below data/source/ (JSONL, CSV or a folder of them), or `hub:ORG/NAME`."""
    demonstrations: Positive = 2500
    """builtin: demonstrations to generate (and as many general ones)."""
    prompts: Positive = 900
    """builtin: prompts to generate (train, dev and test together)."""
    limit: Positive | None = None
    """Keep at most this many demonstrations, and at most this many general ones."""
    general: str | None = None
    """Demonstrations of other tasks, which the policy must not forget: a source as above; null is none.

    evaluate then tells how much was forgotten; sft.replay and ppo.ptx_coefficient work against it.
    """
    seed: NonNegative = 0


class SplitParams(Settings):
    """Shares of prompts that are held out; the rest is trained on."""

    dev_share: Share
    test_share: Share

    @model_validator(mode="after")
    def _something_to_train_on(self) -> Self:
        if self.dev_share + self.test_share >= 1.0:
            raise ValueError(
                f"dev_share {self.dev_share} and test_share {self.test_share} leave nothing to train on; "
                "let them sum to less than 1"
            )
        return self


class ValidateParams(SplitParams):
    """What the data must hold to before anything learns from it."""

    dev_share: Share = 0.05
    test_share: Share = 0.1
    """Shares of prompts; rows that carry a `split` of their own keep it."""
    max_prompt_tokens: Positive = 128
    max_response_tokens: Positive = 96
    max_rejected_share: Share = 0.05
    """A larger share of quarantined rows stops the night."""
    max_tie_share: Share = 0.6
    """A larger share of tied pairs in the feedback is reported as a warning."""
    min_annotators: Positive = 1
    """Fewer annotators per ranked item are reported as a warning."""
    seed: NonNegative = 0


class FeedbackParams(Settings):
    """Files below data/feedback/, by the split that their rankings go to."""

    train: list[str] = []
    dev: list[str] = []
    test: list[str] = []
    judge: list[str] = []
    """Rankings that only the judge learns from; the reward model never sees them."""
    any: list[str] = []
    """Split by prompt, as pairs' shares say."""


class RankParams(Settings):
    """Who ranks: the simulated annotator (rollouts of the builtin corpus) or people (files)."""

    annotator: Literal["simulated", "people"] = "simulated"
    noise: Annotated[float, Field(ge=0.0)] = 0.12
    """simulated: standard deviation of the noise on the gold score."""
    feedback: FeedbackParams = FeedbackParams()
    seed: NonNegative = 0


class PairsParams(SplitParams):
    """How rankings become pairs."""

    dev_share: Share = 0.05
    test_share: Share = 0.1
    judge_share: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """Share of the train prompts of rank.feedback.any whose rankings only the judge learns from."""
    max_completion_tokens: Positive = 96
    """Completions that are the same up to this many tokens are the same to the reward model."""
    seed: NonNegative = 0


class EvaluateParams(Settings):
    """What the policy is measured by, on prompts that no other stage saw."""

    max_prompts: Positive | None = None
    samples: Positive = 2
    """Sampled completions per prompt for reward, gold and the win rate."""
    best_of: Annotated[int, Field(ge=2)] = 8
    bootstrap: Positive = 2000
    shots: list[NonNegative] = []
    """Also evaluate with so many demonstrations in the prompt: [0, 1, 4], say; base model, SFT and policy."""
    max_new_tokens: Positive = 64
    batch_size: Positive = 64
    seed: NonNegative = 0


class RegisterParams(Settings):
    """The gates between challenger and champion."""

    name: str = "nightjar"
    """Registered models are called <name>-policy and <name>-reward."""
    min_win_rate_low: Share = 0.5
    """The lower bound of the win rate's interval must lie above this, over SFT and over the champion."""
    max_rouge_drop: Annotated[float, Field(ge=0.0)] | None = 0.02
    """The policy's ROUGE-L may lie this far below SFT's (0 to 1 scale)."""
    max_bleu_drop: Annotated[float, Field(ge=0.0)] | None = None
    """The policy's BLEU may lie this far below SFT's (0 to 100 scale)."""
    max_kl: Annotated[float, Field(gt=0.0)] | None = 10.0
    """KL to SFT, nats per sequence."""
    monitor_clean: bool = True
    """Where ppo.monitor watched, the policy that is kept must be one that it warned of nothing."""
    max_forgetting: Annotated[float, Field(ge=0.0)] | None = None
    """How far the loss on general demonstrations may lie above SFT's, nats per token; needs ingest.general."""


class NightParams(Settings):
    """When nights run, and what surrounds them; no stage reads this, so a change here reruns nothing."""

    cron: str = "0 2 * * *"
    timezone: str = "UTC"
    missed: Literal["catch_up", "skip"] = "catch_up"
    """What becomes of a night whose time passed while nothing was running: it starts late, once, or not at all."""
    deadline_minutes: Annotated[float, Field(gt=0.0)] | None = None
    """A night that still works after so long saves what it has and ends; the next one goes on from there."""
    notify: str | None = None
    """A shell command run after a night with NIGHTJAR_OUTCOME set and the night as JSON on standard input."""
    notify_on: list[Literal["promoted", "not promoted", "failed", "deadline", "missed", "nothing new"]] = ["failed"]
    seeds: list[NonNegative] = []
    """More seeds to train each night, beside the params' own; the best by a held-out score goes on."""
    variants: dict[str, dict[str, Any]] = {}
    """Settings to try each night, by name, each with the sections and params that it changes."""


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
    ppo: PpoSettings
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

    def section(self, name: str) -> Settings:
        """The section called `name` in params.yaml."""
        return next(
            getattr(self, field) for field, info in type(self).model_fields.items() if name in (field, info.alias)
        )


def read_params(path: Path) -> Params:
    """Reads and checks params.yaml.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not YAML, or a param is misspelt, of a wrong type or out of range.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; copy a preset there with: nightjar preset tiny")
    return _check(_read_sections(path), str(path))


def read_variants(path: Path, base: Path) -> dict[str, Params]:
    """Params by name, each params.yaml with some params changed.

    Args:
        path: YAML, from name to the sections and params that differ: `rloo: {ppo: {algorithm: rloo, completions: 4}}`.
        base: the params.yaml that they differ from.

    Raises:
        FileNotFoundError: one of the files is missing.
        ValueError: it is not YAML, or a variant's params are misspelt, of a wrong type or out of range.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; give YAML that names variants, each with the params it changes")
    content = _read_sections(base)
    return {
        str(name): _check(_merge(content, changes or {}), f"{path}: {name}")
        for name, changes in _read_sections(path).items()
    }


def _read_sections(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path}: not YAML: {error}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path}: found {type(content).__name__}; expected sections such as model: and sft:")
    return content


def _check(content: dict[str, Any], place: str) -> Params:
    try:
        return Params.model_validate(content)
    except ValidationError as error:
        raise ValueError(f"{place}: {explain(error)}") from None


def _merge(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """The base with the changes in it, group by group."""
    merged = dict(base)
    for key, value in changes.items():
        both = isinstance(value, dict) and isinstance(base.get(key), dict)
        merged[key] = _merge(base[key], value) if both else value
    return merged
