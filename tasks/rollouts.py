"""rollouts: samples K completions for each training prompt from the SFT model.

Reads data/models/sft and data/validated/train/prompts.jsonl; writes data/rollouts/rollouts.jsonl.

    python -m tasks rollouts
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Sequence

from rlhf.records import Prompt, Rollout
from rlhf.settings.model import ModelSettings
from rlhf.settings.rollouts import RolloutSettings
from tasks.files import read_records, write_records
from tasks.progress import follow
from tasks.stage_files import StageFiles


def run(files: StageFiles, params: RolloutSettings, model: ModelSettings) -> dict[str, float]:
    """Samples and writes the rollouts; returns their number and mean length."""
    prompts = choose_prompts(
        read_records(files.inputs["train"] / "prompts.jsonl", Prompt), params.max_prompts, params.seed
    )

    from rlhf.generation import generate
    from rlhf.models import Policy, load_policy

    def sample_all(policy: Policy) -> Iterator[dict[str, float]]:
        for start in range(0, len(prompts), params.batch_size):
            chosen = prompts[start : start + params.batch_size]
            plan = [(row, number) for row in chosen for number in range(params.completions)]
            completions = generate(
                policy,
                [row.prompt for row, _ in plan],
                [params.sampling[number % len(params.sampling)] for _, number in plan],
                [rollout_seed(params.seed, row.id, number) for row, number in plan],
                params.batch_size,
            )
            for index, row in enumerate(chosen):
                drawn = completions[index * params.completions : (index + 1) * params.completions]
                rollouts.append(Rollout(prompt_id=row.id, prompt=row.prompt, completions=drawn))
            yield {"tokens": float(sum(completion.tokens for completion in completions))}

    rollouts: list[Rollout] = []
    policy = load_policy(files.inputs["sft"], model)
    follow(sample_all(policy), "rollouts", -(-len(prompts) // params.batch_size))
    write_records(files.outputs["rollouts"] / "rollouts.jsonl", rollouts)
    drawn = [completion for rollout in rollouts for completion in rollout.completions]
    return {
        "prompts": float(len(rollouts)),
        "completions": float(len(drawn)),
        "length": sum(completion.tokens for completion in drawn) / len(drawn),
        "finished_share": sum(completion.finish_reason == "eos" for completion in drawn) / len(drawn),
    }


def choose_prompts(prompts: Sequence[Prompt], count: int | None, seed: int) -> list[Prompt]:
    """At most `count` of the prompts, drawn with the seed, in their old order."""
    if count is None or count >= len(prompts):
        return list(prompts)
    rows = sorted(random.Random(seed).sample(range(len(prompts)), count))
    return [prompts[row] for row in rows]


def rollout_seed(seed: int, prompt_id: str, number: int) -> int:
    """A seed of its own for each completion, so that adding a prompt changes no other prompt's completions."""
    digest = hashlib.sha256(f"{seed}/{prompt_id}/{number}".encode()).digest()
    return int.from_bytes(digest[:6], "big")
