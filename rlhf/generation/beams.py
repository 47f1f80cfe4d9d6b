"""Beam search, by `transformers`' own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from rlhf.batches import encoder_inputs, make_batch
from rlhf.drawing.samples import Samples
from rlhf.generation.context import check_context
from rlhf.heads import response_logprobs
from rlhf.models import Policy
from rlhf.records import Sampling


@torch.no_grad()
def beam_search(policy: Policy, prompts: Sequence[Sequence[int]], sampling: Sequence[Sampling]) -> Samples:
    """The best beam for each prompt, by `transformers`' own search; all rows share the first row's settings."""
    from transformers import GenerationConfig

    check_context(policy, prompts, sampling)
    settings = sampling[0]
    config, stop_ids = policy.model.config, policy.stop_ids
    batch = make_batch(prompts, [[] for _ in prompts], policy.device, response_width=1)
    if config.is_encoder_decoder:
        (input_ids, mask), begun = encoder_inputs(batch), 1  # the start token
    else:
        input_ids, mask = batch.input_ids[:, :-1], batch.attention_mask[:, :-1].long()
        begun = input_ids.shape[1]
    controls = GenerationConfig(
        num_beams=settings.num_beams,
        repetition_penalty=settings.repetition_penalty,
        min_new_tokens=settings.min_new_tokens,
        max_new_tokens=settings.max_new_tokens,
        eos_token_id=list(stop_ids),
        pad_token_id=policy.eos_id,
        decoder_start_token_id=config.decoder_start_token_id if config.is_encoder_decoder else None,
    )
    with _defaults(policy.model, controls):
        output = policy.model.generate(input_ids=input_ids, attention_mask=mask)  # type: ignore[operator]
    tokens = output[:, begun:]
    ends = torch.isin(tokens, torch.tensor(stop_ids, device=tokens.device))
    lengths = _lengths(ends)
    finished = ends.any(1)
    unscored = Samples(tokens, lengths, finished, torch.zeros(tokens.shape))
    batch = make_batch(prompts, unscored.responses(), policy.device)
    return unscored._replace(logprobs=response_logprobs(policy.model, batch))


@contextmanager
def _defaults(model: Any, controls: Any) -> Iterator[None]:
    """Puts settings in place of those that a checkpoint brings: generate would fill ours up with them."""
    before = model.generation_config
    model.generation_config = controls
    try:
        yield
    finally:
        model.generation_config = before


def _lengths(ends: Bool[Tensor, "B T"]) -> Int[Tensor, " B"]:
    """Tokens up to and with the first end; all of them where there is none."""
    return torch.where(ends.any(1), ends.long().argmax(1) + 1, ends.shape[1])
