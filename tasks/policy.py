"""policy: trains the SFT model on the reward model's score (PPO and its kin) or on the pairs (DPO), near its start.

Reads data/models/sft, data/models/reward, data/pairs and data/validated (and data/models/judge, which the
reward-hacking monitor asks); writes data/models/policy and curves of what was optimised and what it cost. A run that
was cut off, or that a night's deadline ended, goes on from its last checkpoint (nights/checkpoints).

    python -m tasks policy
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from statistics import fmean
from typing import TYPE_CHECKING

from rlhf.algorithms import ALGORITHMS
from rlhf.records import Pair, Prompt, PromptText
from rlhf.settings.model import ModelSettings
from rlhf.settings.policy import PolicySettings
from tasks.files import read_records, write_curve
from tasks.progress import follow, say, say_of
from tasks.stage_files import StageFiles
from tasks.training.bad_batches import keep_in
from tasks.training.checkpoints import Checkpoint
from tasks.training.general import read_general
from tasks.training.monitor import build_monitor, monitor_inputs, watched_prompts, write_monitor

if TYPE_CHECKING:
    from rlhf.demonstrations import Example
    from rlhf.models import Policy
    from rlhf.policy.monitor import Monitor
    from rlhf.policy.trainer import PolicyTrainer
    from rlhf.ppo.critic import Critic
    from rlhf.reward import RewardModel


def run(files: StageFiles, params: PolicySettings, model: ModelSettings) -> dict[str, float]:
    """Trains and saves the policy; returns figures averaged over the last fifth of the measurements that led to it.

    Raises:
        ValueError: the policy would never move, or did not; too many batches were not finite; or a param needs data
            that is not there.
    """
    row = ALGORITHMS[params.algorithm]
    if row.critic and params.critic_warmup >= params.iterations:
        raise ValueError(
            f"policy.critic_warmup takes {params.critic_warmup} of {params.iterations} policy.iterations, so the "
            "policy would never move; lower the first or raise the second"
        )
    inputs, plots = files.inputs, files.outputs["plots"]
    prompts_file, general_file = inputs["train"] / "prompts.jsonl", inputs["train"] / "general.jsonl"
    prompts = [each.prompt for each in read_records(prompts_file, Prompt)]
    splits = [inputs["pairs"] / f"{split}.jsonl" for split in ("train", "dev")] if row.learns_from == "pairs" else []
    pairs = [read_records(split, Pair) for split in splits]
    general = read_general(inputs["train"], "policy.ptx_coefficient") if params.ptx_coefficient > 0 else []
    watched = watched_prompts(inputs["dev"], params.monitor) if params.monitor is not None else []
    depends = [inputs["sft"], inputs["reward"], prompts_file, general_file, *splits]
    depends += monitor_inputs(inputs["dev"], inputs["judge"]) if params.monitor is not None else []
    checkpoint = Checkpoint.of(files.aside["checkpoint"], depends, (params, model))

    from rlhf.adapters import attach, merge
    from rlhf.demonstrations import encode_demonstrations
    from rlhf.models import autocast, load_policy, save_policy
    from rlhf.reward import load_reward_model

    policy = load_policy(inputs["sft"], model, training=True)
    reward_model = load_reward_model(inputs["reward"], model)
    critic = build_critic(policy, reward_model, params, model)
    reference = None
    if params.adapter is None:
        reference = load_policy(inputs["sft"], model, training=True)
    else:
        policy = attach(policy, params.adapter, params.seed)
    examples = encode_demonstrations(policy, general, model.max_prompt_tokens, params.max_new_tokens) if general else []
    monitor = (
        build_monitor(inputs["judge"], params, model, reward_model, watched) if params.monitor is not None else None
    )
    trainer = build_trainer(policy, reference, critic, reward_model, prompts, pairs, params, monitor, examples)
    trainer.bad.keep = keep_in(files.aside["bad_batches"], "policy")
    trainer.micro.tell = partial(say_of, "policy")
    with autocast(model.precision, policy.device):
        training = Resumable(trainer, checkpoint, params.checkpoint_every)
        rows = follow(training.steps(), "policy", params.iterations, row.curves[:3], training.save)
    trainer.check_learnt()
    if trainer.stopped is not None:
        say(f"policy: stopped after {trainer.iteration} of {params.iterations} iterations: {trainer.stopped}")
    save_policy(policy if params.adapter is None else merge(policy), files.outputs["policy"])
    checkpoint.delete()
    for name, columns in {**{name: (name,) for name in row.curves}, "reward_over_kl": ("kl", "reward_mean")}.items():
        points = [{key: each[key] for key in ("step", *columns)} for each in rows if columns[0] in each]
        write_curve(plots / f"{name}.csv", points)
    kept = trainer.kept.iteration if trainer.stopped is not None and trainer.kept is not None else trainer.iteration
    metrics = {"iterations": float(len(rows)), "stopped_early": float(trainer.stopped is not None)}
    for name in dict.fromkeys(name for each in rows[:kept] for name in each):
        if name not in ("step", "ratio") and not name.startswith("monitor_"):
            values = [each[name] for each in rows[:kept] if name in each]
            metrics[name] = fmean(values[-max(1, len(values) // 5) :])
    metrics["skipped_batches"] = float(trainer.bad.count)
    return metrics | (write_monitor(plots, files.outputs["policy"], monitor, kept) if monitor is not None else {})


def build_trainer(
    policy: Policy,
    reference: Policy | None,
    critic: Critic | None,
    scorer: RewardModel,
    prompts: Sequence[PromptText],
    pairs: Sequence[Sequence[Pair]],
    params: PolicySettings,
    monitor: Monitor | None,
    general: Sequence[Example],
) -> PolicyTrainer:
    """The trainer that the algorithm's row asks for: on train and dev pairs, or on rollouts for prompts."""
    from rlhf.dpo.pairs import encode_pairs
    from rlhf.dpo.trainer import DpoTrainer
    from rlhf.ppo.trainer import PpoTrainer

    if pairs:
        train, dev = (encode_pairs(policy, split, params.max_new_tokens) for split in pairs)
        return DpoTrainer(
            policy=policy,
            reference=reference,
            settings=params,
            scorer=scorer,
            train_pairs=train,
            dev_pairs=dev,
            watch=monitor,
            general=general,
        )
    return PpoTrainer(
        policy=policy,
        reference=reference,
        critic=critic,
        settings=params,
        scorer=scorer,
        prompts=prompts,
        watch=monitor,
        general=general,
    )


