"""Writing with any language model of transformers: its own forward, one token a step, with its own cache.

Dimensions: B rows at the start, N rows that are still written, P prompt tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from rlhf.batches import encoder_inputs, make_batch, positions
from rlhf.drawing.history import History


def prompt_inputs(model: Any, prompts: Sequence[Sequence[int]], device: torch.device) -> dict[str, Any]:
    """What the first forward takes.

    A causal model goes on from the prompt; a decoder from its start token, beside the prompt, encoded once.
    """
    batch = make_batch(prompts, [[] for _ in prompts], device, response_width=1)
    if model.config.is_encoder_decoder:
        encoded = encoder_inputs(batch)
        memory = model.get_encoder()(**encoded._asdict()).last_hidden_state
        start = torch.full_like(batch.response_ids, model.config.decoder_start_token_id)
        return {
            "encoder_outputs": (memory,),
            "attention_mask": encoded.attention_mask,
            "decoder_input_ids": start,
        }
    ids, mask = batch.input_ids[:, :-1], batch.attention_mask[:, :-1]
    return {"input_ids": ids, "attention_mask": mask.long(), "position_ids": positions(mask), "logits_to_keep": 1}


def prompt_history(model: Any, prompts: Sequence[Sequence[int]], device: torch.device) -> History:
    """A causal model's prompt, or a decoder's start token."""
    if model.config.is_encoder_decoder:
        start = torch.full((len(prompts), 1), model.config.decoder_start_token_id, device=device)
        return History(start, torch.ones_like(start, dtype=torch.bool))
    batch = make_batch(prompts, [[] for _ in prompts], device, response_width=1)
    ids, mask = batch.input_ids[:, :-1], batch.attention_mask[:, :-1]
    # A soft prompt's ids lie past the vocabulary, and are nothing that a response could repeat.
    known = ids < model.config.get_text_config().vocab_size
    return History(torch.where(known, ids, 0), mask & known)


class ForwardDecoder:
    """The model's own forward, whatever the model.

    Args:
        model: causal or encoder–decoder.
        inputs: of the first forward.
    """

    def __init__(self, model: Any, inputs: dict[str, Any]) -> None:
        self.model, self.inputs, self.states = model, inputs, None
        self.cache: Any = None
        self.last_position = (getattr(model.config, "max_position_embeddings", None) or 2**31) - 1

    @property
    def patience(self) -> float:
        """The share of rows that may be done before it pays to drop them, which copies the whole cache.

        A cache that a model brings itself may not know how.
        """
        return 0.25 if hasattr(self.cache, "reorder_cache") else 1.0

    def first(self) -> Float[Tensor, "B V"]:
        """The logits of every row's first token, in float32."""
        return self._forward()

    def next(self, tokens: Int[Tensor, " N"]) -> Float[Tensor, "N V"]:
        """The logits after one more token a row, in float32."""
        if self.model.config.is_encoder_decoder:
            self.inputs["decoder_input_ids"] = tokens[:, None]
            return self._forward()
        mask, position_ids = self.inputs["attention_mask"], self.inputs["position_ids"][:, -1:] + 1
        self.inputs |= {
            "input_ids": tokens[:, None],
            "attention_mask": torch.cat([mask, torch.ones_like(mask[:, :1])], dim=1),
            # A row that is done may stay in the batch for longer than its context would last.
            "position_ids": position_ids.clamp(max=self.last_position),
        }
        return self._forward()

    def keep(self, rows: Int[Tensor, " N"]) -> None:
        """Goes on with these of the rows, in this order."""
        self.cache.reorder_cache(rows)
        for name, value in self.inputs.items():
            if isinstance(value, Tensor):
                self.inputs[name] = value[rows]
            elif isinstance(value, tuple):
                self.inputs[name] = tuple(part[rows] for part in value)

    def _forward(self) -> Float[Tensor, "N V"]:
        output = self.model(**self.inputs, past_key_values=self.cache, use_cache=True)
        self.cache = output.past_key_values
        return output.logits[:, -1].float()
