"""Settings of what trains the policy."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from rlhf.algorithms import ALGORITHMS, CHOICES, AlgorithmName, readers, unread
from rlhf.settings.adapters import LoraSettings
from rlhf.settings.base import NonNegative, Positive, Rate, Settings, Share


class KlSettings(Settings):
    """The KL penalty that keeps the policy near the reference."""

    coefficient: Annotated[float, Field(ge=0.0)] = 0.1
    """Score that a nat costs; of grpo, score in deviations of the prompt's completions."""
    in_: Annotated[Literal["reward", "loss"], Field(alias="in")] = "reward"
    """reward: what each token costs is taken off its reward; loss: a token's own KL is a term of the loss.

    The policy that sampled gets the same gradient of either. In later minibatches the loss knows how far the policy
    has moved since, and no clip holds it back.
    """
    estimator: Literal["k1", "k2", "k3"] = "k1"
    """k1 in the reward, k2 or k3 in the loss; these two have one gradient, and differ in what is logged."""
    target: Rate | None = None
    """nats per sequence; with a target the coefficient adapts, without one it is fixed."""
    horizon: Positive = 10_000
    ceiling: Rate | None = None
    """nats per sequence; past it the run stops."""

    @model_validator(mode="after")
    def _the_gradient_is_the_kl_s(self) -> Self:
        if self.in_ == "reward" and self.estimator != "k1":
            raise ValueError(
                f"estimator {self.estimator} in the reward holds nothing back: a reward's own derivative is not "
                "followed, and without it hardly any of the KL's gradient is left, or one of the wrong sign; write "
                f"in: loss beside estimator: {self.estimator}, or estimator: k1 to keep the penalty in the reward"
            )
        if self.in_ == "loss" and self.estimator == "k1":
            raise ValueError(
                "estimator k1 in the loss holds nothing back: the expectation of its gradient is 0; write estimator: "
                "k2 or estimator: k3 beside in: loss, or in: reward to keep k1"
            )
        return self


class MonitorSettings(Settings):
    """The watch for reward hacking: what is measured on dev prompts in training, and the limits that stop it."""

    every: Positive = 4
    """Iterations between two readings."""
    prompts: Annotated[int, Field(ge=2)] = 128
    """Dev prompts of a reading, where there are so many."""
    max_held_out_drop: Annotated[float, Field(ge=0.0)] = 0.1
    """The held-out score may fall this far below its best reading, in the deviations it had at the start.

    The fall counts from where it is two standard errors (of the same prompts' differences) past this.
    """
    patience: Positive = 2
    """Readings in a row past a limit that stop the run; the first ones warn."""
    max_kl: Rate | None = None
    """nats per sequence."""
    max_length_ratio: Rate | None = 2.0
    """Mean response length over that at the start."""
    min_length_ratio: Share | None = 0.5
    """The same from the other side: answers that shrink are seen too."""
    max_empty: Share | None = 0.05
    """Share of completions without any text above that at the start."""
    max_identical: Share | None = 0.3
    """Share of completions that another prompt got word for word, above that at the start."""
    max_repetition: Share | None = 0.2
    """Share of repeated trigrams above that at the start."""
    min_distinct_ratio: Share | None = 0.5
    """Share of distinct bigrams over that at the start."""
    max_spread_ratio: Rate | None = 3.0
    """Mean spread of the reward model's members over that at the start."""


class DpoSettings(Settings):
    """Direct preference optimisation: what it makes of a pair."""

    beta: Rate = 0.1
    """How near the policy stays to the reference: the larger, the nearer."""
    loss: Literal["sigmoid", "ipo"] = "sigmoid"
    """ipo: the margin of a pair is drawn to 1 / (2·beta) nats, however certain the pair is."""
    label_smoothing: Annotated[float, Field(ge=0.0, lt=0.5)] = 0.0
    """The share of pairs that annotators are taken to have swapped."""
    sample_every: Positive = 4
    """Iterations between two measurements on dev pairs, and on completions sampled for their prompts.

    The first and the last iteration are measured too.
    """


