"""The part of evaluate that asks what was forgotten: base model, SFT and policy on demonstrations of other tasks.

Draws a picture in data/plots/evaluate. Off where ingest.general is null.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rlhf.records import Demonstration
from tasks.params.evaluate import EvaluateParams
from tasks.reports.charts import plot_bars

if TYPE_CHECKING:
    from rlhf.models import Policy


def measure(
    policies: Mapping[str, Policy], general: Sequence[Demonstration], params: EvaluateParams, max_prompt_tokens: int
) -> dict[str, float]:
    """Each model's `general_loss`, nats per response token, and by how much it rose from one to the next."""
    from rlhf.evaluation.forgetting import forgetting
    from rlhf.sft import encode_demonstrations, evaluate_loss

    losses = {}
    for name, policy in policies.items():
        examples = encode_demonstrations(policy, general, max_prompt_tokens, params.max_new_tokens)
        losses[name] = evaluate_loss(policy, examples, params.batch_size)
    return {f"{name}.general_loss": loss for name, loss in losses.items()} | forgetting(losses)


def signature(general: Sequence[Demonstration], params: EvaluateParams) -> str:
    """How the losses were computed."""
    return f"nats per token, EOS included|rows:{len(general)}|responses:cut at {params.max_new_tokens} tokens"


def plot(path: Path, metrics: Mapping[str, float]) -> None:
    """A bar for the loss of each model that was measured."""
    names = [name for name in ("base", "sft", "policy") if f"{name}.general_loss" in metrics]
    losses = {name: {"general_loss": metrics[f"{name}.general_loss"]} for name in names}
    plot_bars(path, losses, "On other tasks, nats per token")
