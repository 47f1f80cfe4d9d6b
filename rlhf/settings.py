"""The settings of every learning step, as frozen strict models; importing them costs no torch."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from rlhf.records import Sampling

Positive = Annotated[int, Field(ge=1)]
NonNegative = Annotated[int, Field(ge=0)]
Rate = Annotated[float, Field(gt=0.0)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]


class Settings(BaseModel):
    """A group of settings: a misspelt or wrongly typed one is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class ComputeSettings(Settings):
    """Where a network runs, in which precision, and what may be loaded."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["auto", "float32", "bfloat16", "pure_bfloat16"] = "auto"
    """bfloat16: autocast over float32 weights; pure_bfloat16: the weights and the optimizer's states too.

    auto: bfloat16 on CUDA, float32 on the CPU.
    """
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a third more time."""
    trust_remote_code: bool = False
    """Run the Python code that a Hub model brings along."""
    fast: bool = True
    """Batches without padding, fused activations and a decoder of our own, where the model's family is known.

    false: transformers' forwards alone, with padding: the same results but for rounding, in more time and memory.
    """


class ModelSettings(ComputeSettings):
    """The base model and where it runs."""

    name: str | None = None
    """A Hub id or a local path; null builds a model from `config`."""
    config: dict[str, Any] = {}
    """For a model from scratch: `model_type` and the fields of its transformers configuration."""
    vocab_size: Annotated[int, Field(ge=300)] = 700
    """For a model from scratch: the size of the byte-level BPE trained on the corpus."""
    max_prompt_tokens: Positive = 128
    """A longer prompt is an error in training data, and quarantined by validate."""
    threads: Positive | None = None
    """Threads of torch on the CPU; null takes all cores. A tiny model is faster on one, and the same everywhere."""

    @model_validator(mode="after")
    def _one_origin(self) -> Self:
        if (self.name is None) == (not self.config):
            raise ValueError("give either name (a Hub id or a path) or config (to build from scratch), not both")
        if self.config and "model_type" not in self.config:
            raise ValueError("config has no model_type; give one that transformers knows, such as llama")
        return self


class OptimSettings(Settings):
    """AdamW with linear warm-up and cosine decay."""

    steps: Positive
    batch_size: Positive
    learning_rate: Rate
    warmup_share: Share = 0.05
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.01
    max_grad_norm: Rate = 1.0


class AdapterSettings(Settings):
    """Few weights that learn beside frozen ones (PEFT)."""

    kind: Literal["lora", "prompt"] = "lora"
    """lora: low-rank updates of the linear layers; prompt: learnt embeddings before every input (prompt tuning)."""
    rank: Positive = 16
    alpha: Rate = 32.0
    """lora: the update is scaled by alpha / rank."""
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    targets: list[str] = []
    """lora: names of the modules to adapt; none means every linear layer but the head."""
    prompt_tokens: Positive = 16
    """prompt: how many embeddings are learnt."""


def _is_lora(adapter: AdapterSettings) -> AdapterSettings:
    """With a soft prompt off, prompts are encoded otherwise: PPO's reference could not be its policy without it."""
    if adapter.kind != "lora":
        raise ValueError(f"kind {adapter.kind} is for sft alone; give kind: lora")
    return adapter


LoraSettings = Annotated[AdapterSettings, AfterValidator(_is_lora)]


class SftSettings(OptimSettings):
    """Supervised fine-tuning on demonstrations, loss on the response only."""

    start: Literal["base", "champion"] = "base"
    """base: the base model; champion: the policy that was promoted last, where there is one."""
    adapter: AdapterSettings | None = None
    """null trains every weight; an adapter is merged into the model when SFT ends (a prompt is kept beside it)."""
    replay: Share = 0.0
    """Share of each batch drawn from the general demonstrations, in whole rows, against forgetting; 0 replays none."""
    micro_batch_size: Positive | None = None
    """Rows in one forward; null takes the whole batch at once."""
    eval_every: Positive = 100
    eval_rows: Positive = 500
    """At most so many demonstrations of the dev split are evaluated on, the first ones."""
    max_response_tokens: Positive = 96
    seed: NonNegative = 0

    @property
    def replay_rows(self) -> int:
        """Rows of each batch that are general demonstrations: at least one where any are replayed."""
        return max(1, round(self.replay * self.batch_size)) if self.replay else 0

    @model_validator(mode="after")
    def _a_prompt_is_learnt_for_the_base(self) -> Self:
        if self.start == "champion" and self.adapter is not None and self.adapter.kind == "prompt":
            raise ValueError(
                "start: champion goes on training a model that may have a learnt prompt already, and adapter.kind: "
                "prompt would put another before it; set start to base, or take kind: lora or no adapter"
            )
        return self

    @model_validator(mode="after")
    def _something_of_the_task(self) -> Self:
        if self.replay_rows >= self.batch_size:
            raise ValueError(
                f"replay {self.replay} takes {self.replay_rows} of the {self.batch_size} rows of a batch, which leaves "
                "none to the demonstrations; lower replay, or raise batch_size"
            )
        return self


