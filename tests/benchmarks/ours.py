"""Our side of each race, through the functions that the stages call."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace

import torch

from rlhf.adapters import attach
from rlhf.fast import activations, forwards, packing
from rlhf.fast.decoding import static
from rlhf.generation import sample
from rlhf.models import Policy, autocast, load_policy
from rlhf.ppo.critic import Critic
from rlhf.ppo.trainer import PpoTrainer
from rlhf.records import Pair, Sampling
from rlhf.reward.model import RewardModel
from rlhf.reward.scalar import ScalarReward
from rlhf.reward.training import group_pairs, train_reward
from rlhf.settings.adapters import AdapterSettings
from rlhf.settings.model import ComputeSettings
from rlhf.settings.policy import PolicySettings
from rlhf.settings.reward import RewardSettings
from rlhf.settings.sft import SftSettings
from rlhf.sft import train_sft
from tests.benchmarks import memory, shapes
from tests.benchmarks.worker import Job, Turns

STEPS = 1_000
"""More than any run takes."""


def sft(job: Job, turn: Turns) -> None:
    """A step of SFT."""
    examples = shapes.demonstrations(job.work)
    settings = SftSettings(steps=STEPS, batch_size=len(examples), learning_rate=1e-4, eval_every=STEPS)
    steps = train_sft(_load(job), [(prompt, response) for prompt, response in examples], [], settings)
    turn()
    first = 0.0
    with _precision(job):
        for figures in steps:
            first = first or figures["loss"]
            turn(first_loss=first)


def reward(job: Job, turn: Turns) -> None:
    """A step of reward training on every pair of the rankings."""
    rows = [
        Pair.model_validate(
            {
                "prompt": shapes.text(chosen.prompt),
                "chosen": shapes.text(chosen.response),
                "rejected": shapes.text(rejected.response),
                "annotator": "benchmark",
            }
            | ({"ranking": shapes.text(chosen.prompt)} if job.work.completions > 2 else {})
        )
        for chosen, rejected in shapes.pairs(job.work)
    ]
    groups = group_pairs(rows)
    network = ScalarReward(_load(job), loglikelihood=False, max_completion_tokens=job.work.longest_response)
    settings = RewardSettings(
        steps=STEPS, batch_size=len(groups), learning_rate=1e-4, loglikelihood=False, eval_every=STEPS
    )
    steps = train_reward(network, groups, [], settings)
    turn()
    with _precision(job):
        for _ in steps:
            turn(pairs=len(rows))


def ppo(job: Job, turn: Turns) -> None:
    """An iteration of PPO; option `critic` says whether the critic is a network or a head."""
    work, policy, settings = job.work, _load(job), _ppo_settings(job)
    backbone = policy.model.base_model if settings.critic == "network" else None
    critic = Critic(backbone, policy.hidden).to(policy.device)
    scorer = RewardModel(ScalarReward(_copy(policy), loglikelihood=False, max_completion_tokens=work.new_tokens))
    prompts = [shapes.text(prompt) for prompt in shapes.prompts(work)]
    iterations = PpoTrainer(
        policy=policy, reference=_copy(policy), critic=critic, scorer=scorer, prompts=prompts, settings=settings
    ).train()
    turn()
    with _precision(job):
        for figures in iterations:
            turn(update_steps=figures["update_steps"], tokens=work.rows * figures["response_tokens"])


def lora(job: Job, turn: Turns) -> None:
    """An iteration of PPO on an adapter: the weights below it are there once, for policy, reference and critic."""
    work, settings = job.work, _ppo_settings(job)
    precision = "pure_bfloat16" if job.dtype == "bfloat16" else job.dtype
    compute = ComputeSettings.model_validate(
        {"device": job.device, "precision": precision, "gradient_checkpointing": True}
    )
    policy = attach(load_policy(job.folder, compute, training=True), AdapterSettings(rank=16), seed=0)
    critic = Critic(None, policy.hidden).to(policy.device)
    prompts = [shapes.text(prompt) for prompt in shapes.prompts(work)]
    iterations = PpoTrainer(
        policy=policy, reference=None, critic=critic, scorer=Even(), prompts=prompts, settings=settings
    ).train()
    turn()
    for figures in iterations:
        turn(
            tokens=work.rows * figures["response_tokens"],
            **memory.must_be_there(policy, critic, work, settings.micro_batch_size or work.rows),
        )


class Even:
    """A scorer that is a rule: the share of words with even numbers."""

    def score(self, prompts: Sequence[object], completions: Sequence[str], batch_size: int = 64) -> torch.Tensor:
        words = [text.split() for text in completions]
        return torch.tensor([sum(word[-1] in "02468" for word in row) / max(1, len(row)) for row in words])


def sampling(job: Job, turn: Turns) -> None:
    """One batch of completions; option `masked` has a GPU attend to masked buckets in half precision too."""
    work = job.work
    if job.options.get("masked"):
        static.takes_ragged_rows = lambda *_: False  # type: ignore[attr-defined]
    policy = _load(job, training=False)
    prompts = shapes.prompts(work)
    settings = [Sampling(top_k=work.top_k, top_p=work.top_p, max_new_tokens=work.new_tokens)] * work.rows
    turn()
    while True:
        samples = sample(policy, prompts, settings, list(range(work.rows)))
        turn(tokens=int(samples.lengths.sum()))


def _ppo_settings(job: Job) -> PolicySettings:
    work = job.work
    return PolicySettings(
        iterations=STEPS,
        prompts_per_iteration=work.rows,
        epochs=work.epochs,
        minibatches=work.minibatches,
        micro_batch_size=job.options.get("micro_batch_size"),
        learning_rate=3e-6,
        critic=job.options["critic"],
        critic_learning_rate=3e-6,
        critic_warmup=0,
        update_kl_ceiling=None,
        unfinished="reduce",
        unfinished_score=0.0,
        max_new_tokens=work.new_tokens,
        checkpoint_every=0,
    )


def _precision(job: Job) -> torch.autocast:
    """As the stages train: products in bfloat16 over weights of float32, where that is the type of the race."""
    return autocast(job.dtype, torch.device(job.device))


def _load(job: Job, training: bool = True) -> Policy:
    piece = job.options.get("without")
    if piece == "activations":
        activations.fuse_activations = lambda model: None
    elif piece == "packing":
        packing.enable_packing = lambda model: None
    elif piece == "decoders":
        forwards.Forwards.decoder = lambda *_: None  # type: ignore[method-assign]
    fields = {"device": job.device, "precision": job.dtype, "fast": piece != "fast"}
    return load_policy(job.folder, ComputeSettings.model_validate(fields), training)


def _copy(policy: Policy) -> Policy:
    return replace(policy, model=copy.deepcopy(policy.model))
