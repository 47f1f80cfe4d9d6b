"""What a GPU must hold while PPO trains an adapter: the sum that the measured peak stands beside."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor

from rlhf.heads import chunk_logits
from rlhf.models import Policy
from rlhf.ppo.critic import Critic
from tests.benchmarks import shapes
from tests.benchmarks.floor import network_of
from tests.benchmarks.shapes import PREFIX, SHAPES, Work

STATES = 4
"""Of a trained weight in float32: itself, its gradient, and Adam's two moments."""


def must_be_there(policy: Policy, critic: Critic, work: Work, micro_batch: int) -> dict[str, float]:
    """Megabytes of each thing, by a name with `PREFIX`.

    The cache is there while texts are sampled, the layers' inputs and the logits while the adapter learns: of the two
    the larger counts. Activations within a layer are computed again, and what one layer takes meanwhile is left out.

    Args:
        policy: with its adapter.
        critic: a head on the policy's states.
        work: what is done.
        micro_batch: rows of one forward that learns.
    """
    network, weights = network_of(work.shape), list(policy.model.parameters())
    columns = max(map(len, shapes.prompts(work))) + work.new_tokens
    itemsize = next(weight.element_size() for weight in weights if not weight.requires_grad)
    vocabulary, rows = SHAPES[work.shape].vocab_size, min(micro_batch, work.rows // work.minibatches)
    logits = min(vocabulary * rows * work.new_tokens, chunk_logits(policy.device))
    learning = {
        "layers' inputs": network.layers * network.attention * columns * rows * itemsize,
        "a chunk of logits and their gradient": 2 * 4 * logits,
    }
    sampling = {
        "cache": network.layers * network.cache * columns * work.rows * itemsize,
        "logits of a step": 4 * vocabulary * work.rows,
    }
    always = {
        "backbone": _size(weight for weight in weights if not weight.requires_grad),
        "adapter and its optimizer": STATES * _size(weight for weight in weights if weight.requires_grad),
        "critic and its optimizer": STATES * _size(critic.parameters()),
    }
    larger = max(learning, sampling, key=lambda things: sum(things.values()))
    return {f"{PREFIX}{name}": size / 1e6 for name, size in {**always, **larger}.items()}


def _size(weights: Iterable[Tensor]) -> int:
    return sum(weight.numel() * weight.element_size() for weight in weights)
