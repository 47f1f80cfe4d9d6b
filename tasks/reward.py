"""reward: trains the reward model on the pairs, and the judge on the rankings that were held out for it.

Reads data/pairs and data/models/sft; writes data/models/reward, data/models/judge (a second reward model where
there are rankings for it) and curves. The judge never sees the reward model's pairs, nor PPO the judge.

    python -m tasks reward
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

from rlhf.records import Pair, PromptText, prompt_identity, prompt_text
from rlhf.settings.model import ModelSettings
from rlhf.settings.reward import RewardSettings
from tasks.files import read_records, write_curve, write_json
from tasks.progress import follow, say_of, warn
from tasks.stage_files import StageFiles
from tasks.training.bad_batches import keep_in

if TYPE_CHECKING:
    from rlhf.finite import BadBatches
    from rlhf.models import Policy
    from rlhf.reward import RewardModel
    from rlhf.reward.encoder import EncoderReward
    from rlhf.reward.scalar import ScalarReward

NORMALISED_ON = 256
"""Prompts whose SFT completions set the score's mean and deviation."""


def run(files: StageFiles, params: RewardSettings, model: ModelSettings) -> dict[str, float]:
    """Trains, normalises and saves; returns the contract's metrics on the test pairs.

    Raises:
        ValueError: there is no pair to learn from, ratings are missing, a model cannot be had, or too many batches were
            not finite.
    """
    train, dev, test, judge = (
        read_records(files.inputs["pairs"] / f"{name}.jsonl", Pair, may_be_empty=True)
        for name in ("train", "dev", "test", "judge")
    )

    from rlhf.finite import BadBatches
    from rlhf.models import load_policy
    from rlhf.reward.evaluation import evaluate_pairs
    from rlhf.reward.training import check_pairs

    shares = {"reward": train, "judge": judge} if judge else {"reward": train}
    for pairs in (*shares.values(), *([dev] if dev else [])):
        check_pairs(pairs, params)
    # All of them first, so that what cannot be had is told before SFT's completions are sampled.
    networks = {
        name: [build_network(files.inputs["sft"], pairs, params, model, seed) for seed in seeds_of(name, params)]
        for name, pairs in shares.items()
    }
    kept = {
        name: [drop_duplicates(networks[name][0], split, f"{name}: {title}", params)
               for title, split in (("train", pairs), ("dev", dev), ("test", test))]
        for name, pairs in shares.items()
    }  # fmt: skip
    prompts, completions = sft_completions(load_policy(files.inputs["sft"], model), kept["reward"][0], params)
    bad = BadBatches("reward", params.max_bad_batches, keep_in(files.aside["bad_batches"], "reward"))
    metrics: dict[str, float] = {}
    for name, pairs in shares.items():
        learnt, held_out, measured = kept[name]
        trained = train_members(files.outputs["plots"], name, networks[name], learnt, held_out, params, model, bad)
        trained.normalise(prompts, completions)
        trained.save(files.outputs[name])
        prefix = "" if name == "reward" else "judge."
        figures, calibration = evaluate_pairs(trained, measured)
        figures["duplicates_dropped"] = float(sum(map(len, (pairs, dev, test))) - sum(map(len, kept[name])))
        metrics |= {prefix + key: value for key, value in figures.items()}
        file = "calibration.csv" if name == "reward" else f"{name}_calibration.csv"
        # The last column is the diagonal, which a calibrated model lies on.
        write_curve(files.outputs["plots"] / file, [{**b._asdict(), "calibrated": b.confidence} for b in calibration])
    if not judge:
        write_json(files.outputs["judge"] / "judge.json", {"rankings": 0})
    return metrics | {"skipped_batches": float(bad.count)}


def seeds_of(name: str, params: RewardSettings) -> range:
    """The seeds of a reward model's members; the judge's come after the reward model's."""
    start = params.seed + (params.members if name == "judge" else 0)
    return range(start, start + params.members)


def build_network(
    sft: Path, pairs: Sequence[Pair], params: RewardSettings, model: ModelSettings, seed: int
) -> ScalarReward | EncoderReward:
    """The untrained network that params ask for: on the SFT model or another backbone, or an encoder of its own."""
    import torch

    torch.manual_seed(seed)
    if params.kind == "scalar":
        from rlhf.adapters import attach
        from rlhf.reward.scalar import ScalarReward

        policy = load_backbone(sft, params, model)
        if params.adapter is not None:
            policy = attach(policy, params.adapter, seed)
        return ScalarReward(policy, params.loglikelihood, params.max_completion_tokens)
    from rlhf.reward.encoder import EncoderReward, build_encoder, load_encoder

    if params.encoder is not None:
        encoder, tokenizer = load_encoder(params.encoder, model, training=True)
    else:
        texts = [text for pair in pairs for text in (prompt_text(pair.prompt), pair.chosen, pair.rejected)]
        encoder, tokenizer = build_encoder(params.encoder_config, texts, model.vocab_size, model.device)
    limit = params.max_completion_tokens
    return EncoderReward(encoder, tokenizer, model.max_prompt_tokens + limit, params.freeze_encoder, limit)