class RewardSettings(OptimSettings):
    """A reward model trained on pairs."""

    kind: Literal["scalar", "encoder"] = "scalar"
    """scalar: a head on a causal backbone; encoder: a BERT-type cross-encoder."""
    backbone: str | None = None
    """scalar: a Hub id or a local path; null starts from the SFT model."""
    encoder: str | None = None
    """encoder: a Hub id or a local path; null builds a small BERT from scratch."""
    encoder_config: dict[str, Any] = {}
    freeze_encoder: bool = False
    adapter: LoraSettings | None = None
    """scalar: null trains every weight of the backbone; an adapter is merged into it when training ends."""
    loglikelihood: bool = True
    """scalar: feed the completion's log-likelihood under a jointly tuned LM head to the head."""
    loss: Literal["pairwise", "regression"] = "pairwise"
    """regression: mean squared error to the completions' ratings, where the rankings carry them."""
    margin: Annotated[float, Field(ge=0.0)] = 0.0
    """pairwise: how much more the chosen one must score, times the pair's own margin where it has one."""
    label_smoothing: Annotated[float, Field(ge=0.0, lt=0.5)] = 0.0
    """pairwise: the share of pairs that annotators are taken to have swapped."""
    centring: Annotated[float, Field(ge=0.0)] = 0.0
    """Weight of (r_chosen + r_rejected)² beside the pairwise loss, so that scores compare across prompts."""
    members: Positive = 1
    """Networks trained from different seeds; the score is their mean, their spread its uncertainty."""
    uncertainty_penalty: Annotated[float, Field(ge=0.0)] = 0.0
    """The score is lowered by this many of the members' standard deviations."""
    max_completion_tokens: Positive = 96
    eval_every: Positive = 50
    seed: NonNegative = 0

    @model_validator(mode="after")
    def _options_have_their_place(self) -> Self:
        pairwise = self.margin or self.label_smoothing or self.centring
        for options, given, home, there in (
            ("backbone, adapter", self.backbone or self.adapter, "kind: scalar", self.kind == "scalar"),
            ("encoder, freeze_encoder", self.encoder or self.freeze_encoder, "kind: encoder", self.kind == "encoder"),
            ("margin, label_smoothing, centring", pairwise, "loss: pairwise", self.loss == "pairwise"),
            ("uncertainty_penalty", self.uncertainty_penalty, "members: 2 or more", self.members > 1),
        ):
            if given and not there:
                raise ValueError(f"{options}: only with {home}; set that, or leave them out")
        return self


class KlSettings(Settings):
    """The KL penalty that keeps the policy near the reference."""

    coefficient: Annotated[float, Field(ge=0.0)] = 0.1
    estimator: Literal["k1", "k2", "k3"] = "k1"
    target: Rate | None = None
    """nats per sequence; with a target the coefficient adapts, without one it is fixed."""
    horizon: Positive = 10_000
    ceiling: Rate | None = None
    """nats per sequence; past it the run stops."""


class MonitorSettings(Settings):
    """The watch for reward hacking: what is measured on dev prompts during PPO, and the limits that stop it."""

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
    max_repetition: Share | None = 0.2
    """Share of repeated trigrams above that at the start."""
    min_distinct_ratio: Share | None = 0.5
    """Share of distinct bigrams over that at the start."""
    max_spread_ratio: Rate | None = 3.0
    """Mean spread of the reward model's members over that at the start."""


class PpoSettings(Settings):
    """PPO and its kin on the reward model's score: one loop, and advantages of one's choice."""

    iterations: Positive
    prompts_per_iteration: Positive
    algorithm: Literal["ppo", "reinforce", "rloo", "grpo"] = "ppo"
    """ppo: a critic and GAE; reinforce: a baseline over the batch; rloo, grpo: over each prompt's completions."""
    completions: Positive = 1
    """Completions sampled for each prompt of an iteration; rloo and grpo compare at least two."""
    epochs: Positive = 2
    minibatches: Positive = 4
    micro_batch_size: Positive | None = None
    adapter: LoraSettings | None = None
    """null trains every weight; with an adapter the reference is the policy with the adapter off: one copy."""
    learning_rate: Rate = 1.0e-4
    critic: Literal["network", "head"] = "network"
    """network: a critic of its own, started from the reward model; head: a scalar head on the policy's trunk."""
    critic_learning_rate: Rate = 1.0e-3
    critic_warmup: NonNegative = 2
    """Iterations in which the critic learns and the policy stands still."""
    kl: KlSettings = KlSettings()
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
    checkpoint_every: NonNegative = 10
    """Iterations between two checkpoints, from which a run that was cut off goes on; 0 writes none."""
    seed: NonNegative = 0

    @model_validator(mode="after")
    def _algorithm_has_what_it_needs(self) -> Self:
        if self.algorithm in ("rloo", "grpo") and self.completions < 2:
            raise ValueError(
                f"algorithm {self.algorithm} compares a prompt's completions, but completions is {self.completions}; "
                "give at least 2"
            )
        if self.algorithm != "ppo" and (self.critic == "head" or self.whiten_rewards):
            raise ValueError(
                f"critic: head and whiten_rewards belong to ppo; algorithm {self.algorithm} has neither a critic nor a "
                "reward per token; leave them out"
            )
        if self.unfinished == "reduce" and self.unfinished_score > 0:
            raise ValueError("unfinished_score is added to an unfinished completion's score; give 0 or less")
        return self


class RolloutSettings(Settings):
    """K completions for each prompt."""

    completions: Annotated[int, Field(ge=2)] = 4
    max_prompts: Positive | None = None
    sampling: Annotated[list[Sampling], Field(min_length=1)] = [Sampling()]
    """Cycled through the K completions of a prompt."""
    batch_size: Positive = 64
    seed: NonNegative = 0