def build_critic(
    policy: Policy, reward_model: RewardModel, params: PolicySettings, model: ModelSettings
) -> Critic | None:
    """The critic, where the algorithm has one: a head on the policy, or a network started from the reward model's.

    The reward model already knows what is good; one that reads other tokens than the policy (an encoder, a backbone
    with a tokenizer of its own) is no start, so the SFT model serves then.
    """
    from rlhf.models import checkpoint_layers
    from rlhf.ppo.critic import Critic

    if not ALGORITHMS[params.algorithm].critic:
        return None
    if params.critic == "head":
        return Critic(None, policy.hidden).to(policy.device)
    start: Policy = getattr(reward_model.network, "policy", policy)
    if start.soft_ids != policy.soft_ids or start.tokenizer.get_vocab() != policy.tokenizer.get_vocab():
        start = policy
    critic = Critic(start.model.base_model, start.hidden)
    if model.gradient_checkpointing and start is not policy:  # whose layers, copied with it, do so already
        checkpoint_layers(critic)
    return critic


@dataclass
class Resumable:
    """Training that goes on from its checkpoint; `rows` are the figures of the iterations that are done."""

    trainer: PolicyTrainer
    checkpoint: Checkpoint
    every: int
    rows: list[dict[str, float]] = field(default_factory=list)

    def steps(self) -> Iterator[dict[str, float]]:
        """Yields every iteration's figures: those up to the last checkpoint again, then those still to be trained."""
        state = self.checkpoint.load()
        if state is not None:
            self.rows = state["rows"]
            self.trainer.load_state_dict(state["trainer"])
            yield from self.rows
        for figures in self.trainer.train():
            self.rows.append(figures)
            for warning in self.trainer.warnings:
                say(f"policy: after iteration {self.trainer.iteration}: {warning}")
            if self.every and self.trainer.iteration % self.every == 0:
                self.save()
            yield figures

    def save(self) -> None:
        """Writes the checkpoint."""
        self.checkpoint.save({"trainer": self.trainer.state_dict(), "rows": self.rows})
