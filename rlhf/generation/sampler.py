"""The sampler's loop: logits of all rows, a token each, and again, until every row is done.

Dimensions: B rows at the start, N rows that are still written, T new tokens, V vocabulary, H hidden.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from rlhf.drawing.choosing import Chooser
from rlhf.drawing.controls import needs_filters
from rlhf.drawing.decoders import Decoder, Writer
from rlhf.drawing.samples import Samples
from rlhf.drawing.transcript import Transcript
from rlhf.generation.beams import beam_search
from rlhf.generation.context import check_context
from rlhf.generation.decoding import ForwardDecoder, prompt_history, prompt_inputs
from rlhf.models import Policy
from rlhf.records import Completion, Message, Sampling


def generate(
    policy: Policy,
    prompts: Sequence[str | Sequence[Message]],
    sampling: Sequence[Sampling],
    seeds: Sequence[int],
    batch_size: int = 64,
) -> list[Completion]:
    """Draws one completion per prompt, the i-th with the i-th settings and seed.

    Raises:
        ValueError: the lengths of the arguments differ, or a prompt and its completion exceed the context.
    """
    if not len(prompts) == len(sampling) == len(seeds):
        raise ValueError(
            f"found {len(prompts)} prompts, {len(sampling)} settings and {len(seeds)} seeds; give one of each a row"
        )
    encoded = policy.encode_prompts(prompts)
    completions: list[Completion | None] = [None] * len(prompts)
    for rows in _batches(encoded, sampling, batch_size):
        chosen = [encoded[row] for row in rows], [sampling[row] for row in rows], [seeds[row] for row in rows]
        samples = beam_search(policy, *chosen[:2]) if chosen[1][0].num_beams > 1 else sample(policy, *chosen)
        for index, row in enumerate(rows):
            completions[row] = _completion(policy, samples, index, sampling[row], seeds[row])
    return [completion for completion in completions if completion is not None]


@torch.no_grad()
def sample(
    policy: Policy,
    prompts: Sequence[Sequence[int]],
    sampling: Sequence[Sampling],
    seeds: Sequence[int],
    value: Callable[[Float[Tensor, "N H"]], Float[Tensor, " N"]] | None = None,
) -> Samples:
    """Draws one completion per encoded prompt in one batch, with a key-value cache.

    Args:
        policy: what draws.
        prompts: encoded.
        sampling: settings, one a row.
        seeds: one a row.
        value: what a critic says of the last hidden states that tokens are drawn from.

    Raises:
        ValueError: a prompt and its completion exceed the model's context.
    """
    check_context(policy, prompts, sampling)
    device, steps = policy.device, max(settings.max_new_tokens for settings in sampling)
    decoder = open_decoder(policy, prompts, steps)
    history = prompt_history(policy.model, prompts, device) if needs_filters(sampling) else None
    chooser = Chooser(sampling, seeds, history, policy.stop_ids, device)
    limits = torch.tensor([settings.max_new_tokens for settings in sampling], device=device)
    transcript = Transcript(limits, policy.stop_ids)
    if isinstance(decoder, Writer) and history is None:
        decoder.write(chooser, transcript, steps)
        return transcript.samples()
    logits = decoder.first()
    for step in range(steps):
        tokens, logprobs = chooser.choose(logits, step)
        values = value(decoder.states) if value is not None and decoder.states is not None else None
        transcript.add(tokens, logprobs, values)
        if not transcript.left:
            break
        kept = transcript.drop(decoder.patience)
        if kept is not None:
            decoder.keep(kept)
            chooser.keep(kept)
            tokens = tokens[kept]
        logits = decoder.next(tokens)
    return transcript.samples()


def open_decoder(policy: Policy, prompts: Sequence[Sequence[int]], steps: int) -> Decoder:
    """What a prepared model has for this, else the model's own forward."""
    fast: Any = getattr(policy.model, "fast", None)
    decoder: Decoder | None = None if fast is None else fast.decoder(policy.model, prompts, steps)
    return decoder or ForwardDecoder(policy.model, prompt_inputs(policy.model, prompts, policy.device))


def _batches(encoded: Sequence[Sequence[int]], sampling: Sequence[Sampling], size: int) -> list[list[int]]:
    """Row numbers in batches of rows that can go together; beam search needs equal settings."""
    groups: dict[Sampling | None, list[int]] = {}
    for row, settings in enumerate(sampling):
        groups.setdefault(settings if settings.num_beams > 1 else None, []).append(row)
    batches = []
    for rows in groups.values():
        # Rows of like length together: less padding, and the text does not depend on it.
        ordered = sorted(rows, key=lambda row: len(encoded[row]))
        batches += [ordered[start : start + size] for start in range(0, len(ordered), size)]
    return batches


def _completion(policy: Policy, samples: Samples, row: int, settings: Sampling, seed: int) -> Completion:
    length, finished = int(samples.lengths[row]), bool(samples.finished[row])
    return Completion(
        text=policy.decode(samples.tokens[row, :length].tolist()),
        tokens=length,
        finish_reason="eos" if finished else "length",
        seed=seed,
        sampling=settings,
        logprob=round(float(samples.logprobs[row, :length].sum()), 4),
    )
