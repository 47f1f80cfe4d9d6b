"""The part of evaluate that asks what was forgotten: base model, SFT and policy on demonstrations of other tasks.

Off where ingest.general is null.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from rlhf.records import Demonstration
from tasks.params.evaluate import EvaluateParams

if TYPE_CHECKING:
    from rlhf.models import Policy


def measure(
    policies: Mapping[str, Policy], general: Sequence[Demonstration], params: EvaluateParams, max_prompt_tokens: int
) -> dict[str, float]:
    """Each model's `general_loss`, nats per response token, and by how much it rose from one to the next."""
    from rlhf.demonstrations import encode_demonstrations, evaluate_loss
    from rlhf.evaluation.forgetting import forgetting

    losses = {}
    for name, policy in policies.items():
        examples = encode_demonstrations(policy, general, max_prompt_tokens, params.max_new_tokens)
        losses[name] = evaluate_loss(policy, examples, params.batch_size)
    return {f"{name}.general_loss": loss for name, loss in losses.items()} | forgetting(losses)


def signature(general: Sequence[Demonstration], params: EvaluateParams) -> str:
    """How the losses were computed."""
    return f"nats per token, EOS included|rows:{len(general)}|responses:cut at {params.max_new_tokens} tokens"