class PolicySettings(Settings):
    """What trains the policy: PPO and its kin on the reward model's score, or DPO on the pairs."""

    iterations: Positive
    prompts_per_iteration: Positive
    """ppo and its kin sample for so many prompts; dpo takes all pairs of so many, each prompt once before any again."""
    algorithm: AlgorithmName = "ppo"
    """ppo: a critic and GAE; reinforce: a baseline over the batch; rloo, grpo: over each prompt's completions; dpo: no
    reward model, but the pairs.

    What each reads of the settings below stands in rlhf/algorithms.py; `nightjar params` marks what it does not.
    """
    completions: Positive = 1
    """Completions sampled for each prompt of an iteration; rloo and grpo compare at least two."""
    epochs: Positive = 2
    minibatches: Positive = 4
    """Optimizer steps of an epoch over an iteration's rollouts; of dpo, of an iteration."""
    micro_batch_size: Positive | None = None
    """Completions in one forward, of dpo at least a pair; null takes all of a step at once."""
    adapter: LoraSettings | None = None
    """null trains every weight; with an adapter the reference is the policy with the adapter off: one copy."""
    learning_rate: Rate = 1.0e-4
    critic: Literal["network", "head"] = "network"
    """network: a critic of its own, started from the reward model; head: a scalar head on the policy's trunk."""
    critic_learning_rate: Rate = 1.0e-3
    critic_warmup: NonNegative = 2
    """Iterations in which the critic learns and the policy stands still."""
    kl: KlSettings = KlSettings()
    dpo: DpoSettings = DpoSettings()
    discount: Share = 1.0
    gae_lambda: Share = 0.95
    clip: Rate = 0.2
    dual_clip: Annotated[float, Field(gt=1.0)] | None = None
    value_clip: Rate = 0.2
    value_coefficient: Annotated[float, Field(ge=0.0)] = 1.0
    entropy_coefficient: Annotated[float, Field(ge=0.0)] = 0.0
    ptx_coefficient: Annotated[float, Field(ge=0.0)] = 0.0
    """Weight of the language-modelling loss on the general demonstrations (PPO-ptx), against forgetting."""
    update_kl_ceiling: Rate | None = 0.1
    """Approximate KL per token between old and new policy; past it the update's epochs end."""
    whiten_rewards: bool = False
    """Scale the rewards of an iteration to unit variance, keeping their mean."""
    unfinished: Literal["replace", "reduce"] = "replace"
    """What becomes of the score of a completion that never wrote EOS."""
    unfinished_score: float = -3.0
    """replace: its score, in normalised units; reduce: added to its score."""
    length_penalty: Annotated[float, Field(ge=0.0)] = 0.0
    """Taken off the score for each token past `length_free`."""
    length_free: NonNegative = 0
    monitor: MonitorSettings | None = None
    """null watches nothing but the KL."""
    temperature: Rate = 1.0
    max_new_tokens: Positive = 64
    max_grad_norm: Rate = 1.0
    max_bad_batches: NonNegative = 3
    """Batches that may be skipped since a loss, a score or a gradient was not finite; one more stops the stage."""
    checkpoint_every: NonNegative = 10
    """Iterations between two checkpoints, from which a run that was cut off goes on; 0 writes none."""
    seed: NonNegative = 0

    @model_validator(mode="after")
    def _algorithm_has_what_it_needs(self) -> Self:
        row, fields = ALGORITHMS[self.algorithm], type(self).model_fields
        if self.completions < row.completions:
            raise ValueError(
                f"algorithm {self.algorithm} compares a prompt's completions, but completions is {self.completions}; "
                f"give at least {row.completions}"
            )
        for name in CHOICES:
            if name in unread(self.algorithm) and getattr(self, name) != fields[name].default:
                raise ValueError(
                    f"{name} belongs to {', '.join(readers(name))}; algorithm {self.algorithm} has no such part: leave "
                    "it out"
                )
        if self.unfinished == "reduce" and self.unfinished_score > 0:
            raise ValueError("unfinished_score is added to an unfinished completion's score; give 0 or less")
        return self
