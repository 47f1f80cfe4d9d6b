"""TRL's side of each race: its trainers, held between two steps by a callback."""

from __future__ import annotations

from typing import Any

import torch
from datasets import Dataset
from torch.optim.optimizer import register_optimizer_step_post_hook
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    TrainerCallback,
)

from tests.benchmarks import shapes
from tests.benchmarks.worker import Job, Turns

STEPS = 1_000
"""More than any run takes."""


class Holding(TrainerCallback):
    """Takes a turn at the end of each step, so that a repetition is one step with the loading of its batch."""

    def __init__(self, turn: Turns) -> None:
        self.turn = turn
        self.figures: dict[str, float] = {}
        self.updates = 0
        register_optimizer_step_post_hook(self._count)

    def _count(self, *_: Any) -> None:
        self.updates += 1

    def on_step_end(self, *_: Any, **__: Any) -> None:
        updates, self.updates = self.updates, 0
        self.turn(update_steps=updates, **self.figures)

    def on_log(self, *_: Any, **given: Any) -> None:
        if "loss" in given["logs"]:
            self.figures.setdefault("first_loss", float(given["logs"]["loss"]))


def sft(job: Job, turn: Turns) -> None:
    """A step of SFT; option `packing` joins the rows into blocks as long as the context."""
    from trl import SFTConfig, SFTTrainer

    examples = shapes.demonstrations(job.work)
    rows = [
        {"input_ids": prompt + response, "labels": [-100] * len(prompt) + response} for prompt, response in examples
    ]
    packing = job.options.get("packing", False)
    settings = SFTConfig(
        **_common(job, len(rows)),
        packing=packing,
        max_length=shapes.SHAPES[job.work.shape].context if packing else None,
    )
    trainer = SFTTrainer(
        _load(job, AutoModelForCausalLM),
        settings,
        train_dataset=Dataset.from_list(rows),
        processing_class=AutoTokenizer.from_pretrained(job.folder),
        callbacks=[Holding(turn)],
    )
    turn()
    trainer.train()


def reward(job: Job, turn: Turns) -> None:
    """A step of reward training on every pair of the rankings."""
    from trl import RewardConfig, RewardTrainer

    rows = [
        {"chosen_ids": chosen.prompt + chosen.response, "rejected_ids": rejected.prompt + rejected.response}
        for chosen, rejected in shapes.pairs(job.work)
    ]
    trainer = RewardTrainer(
        _load_scorer(job),
        RewardConfig(**_common(job, len(rows))),
        train_dataset=Dataset.from_list(rows),
        processing_class=AutoTokenizer.from_pretrained(job.folder),
        callbacks=[Holding(turn)],
    )
    turn()
    trainer.train()


def ppo(job: Job, turn: Turns) -> None:
    """An iteration of PPO: with gradient accumulation 1 each minibatch is one step, as the settings say."""
    from trl.experimental.ppo import PPOConfig, PPOTrainer

    work = job.work
    settings = PPOConfig(
        **_common(job, work.rows),
        total_episodes=STEPS * work.rows,
        num_ppo_epochs=work.epochs,
        num_mini_batches=work.minibatches,
        local_rollout_forward_batch_size=work.rows,
        response_length=work.new_tokens,
        stop_token="eos",
        temperature=1.0,
        num_sample_generations=0,
    )
    rows = [{"input_ids": prompt} for prompt in shapes.prompts(work)]
    trainer = PPOTrainer(
        settings,
        AutoTokenizer.from_pretrained(job.folder),
        model=_load(job, AutoModelForCausalLM),
        ref_model=_load(job, AutoModelForCausalLM),
        reward_model=_load_scorer(job),
        value_model=_load_scorer(job),
        train_dataset=Dataset.from_list(rows),
        callbacks=[Holding(turn)],
    )
    turn()
    trainer.train()


def _common(job: Job, rows: int) -> dict[str, Any]:
    """One step an epoch on all the rows; nothing saved or reported."""
    plain = {"bf16": job.dtype == "bfloat16", "gradient_checkpointing": False}
    return {
        "output_dir": f"{job.folder}/trl",
        "per_device_train_batch_size": rows,
        "gradient_accumulation_steps": 1,
        "max_steps": STEPS,
        "learning_rate": 3e-6 if job.subject.endswith("ppo") else 1e-4,
        "report_to": "none",
        "save_strategy": "no",
        "logging_steps": 1,
        "disable_tqdm": True,
        "use_cpu": job.device == "cpu",
        "dataloader_pin_memory": False,
        **({} if job.options.get("defaults") else plain),
    }


def _load(job: Job, kind: Any, **fields: Any) -> Any:
    """Weights of float32, which its trainers multiply in bfloat16 where asked; PPO's, which does not, in its own."""
    dtype = getattr(torch, job.dtype) if job.subject.endswith("ppo") else torch.float32
    return kind.from_pretrained(job.folder, dtype=dtype, **fields)


def _load_scorer(job: Job) -> Any:
    return _load(job, AutoModelForSequenceClassification, num_labels=1, pad_token_id=shapes.PAD)