def drop_duplicates(
    network: ScalarReward | EncoderReward, pairs: Sequence[Pair], split: str, params: RewardSettings
) -> list[Pair]:
    """The pairs that the network can tell apart; how many others there are is told.

    Raises:
        ValueError: it can tell none apart.
    """
    from rlhf.reward.training import distinct_pairs

    kept = distinct_pairs(network, pairs)
    if len(kept) < len(pairs):
        same = (
            f"{split}: {len(pairs) - len(kept)} of {len(pairs)} pairs are the same to the reward model within "
            f"reward.max_completion_tokens {params.max_completion_tokens}"
        )
        if not kept:
            raise ValueError(f"{same}, so none is left; raise it")
        warn(f"{same}, and were dropped; raise it if their difference comes later")
    return kept


def load_backbone(sft: Path, params: RewardSettings, model: ModelSettings) -> Policy:
    """The SFT model, or the language model that params name; raises ValueError that opens with the setting's name."""
    from rlhf.models import load_policy

    if params.backbone is None:
        return load_policy(sft, model, training=True)
    try:
        return load_policy(params.backbone, model, training=True)
    except ValueError as error:
        raise ValueError(f"reward.backbone: {error}") from error


def sft_completions(
    policy: Policy, pairs: Sequence[Pair], params: RewardSettings
) -> tuple[list[PromptText], list[str]]:
    """One SFT completion for each of some training prompts: what scores are normalised on."""
    from rlhf.generation import generate
    from rlhf.records import Sampling

    prompts = list({prompt_identity(pair.prompt): pair.prompt for pair in pairs}.values())[:NORMALISED_ON]
    sampling = Sampling(max_new_tokens=params.max_completion_tokens)
    drawn = generate(policy, prompts, [sampling] * len(prompts), list(range(len(prompts))))
    return prompts, [completion.text for completion in drawn]


def train_members(
    plots: Path,
    name: str,
    networks: Sequence[ScalarReward | EncoderReward],
    pairs: Sequence[Pair],
    dev: Sequence[Pair],
    params: RewardSettings,
    model: ModelSettings,
    bad: BadBatches,
) -> RewardModel:
    """Trains each network from its own seed; several are an ensemble, whose loss is the mean of theirs."""
    import torch

    from rlhf.adapters import is_adapted, merge
    from rlhf.models import autocast, resolve_device
    from rlhf.reward import Ensemble, RewardModel
    from rlhf.reward.scalar import ScalarReward
    from rlhf.reward.training import group_pairs, train_reward

    train, held_out = group_pairs(pairs), group_pairs(dev)
    losses: list[dict[float, float]] = []
    for index, (network, seed) in enumerate(zip(networks, seeds_of(name, params), strict=True)):
        title = name if len(networks) == 1 else f"{name}_{index}"
        torch.manual_seed(seed)
        with autocast(model.precision, resolve_device(model.device)):
            steps = train_reward(
                network, train, held_out, params.model_copy(update={"seed": seed}), bad, partial(say_of, title)
            )
            rows = follow(steps, title, params.steps, show=("loss", "accuracy", "eval_accuracy"))
        write_curves(plots, title, rows)
        losses.append({row["step"]: row["loss"] for row in rows if "loss" in row})
        if isinstance(network, ScalarReward) and is_adapted(network.policy):
            merge(network.policy)
    if len(networks) > 1:
        numbers = sorted({step for each in losses for step in each})
        means = [{"step": step, "loss": fmean(each[step] for each in losses if step in each)} for step in numbers]
        write_curve(plots / f"{name}_loss.csv", means)
    members = [RewardModel(network) for network in networks]
    return members[0] if len(members) == 1 else Ensemble(members, params.uncertainty_penalty)


def write_curves(plots: Path, title: str, rows: Sequence[dict[str, float]]) -> None:
    """Loss and accuracy over the steps, a table each."""
    for column in ("loss", "accuracy", "eval_accuracy"):
        points = [{"step": row["step"], column: row[column]} for row in rows if column in row]
        if points:
            write_curve(plots / f"{title}_{column}.csv", points)
