"""sft: fine-tunes the base model, or the champion, on the demonstrations, with the loss on the response only.

Reads data/validated/train (its general demonstrations too, where some are replayed), data/validated/dev and, where it
starts from the champion, data/champion; writes data/models/sft (a transformers folder: safetensors and tokenizer) and
the curves loss.csv, eval_loss.csv and learning_rate.csv in data/plots/sft.

    python -m tasks sft
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from rlhf.records import Demonstration
from rlhf.settings.model import ModelSettings
from rlhf.settings.sft import SftSettings
from tasks.files import read_records, write_curve
from tasks.progress import follow, say, say_of
from tasks.stage_files import StageFiles
from tasks.training.bad_batches import keep_in
from tasks.training.base import load_base, load_champion
from tasks.training.general import read_general

if TYPE_CHECKING:
    from rlhf.models import Policy


def run(files: StageFiles, params: SftSettings, model: ModelSettings) -> dict[str, float]:
    """Trains and saves the SFT model; returns its losses on the dev split, nats per response token.

    Raises:
        ValueError: the base model cannot be had, or the champion is no such model; there is nothing to replay, a prompt
            is too long, too many batches were not finite, or training made the dev loss no better; nothing is written
            then.
    """
    train = read_records(files.inputs["train"] / "demonstrations.jsonl", Demonstration)
    dev = read_records(files.inputs["dev"] / "demonstrations.jsonl", Demonstration)[: params.eval_rows]
    general = read_general(files.inputs["train"], needed_by="sft.replay") if params.replay else []

    from rlhf.adapters import attach, is_adapted, merge, trainable_parameters
    from rlhf.demonstrations import encode_demonstrations, evaluate_loss, perplexity
    from rlhf.finite import BadBatches
    from rlhf.models import autocast, resolve_device, save_policy
    from rlhf.sft import train_sft

    device = resolve_device(model.device)
    policy = _start(files.inputs["champion"], params, model, [*train, *general])
    limits = (model.max_prompt_tokens, params.max_response_tokens)
    with autocast(model.precision, device):
        start_loss = evaluate_loss(policy, encode_demonstrations(policy, dev, *limits))
        if params.adapter is not None:  # a soft prompt changes the model from its start on, so the base goes first
            policy = attach(policy, params.adapter, params.seed)
        examples, held_out = (encode_demonstrations(policy, rows, *limits) for rows in (train, dev))
        replayed = encode_demonstrations(policy, general, *limits) if general else []
        bad = BadBatches("sft", params.max_bad_batches, keep_in(files.aside["bad_batches"], "sft"))
        steps = train_sft(policy, examples, held_out, params, replayed, bad, partial(say_of, "sft"))
        rows = follow(steps, "sft", params.steps, show=("loss", "eval_loss"))
    eval_loss = rows[-1]["eval_loss"]
    if not eval_loss < start_loss:  # written so that a NaN fails too
        raise ValueError(
            f"sft made the dev loss no better: {start_loss:.3f} before, {eval_loss:.3f} after; "
            "lower sft.learning_rate or raise sft.steps"
        )
    trained = sum(weight.numel() for weight in trainable_parameters(policy))
    if is_adapted(policy):
        policy = merge(policy)
    save_policy(policy, files.outputs["model"])
    for name in ("loss", "eval_loss", "learning_rate"):
        write_curve(
            files.outputs["plots"] / f"{name}.csv",
            [{"step": row["step"], name: row[name]} for row in rows if name in row],
        )
    return {
        "eval_loss": eval_loss,
        "perplexity": perplexity(eval_loss),
        "train_loss": [row["loss"] for row in rows if "loss" in row][-1],
        "skipped_batches": float(bad.count),
        "parameters": float(sum(weight.numel() for weight in policy.model.parameters())),
        "trainable_parameters": float(trained),
    }


def _start(champion: Path, params: SftSettings, model: ModelSettings, rows: Sequence[Demonstration]) -> Policy:
    """The model to train: the champion where it is asked for and there is one, else the base model, else a new one."""
    from rlhf.models import build_policy
    from rlhf.tokenizers import corpus_of, train_tokenizer

    policy = load_champion(champion, model) if params.start == "champion" else None
    if params.start == "champion":
        say(f"sft: starts from {'the champion' if policy else 'the base model, for data/champion holds no champion'}")
    policy = policy or load_base(model, training=True)
    if policy is not None:
        return policy
    tokenizer = train_tokenizer(corpus_of(rows), model.vocab_size)
    return build_policy(model.config, tokenizer, params.seed, model)
