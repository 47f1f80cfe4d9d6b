"""Speed, behind one door: whatever computes the same as a model of transformers by itself, in less time or memory.

`prepare` is called once, when a model is made ready. A model that is not prepared is computed by transformers alone,
with padding and a token at a time by its own forward: what everything here is held to.
"""

from __future__ import annotations

from torch import nn


def prepare(model: nn.Module) -> None:
    """Gives a model of transformers all that is known of its family, in place; another one stays as it is."""
    from transformers import PreTrainedModel

    from rlhf.fast.activations import fuse_activations
    from rlhf.fast.forwards import Forwards
    from rlhf.fast.packing import enable_packing

    enable_packing(model)
    fuse_activations(model)
    for module in model.modules():  # a model without its head, or a copy of it, has them too
        if isinstance(module, PreTrainedModel):
            module.fast = Forwards()  # type: ignore[assignment]
