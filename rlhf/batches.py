"""Batches of token ids: prompts padded on the left, responses on the right, so that all responses align.

Dimensions: B batch, P prompt tokens, T response tokens, L = P + T, H hidden, S positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from rlhf.masking import length_mask


class Batch(NamedTuple):
    """Prompts with their responses.

    Attributes:
        input_ids: prompt and response.
        attention_mask: True at the tokens of either.
        position_ids: 0, 1, 2, … from each row's first token, whatever its padding.
        response_ids: the responses alone.
        response_mask: True at the tokens of the response.
    """

    input_ids: Int[Tensor, "B L"]
    attention_mask: Bool[Tensor, "B L"]
    position_ids: Int[Tensor, "B L"]
    response_ids: Int[Tensor, "B T"]
    response_mask: Bool[Tensor, "B T"]


def make_batch(
    prompts: Sequence[Sequence[int]],
    responses: Sequence[Sequence[int]],
    device: torch.device | str = "cpu",
    prompt_width: int | None = None,
    response_width: int | None = None,
) -> Batch:
    """Pads prompts on the left and responses on the right; the filler is id 0 and never counts."""
    prompt_width = prompt_width or max(map(len, prompts))
    response_width = response_width or max(1, *map(len, responses))
    rows = [
        [0] * (prompt_width - len(prompt)) + list(prompt) + list(response) + [0] * (response_width - len(response))
        for prompt, response in zip(prompts, responses, strict=True)
    ]
    input_ids = torch.tensor(rows, device=device)
    prompt_lengths = torch.tensor([len(prompt) for prompt in prompts], device=device)
    lengths = torch.tensor([len(response) for response in responses], device=device)
    response_mask = length_mask(lengths, response_width)
    prompt_mask = length_mask(prompt_lengths, prompt_width).flip(1)
    attention_mask = torch.cat([prompt_mask, response_mask], dim=1)
    return Batch(input_ids, attention_mask, positions(attention_mask), input_ids[:, prompt_width:], response_mask)


def positions(attention_mask: Bool[Tensor, "B L"]) -> Int[Tensor, "B L"]:
    """Position ids that start at 0 at each row's first token: the cumulative mask less one."""
    return (attention_mask.long().cumsum(1) - 1).clamp(min=0)


def response_positions(response_mask: Bool[Tensor, "B T"], with_end: bool = False) -> Int[Tensor, "B S"]:
    """0, 1, 2, … to the last token of each response, or to the position after it; the last again where padded.

    Args:
        response_mask: True at the tokens of the response.
        with_end: whether the position after the last token is there too: S is T + 1 then, else T.
    """
    last = (response_mask.sum(1, keepdim=True) - 1 + with_end).clamp(min=0)
    return torch.arange(response_mask.shape[1] + with_end, device=last.device).minimum(last)


def response_states(
    model: nn.Module, batch: Batch, positions: Int[Tensor, "B S"] | None = None
) -> Float[Tensor, "B S H"]:
    """The last hidden states, those that the head turns into a prediction of response tokens.

    Args:
        model: a language model, or one without its head.
        batch: prompts and responses; an encoder reads the prompts, and its decoder writes the responses.
        positions: in each response, of the tokens to predict, or of what would come after its end; None is all of its
            tokens, as `response_positions` has them.
    """
    network: Any = model
    positions = response_positions(batch.response_mask) if positions is None else positions
    if network.config.is_encoder_decoder:
        prompts, mask = encoder_inputs(batch)
        memory = network.get_encoder()(input_ids=prompts, attention_mask=mask).last_hidden_state
        start = torch.full_like(batch.response_ids[:, :1], network.config.decoder_start_token_id)
        states = network.get_decoder()(
            input_ids=torch.cat([start, batch.response_ids], dim=1)[:, : int(positions.max()) + 1],
            encoder_hidden_states=memory,
            encoder_attention_mask=mask,
            use_cache=False,
        ).last_hidden_state
        return _at(states, positions)
    fast: Any = getattr(model, "fast", None)  # of a model that was prepared for it
    packed: Tensor | None = None if fast is None else fast.states(model, batch, positions)
    if packed is not None:
        return packed
    states = network.get_decoder()(
        input_ids=batch.input_ids,
        attention_mask=batch.attention_mask.long(),
        position_ids=batch.position_ids,
        use_cache=False,
    ).last_hidden_state
    return _at(states, positions + batch.input_ids.shape[1] - batch.response_ids.shape[1] - 1)


def _at(states: Float[Tensor, "B L H"], positions: Int[Tensor, "B S"]) -> Float[Tensor, "B S H"]:
    return states.gather(1, positions[:, :, None].expand(-1, -1, states.shape[2]))


class EncoderInputs(NamedTuple):
    """Prompts padded on the right, as an encoder with absolute positions must have them."""

    input_ids: Int[Tensor, "B P"]
    attention_mask: Int[Tensor, "B P"]


def encoder_inputs(batch: Batch) -> EncoderInputs:
    """The prompts of a batch, moved to the left of their padding."""
    width = batch.input_ids.shape[1] - batch.response_ids.shape[1]
    mask = batch.attention_mask[:, :width].long()
    order = mask.argsort(dim=1, descending=True, stable=True)
    return EncoderInputs(batch.input_ids[:, :width].gather(1, order), mask.gather(1, order))
