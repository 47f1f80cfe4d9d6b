"""sft: fine-tunes the base model on the demonstrations, with the loss on the response only.

Reads data/validated/train and data/validated/dev; writes data/models/sft (a transformers folder: safetensors and
tokenizer) and the curves loss.csv and eval_loss.csv in data/plots/sft.

    python -m tasks sft
"""

from __future__ import annotations

from rlhf.records import Demonstration, prompt_key
from rlhf.settings import ModelSettings, SftSettings
from tasks.files import read_records, write_curve
from tasks.paths import Paths
from tasks.progress import follow
from tasks.report import plot_curves


def run(paths: Paths, params: SftSettings, model: ModelSettings) -> dict[str, float]:
    """Trains and saves the SFT model; returns its losses on the dev split, nats per response token.

    Raises:
        ValueError: the base model cannot be had, a prompt is too long, or training made the dev loss no better;
            nothing is written then.
    """
    train = read_records(paths.validated / "train" / "demonstrations.jsonl", Demonstration)
    dev = read_records(paths.validated / "dev" / "demonstrations.jsonl", Demonstration)[: params.eval_rows]

    from rlhf.models import autocast, build_policy, load_policy, resolve_device, save_policy, train_tokenizer
    from rlhf.sft import encode_demonstrations, evaluate_loss, perplexity, train_sft

    device = resolve_device(model.device)
    if model.name is not None:
        policy = load_policy(model.name, model, training=True)
    else:
        texts = [text for row in train for text in (prompt_key(row.prompt), row.response)]
        policy = build_policy(model.config, train_tokenizer(texts, model.vocab_size), params.seed, device)
    examples = encode_demonstrations(policy, train, model.max_prompt_tokens, params.max_response_tokens)
    held_out = encode_demonstrations(policy, dev, model.max_prompt_tokens, params.max_response_tokens)
    with autocast(model.precision, device):
        start_loss = evaluate_loss(policy, held_out)
        rows = follow(train_sft(policy, examples, held_out, params), "sft", params.steps, show=("loss", "eval_loss"))
    eval_loss = rows[-1]["eval_loss"]
    if not eval_loss < start_loss:  # written so that a NaN fails too
        raise ValueError(
            f"sft made the dev loss no better: {start_loss:.3f} before, {eval_loss:.3f} after; "
            "lower sft.learning_rate or raise sft.steps"
        )
    save_policy(policy, paths.models / "sft")
    plot_curves(paths.plots("sft") / "curves.png", rows, ("loss", "eval_loss", "learning_rate"), "SFT, per step")
    write_curve(paths.plots("sft") / "loss.csv", [_only(row, "step", "loss") for row in rows])
    write_curve(
        paths.plots("sft") / "eval_loss.csv",
        [_only(row, "step", "eval_loss") for row in rows if "eval_loss" in row],
    )
    return {
        "eval_loss": eval_loss,
        "perplexity": perplexity(eval_loss),
        "train_loss": rows[-1]["loss"],
        "parameters": float(sum(weight.numel() for weight in policy.model.parameters())),
    }


def _only(row: dict[str, float], *columns: str) -> dict[str, float]:
    return {column: row[column] for column in columns}
