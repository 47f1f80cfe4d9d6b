"""params.yaml, read once into frozen strict models: one section per stage, plus `model`.

The only module that imports yaml.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
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
from tasks.nights.cron import check as check_schedule

AS_THEY_ARE = "params.yaml"
"""The name of the variant that changes nothing."""
TRIED = ("model", "sft", "rollouts", "rank", "pairs", "reward", "ppo")
"""The sections in which candidates of one night may differ."""
SEEDED = ("sft", "rollouts", "reward", "ppo")
"""The sections that a further seed of a night goes to: what learns and what samples, but not the data."""


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


NightOutcome = Literal["promoted", "not promoted", "failed", "interrupted", "deadline", "missed", "nothing new"]


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
    notify_on: list[NightOutcome] = ["failed"]
    seeds: list[NonNegative] = []
    """More seeds to train each night, beside the params' own; the best by a held-out score goes on."""
    variants: dict[str, dict[str, Any]] = {}
    """Settings to try each night with every seed, by name, each with the sections and params that it changes."""
    parallel: Positive = 1
    """Seeds and variants that are trained at once, each in a process of its own."""

    @model_validator(mode="after")
    def _has_a_next_time(self) -> Self:
        check_schedule(self.cron, self.timezone)
        return self

    @model_validator(mode="after")
    def _variants_compare(self) -> Self:
        for name, changes in self.variants.items():
            if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name) or name == AS_THEY_ARE:
                raise ValueError(f"variants: {name!r} cannot name a folder of its own; use letters, digits, - and _")
            if fixed := [section for section in changes if section not in TRIED]:
                raise ValueError(
                    f"variants: {name} changes {', '.join(fixed)}, but all candidates of a night learn from the same "
                    f"data and are measured alike; change {', '.join(TRIED)}, and the rest in params.yaml itself"
                )
        return self


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
        return next(
            getattr(self, field) for field, info in type(self).model_fields.items() if name in (field, info.alias)
        )


def read_params(path: Path) -> Params:
    """Reads and checks params.yaml.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not YAML, or a param is misspelt, of a wrong type or out of range.
    """
    return read_candidates(path)[0].params


@dataclass(frozen=True)
class Candidate:
    """One way to train a night: params.yaml with some params changed.

    Attributes:
        name: tells it from the others of its night; a folder and a run are called so.
        variant: the name of its settings; candidates of one variant differ by seed alone.
        seed: a further seed; None is the settings' own.
        params: as checked.
        text: the params.yaml that it is trained by.
    """

    name: str
    variant: str
    seed: int | None
    params: Params
    text: str


def read_candidates(path: Path) -> list[Candidate]:
    """The candidates of a night: params.yaml as it is first, each variant, and all of them with each further seed.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: as read_params, also for what a variant makes of the params; or two candidates are the same.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; copy a preset there with: nightjar preset tiny")
    text = path.read_text(encoding="utf-8")
    content = _read_sections(path)
    as_they_are = _check(content, str(path))
    night, found = as_they_are.night, [Candidate(AS_THEY_ARE, AS_THEY_ARE, None, as_they_are, text)]
    for variant, changes in {AS_THEY_ARE: {}, **night.variants}.items():
        for seed in (None, *night.seeds):
            if (variant, seed) == (AS_THEY_ARE, None):
                continue
            parts = [variant] * (variant != AS_THEY_ARE) + [f"seed-{seed}"] * (seed is not None)
            found.append(_candidate("-".join(parts), variant, seed, _merge(content, changes), path))
    for place, candidate in enumerate(found):
        for other in found[:place]:
            if candidate.name == other.name or _settings(candidate) == _settings(other):
                raise ValueError(
                    f"{path}: night.seeds and night.variants: {candidate.name} would train the same as {other.name}, "
                    "or is called the same; leave one of them out"
                )
    return found


def _candidate(name: str, variant: str, seed: int | None, content: dict[str, Any], path: Path) -> Candidate:
    """A candidate by its params; what surrounds its night is params.yaml's, but it has no candidates of its own."""
    seeded = _merge(content, {section: {"seed": seed} for section in SEEDED} if seed is not None else {})
    night = {key: value for key, value in (seeded.get("night") or {}).items() if key not in ("seeds", "variants")}
    seeded = {key: value for key, value in seeded.items() if key != "night"} | ({"night": night} if night else {})
    params = _check(seeded, f"{path}: night.variants: {name}")
    return Candidate(name, variant, seed, params, yaml.safe_dump(seeded, sort_keys=False, allow_unicode=True))


def _settings(candidate: Candidate) -> dict[str, Any]:
    return candidate.params.model_dump(exclude={"night"})


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


class _Loader(yaml.SafeLoader):
    """Takes 1e-05 for a number, as DVC does, which writes it so (`dvc exp run -S`); PyYAML alone reads a text."""


_Loader.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), "-+0123456789")


def _read_sections(path: Path) -> dict[str, Any]:
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), _Loader)
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
