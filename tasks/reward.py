"""reward: trains the reward model on the pairs, and the judge on the rankings that were held out for it.

Reads data/pairs and data/models/sft; writes data/models/reward, data/models/judge (a second reward model where
there are rankings for it) and curves. The judge never sees the reward model's pairs, nor PPO the judge.

    python -m tasks reward
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rlhf.records import Pair, PromptText, prompt_key
from rlhf.settings import ModelSettings, RewardSettings
from tasks.files import read_records, write_curve, write_json
from tasks.paths import Paths
from tasks.progress import follow
from tasks.report import plot_curves

if TYPE_CHECKING:
    from rlhf.models import Policy
    from rlhf.reward import RewardModel
    from rlhf.reward.encoder import EncoderReward
    from rlhf.reward.scalar import ScalarReward

NORMALISED_ON = 256
"""Prompts whose SFT completions set the score's mean and deviation."""


def run(paths: Paths, params: RewardSettings, model: ModelSettings) -> dict[str, float]:
    """Trains, normalises and saves; returns the contract's metrics on the test pairs."""
    parts = {
        name: read_records(paths.pairs / f"{name}.jsonl", Pair, may_be_empty=True)
        for name in ("train", "dev", "test", "judge")
    }

    from rlhf.models import load_policy

    policy = load_policy(paths.models / "sft", model)
    prompts, completions = sft_completions(policy, parts["train"], params)
    metrics: dict[str, float] = {}
    for name, pairs in (("reward", parts["train"]), ("judge", parts["judge"])):
        if name == "judge" and not pairs:
            write_json(paths.models / "judge" / "judge.json", {"rankings": 0})
            continue
        trained = _train(paths, name, pairs, parts["dev"], params, model)
        trained.normalise(prompts, completions)
        trained.save(paths.models / name)
        prefix = "" if name == "reward" else "judge."
        metrics |= {prefix + key: value for key, value in evaluate_pairs(trained, parts["test"]).items()}
    return metrics


def sft_completions(
    policy: Policy, pairs: Sequence[Pair], params: RewardSettings
) -> tuple[list[PromptText], list[str]]:
    """One SFT completion for each of some training prompts: what scores are normalised on."""
    from rlhf.generation import generate
    from rlhf.records import Sampling

    prompts = list({prompt_key(pair.prompt): pair.prompt for pair in pairs}.values())[:NORMALISED_ON]
    sampling = Sampling(max_new_tokens=params.max_completion_tokens)
    drawn = generate(policy, prompts, [sampling] * len(prompts), list(range(len(prompts))))
    return prompts, [completion.text for completion in drawn]


def evaluate_pairs(trained: RewardModel, pairs: Sequence[Pair]) -> dict[str, float]:
    """The metrics of the contract on held-out pairs, with the length-only baseline beside them."""
    import numpy as np

    from rlhf.reward import metrics
    from rlhf.reward.training import group_pairs, score_all

    groups = group_pairs(pairs)
    chosen, rejected = (scores.numpy() for scores in score_all(trained.network, groups))
    ordered = [pair for group in groups for pair in group.pairs]
    chosen_words = np.array([len(pair.chosen.split()) for pair in ordered], float)
    rejected_words = np.array([len(pair.rejected.split()) for pair in ordered], float)
    figures = {
        "accuracy": metrics.accuracy(chosen, rejected),
        "auc": metrics.auc(chosen, rejected),
        "ece": metrics.expected_calibration_error(chosen, rejected),
        "accuracy_by_length": metrics.accuracy(chosen_words, rejected_words),
        "test_pairs": float(len(pairs)),
    }
    margins = np.array([pair.margin if pair.margin is not None else 1.0 for pair in ordered])
    figures["spearman"], figures["pearson"] = metrics.correlations(chosen, rejected, margins)
    for place, (_, _, share) in enumerate(metrics.accuracy_by_margin(chosen, rejected, margins), 1):
        figures[f"accuracy_margin_{place}"] = share
    return figures


def _train(
    paths: Paths,
    name: str,
    pairs: Sequence[Pair],
    dev: Sequence[Pair],
    params: RewardSettings,
    model: ModelSettings,
) -> RewardModel:
    import torch

    from rlhf.models import autocast, resolve_device
    from rlhf.reward import RewardModel
    from rlhf.reward.training import group_pairs, train_reward

    torch.manual_seed(params.seed + (name == "judge"))
    network = build_network(paths, pairs, params, model)
    with autocast(model.precision, resolve_device(model.device)):
        steps = train_reward(network, group_pairs(pairs), group_pairs(dev), params)
        rows = follow(steps, name, params.steps, show=("loss", "accuracy", "eval_accuracy"))
    columns = [name for name in ("loss", "accuracy", "eval_accuracy") if any(name in row for row in rows)]
    plot_curves(paths.plots("reward") / f"{name}.png", rows, columns, f"{name} model, per step")
    for column in ("loss", "eval_accuracy"):
        points = [{"step": row["step"], column: row[column]} for row in rows if column in row]
        if points:
            write_curve(paths.plots("reward") / f"{name}_{column}.csv", points)
    return RewardModel(network)


def build_network(
    paths: Paths, pairs: Sequence[Pair], params: RewardSettings, model: ModelSettings
) -> ScalarReward | EncoderReward:
    """The untrained network that params ask for: on the SFT backbone, or an encoder of its own."""
    from rlhf.models import load_policy

    if params.kind == "scalar":
        from rlhf.reward.scalar import ScalarReward

        policy = load_policy(paths.models / "sft", model, training=True)
        return ScalarReward(policy, params.loglikelihood, params.max_completion_tokens)
    from rlhf.reward.encoder import EncoderReward, build_encoder, load_encoder

    if params.encoder is not None:
        encoder, tokenizer = load_encoder(params.encoder, model, training=True)
    else:
        texts = [text for pair in pairs for text in (prompt_key(pair.prompt), pair.chosen, pair.rejected)]
        encoder, tokenizer = build_encoder(params.encoder_config, texts, model.vocab_size, model.device)
    max_tokens = model.max_prompt_tokens + params.max_completion_tokens
    return EncoderReward(encoder, tokenizer, max_tokens, params.freeze_encoder)
