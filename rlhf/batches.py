"""Batches of token ids: prompts padded on the left, responses on the right, so that all responses align.

Dimensions: B batch, P prompt tokens, T response tokens, L = P + T, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from rlhf.logprobs import token_logprobs
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


def response_logits(model: nn.Module, batch: Batch) -> Float[Tensor, "B T V"]:
    """The logits that predict each response token; the head runs on these places alone."""
    width = batch.response_ids.shape[1]
    output = model(
        input_ids=batch.input_ids,
        attention_mask=batch.attention_mask.long(),
        position_ids=batch.position_ids,
        logits_to_keep=width + 1,
        use_cache=False,
    )
    return output.logits[:, :-1]


def response_logprobs(model: nn.Module, batch: Batch, temperature: float = 1.0) -> Float[Tensor, "B T"]:
    """log π of each response token, 0 where padded."""
    logprobs = token_logprobs(response_logits(model, batch), batch.response_ids, temperature)
    return torch.where(batch.response_mask, logprobs, 0.0)
