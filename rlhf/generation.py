"""The sampler: one for rollouts, PPO and evaluation, over any language model.

A row's text depends on its own seed and settings alone, not on the batch it is drawn in: each row has its own
stream of uniform numbers, one a token, and tokens are drawn by inverting the cumulative distribution.
Dimensions: B batch, P prompt tokens, T new tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rlhf.batches import encoder_inputs, make_batch, positions, response_logprobs
from rlhf.logprobs import token_logprobs
from rlhf.models import Policy
from rlhf.records import Completion, Message, Sampling

NEVER = float("-inf")


class Samples(NamedTuple):
    """What was drawn for a batch of prompts.

    Attributes:
        tokens: new tokens, EOS included, 0 after the end.
        lengths: how many of them count.
        finished: True where EOS was written, False where the row was cut at its `max_new_tokens`.
        logprobs: log π of each token at the row's temperature (1 when greedy), before any filter; 0 after the end.
    """

    tokens: Int[Tensor, "B T"]
    lengths: Int[Tensor, " B"]
    finished: Bool[Tensor, " B"]
    logprobs: Float[Tensor, "B T"]

    def responses(self) -> list[list[int]]:
        """The tokens that count, row by row."""
        return [row[:length].tolist() for row, length in zip(self.tokens, self.lengths, strict=True)]


class Controls(NamedTuple):
    """The settings of every row as columns, so that rows with different settings share one step."""

    temperature: Float[Tensor, "B 1"]
    greedy: Bool[Tensor, "B 1"]
    top_k: Int[Tensor, "B 1"]
    top_p: Float[Tensor, "B 1"]
    min_p: Float[Tensor, "B 1"]
    repetition_penalty: Float[Tensor, "B 1"]
    min_new_tokens: Int[Tensor, "B 1"]
    max_new_tokens: Int[Tensor, "B 1"]


class WarpStage(NamedTuple):
    """Logits after a control, which is called as in `Sampling`."""

    control: str
    logits: Float[Tensor, "B V"]


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
    encoded = [policy.encode_prompt(prompt) for prompt in prompts]
    completions: list[Completion | None] = [None] * len(prompts)
    for rows in _batches(encoded, sampling, batch_size):
        chosen = [encoded[row] for row in rows], [sampling[row] for row in rows], [seeds[row] for row in rows]
        samples = beam_search(policy, *chosen[:2]) if chosen[1][0].num_beams > 1 else sample(policy, *chosen)
        for place, row in enumerate(rows):
            completions[row] = _completion(policy, samples, place, sampling[row], seeds[row])
    return [completion for completion in completions if completion is not None]


@torch.no_grad()
def sample(
    policy: Policy, prompts: Sequence[Sequence[int]], sampling: Sequence[Sampling], seeds: Sequence[int]
) -> Samples:
    """Draws one completion per encoded prompt in one batch, with a key-value cache.

    Raises:
        ValueError: a prompt and its completion exceed the model's context.
    """
    check_context(policy, prompts, sampling)
    device, controls = policy.device, as_controls(sampling, policy.device)
    steps = int(controls.max_new_tokens.max())
    uniform = _uniform(seeds, steps).to(device)
    inputs, history, history_mask = _first_inputs(policy.model, prompts, device)
    cache, filters = None, _needs_filters(sampling)
    alive = torch.ones(len(prompts), dtype=torch.bool, device=device)
    finished, drawn, logprobs = ~alive, [], []
    for step in range(steps):
        output = policy.model(**inputs, past_key_values=cache, use_cache=True)
        cache = output.past_key_values
        logits = output.logits[:, -1].float()
        scaled = torch.where(controls.greedy, logits, logits / controls.temperature)
        warped = warp(logits, controls, history, history_mask, step, policy.eos_id) if filters else scaled
        tokens = draw(warped, uniform[:, step], controls.greedy)
        logprobs.append(torch.where(alive, token_logprobs(scaled[:, None], tokens[:, None])[:, 0], 0.0))
        drawn.append(torch.where(alive, tokens, 0))
        finished = finished | (alive & (tokens == policy.eos_id))
        counted = alive
        alive = alive & ~finished & (step + 1 < controls.max_new_tokens[:, 0])
        if not alive.any():
            break
        inputs = _next_inputs(inputs, tokens, alive)
        if filters:
            history = torch.cat([history, tokens[:, None]], dim=1)
            history_mask = torch.cat([history_mask, counted[:, None]], dim=1)
    tokens = torch.stack(drawn, dim=1)
    lengths = _lengths(tokens, finished, controls.max_new_tokens[:, 0], policy.eos_id)
    return Samples(tokens, lengths, finished, torch.stack(logprobs, dim=1))


@contextmanager
def _defaults(model: Any, controls: Any) -> Iterator[None]:
    """Puts settings in place of those that a checkpoint brings: generate would fill ours up with them."""
    before = model.generation_config
    model.generation_config = controls
    try:
        yield
    finally:
        model.generation_config = before


class FirstInputs(NamedTuple):
    """Where writing begins.

    Attributes:
        inputs: what the model's forward takes.
        history: the tokens that the response goes on from, which the repetition penalty counts in.
        history_mask: True at those that are no filler.
    """

    inputs: dict[str, Any]
    history: Int[Tensor, "B P"]
    history_mask: Bool[Tensor, "B P"]


def _first_inputs(model: Any, prompts: Sequence[Sequence[int]], device: torch.device) -> FirstInputs:
    """A causal model goes on from the prompt; a decoder from its start token, beside the prompt, encoded once."""
    batch = make_batch(prompts, [[] for _ in prompts], device, response_width=1)
    if model.config.is_encoder_decoder:
        encoded = encoder_inputs(batch)
        start = torch.full_like(batch.response_ids, model.config.decoder_start_token_id)
        memory = model.get_encoder()(**encoded._asdict()).last_hidden_state
        inputs = {
            "encoder_outputs": (memory,),
            "attention_mask": encoded.attention_mask,
            "decoder_input_ids": start,
        }
        return FirstInputs(inputs, start, torch.ones_like(start, dtype=torch.bool))
    ids, mask = batch.input_ids[:, :-1], batch.attention_mask[:, :-1]
    inputs = {"input_ids": ids, "attention_mask": mask.long(), "position_ids": positions(mask), "logits_to_keep": 1}
    # A soft prompt's ids lie past the vocabulary, and are nothing that a response could repeat.
    known = ids < model.config.get_text_config().vocab_size
    return FirstInputs(inputs, torch.where(known, ids, 0), mask & known)


def _next_inputs(inputs: dict[str, Any], tokens: Int[Tensor, " B"], alive: Bool[Tensor, " B"]) -> dict[str, Any]:
    """What the forward after `tokens` takes; a cache holds all before."""
    if "decoder_input_ids" in inputs:
        return {**inputs, "decoder_input_ids": tokens[:, None]}
    mask = inputs["attention_mask"]
    return {
        **inputs,
        "input_ids": tokens[:, None],
        "attention_mask": torch.cat([mask, torch.ones_like(mask[:, :1])], dim=1),
        # A row that is done stays where it is: others may go on for longer than its context would last.
        "position_ids": inputs["position_ids"][:, -1:] + alive[:, None],
    }


def warp(
    logits: Float[Tensor, "B V"],
    controls: Controls,
    history: Int[Tensor, "B L"],
    history_mask: Bool[Tensor, "B L"],
    step: int,
    eos_id: int,
) -> Float[Tensor, "B V"]:
    """Logits with every control applied: the last of `warp_stages`. A filtered token gets −∞."""
    for stage in warp_stages(logits, controls, history, history_mask, step, eos_id):
        logits = stage.logits
    return logits


def warp_stages(
    logits: Float[Tensor, "B V"],
    controls: Controls,
    history: Int[Tensor, "B L"],
    history_mask: Bool[Tensor, "B L"],
    step: int,
    eos_id: int,
) -> Iterator[WarpStage]:
    """Logits after one control more each, in the order that `transformers` applies them.

    Repetition penalty (Keskar et al. 2019, over prompt and completion), minimum length, temperature, then the
    filters top-k, top-p (Holtzman et al. 2020) and min-p (Nguyen et al. 2024).
    """
    seen = torch.zeros_like(logits, dtype=torch.bool)
    seen.scatter_(1, torch.where(history_mask, history, history[:, -1:]), True)
    penalised = torch.where(logits > 0, logits / controls.repetition_penalty, logits * controls.repetition_penalty)
    logits = torch.where(seen, penalised, logits)
    yield WarpStage("repetition_penalty", logits)
    eos = torch.arange(logits.shape[1], device=logits.device) == eos_id
    logits = torch.where((step < controls.min_new_tokens) & eos, NEVER, logits)
    yield WarpStage("min_new_tokens", logits)
    logits = torch.where(controls.greedy, logits, logits / controls.temperature)
    yield WarpStage("temperature", logits)
    logits = _keep_top_k(logits, controls.top_k)
    yield WarpStage("top_k", logits)
    logits = _keep_top_p(logits, controls.top_p)
    yield WarpStage("top_p", logits)
    yield WarpStage("min_p", _keep_min_p(logits, controls.min_p))


def draw(logits: Float[Tensor, "B V"], uniform: Float[Tensor, " B"], greedy: Bool[Tensor, "B 1"]) -> Int[Tensor, " B"]:
    """One token per row: the argmax where greedy, else the token at `uniform` of the cumulative distribution."""
    cumulative = logits.double().softmax(-1).cumsum(-1)
    # Scaling by the last entry keeps the target below the total, whatever rounding did to the sum.
    targets = uniform[:, None].double() * cumulative[:, -1:]
    drawn = torch.searchsorted(cumulative, targets, right=True).clamp(max=logits.shape[-1] - 1)
    return torch.where(greedy, logits.argmax(-1, keepdim=True), drawn)[:, 0]


@torch.no_grad()
def beam_search(policy: Policy, prompts: Sequence[Sequence[int]], sampling: Sequence[Sampling]) -> Samples:
    """The best beam for each prompt, by `transformers`' own search; all rows share the first row's settings."""
    from transformers import GenerationConfig

    check_context(policy, prompts, sampling)
    settings = sampling[0]
    config = policy.model.config
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
        eos_token_id=policy.eos_id,
        pad_token_id=policy.eos_id,
        decoder_start_token_id=config.decoder_start_token_id if config.is_encoder_decoder else None,
    )
    with _defaults(policy.model, controls):
        output = policy.model.generate(input_ids=input_ids, attention_mask=mask)  # type: ignore[operator]
    tokens = output[:, begun:]
    finished = (tokens == policy.eos_id).any(1)
    limits = torch.full_like(tokens[:, 0], tokens.shape[1])
    lengths = _lengths(tokens, finished, limits, policy.eos_id)
    unscored = Samples(tokens, lengths, finished, torch.zeros(tokens.shape))
    batch = make_batch(prompts, unscored.responses(), policy.device)
    return unscored._replace(logprobs=response_logprobs(policy.model, batch))


def _keep_top_k(logits: Float[Tensor, "B V"], top_k: Int[Tensor, "B 1"]) -> Float[Tensor, "B V"]:
    if not top_k.any():
        return logits
    size = logits.shape[-1]
    kept = torch.where(top_k == 0, size, top_k).clamp(max=size)
    threshold = logits.sort(-1, descending=True).values.gather(-1, kept - 1)
    return torch.where(logits < threshold, NEVER, logits)


def _keep_top_p(logits: Float[Tensor, "B V"], top_p: Float[Tensor, "B 1"]) -> Float[Tensor, "B V"]:
    if (top_p == 1.0).all():
        return logits
    ascending, order = logits.sort(-1)
    # A token goes when it and all less likely ones together hold at most 1 − p; the likeliest always stays.
    dropped = (ascending.softmax(-1).cumsum(-1) <= 1.0 - top_p) & (top_p < 1.0)
    dropped[:, -1] = False
    return logits.masked_fill(torch.zeros_like(dropped).scatter(-1, order, dropped), NEVER)


def _keep_min_p(logits: Float[Tensor, "B V"], min_p: Float[Tensor, "B 1"]) -> Float[Tensor, "B V"]:
    if not min_p.any():
        return logits
    probabilities = logits.softmax(-1)
    return torch.where(probabilities < min_p * probabilities.amax(-1, keepdim=True), NEVER, logits)


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


def as_controls(sampling: Sequence[Sampling], device: torch.device) -> Controls:
    """Each row's settings, put in columns."""

    def column(field: str) -> Tensor:
        return torch.tensor([[getattr(settings, field)] for settings in sampling], device=device)

    temperature = column("temperature").float()
    return Controls(
        temperature=temperature.clamp(min=1e-6),
        greedy=temperature == 0.0,
        top_k=column("top_k"),
        top_p=column("top_p").float(),
        min_p=column("min_p").float(),
        repetition_penalty=column("repetition_penalty").float(),
        min_new_tokens=column("min_new_tokens"),
        max_new_tokens=column("max_new_tokens"),
    )


def _needs_filters(sampling: Sequence[Sampling]) -> bool:
    plain = Sampling()
    fields = ("top_k", "top_p", "min_p", "repetition_penalty", "min_new_tokens")
    return any(getattr(settings, field) != getattr(plain, field) for settings in sampling for field in fields)


def _uniform(seeds: Sequence[int], steps: int) -> Float[Tensor, "B T"]:
    return torch.stack([torch.rand(steps, generator=torch.Generator().manual_seed(seed)) for seed in seeds])


def _lengths(
    tokens: Int[Tensor, "B T"], finished: Bool[Tensor, " B"], limits: Int[Tensor, " B"], eos_id: int
) -> Int[Tensor, " B"]:
    first_eos = (tokens == eos_id).long().argmax(1) + 1
    return torch.where(finished, first_eos, limits.clamp(max=tokens.shape[1]))


def check_context(policy: Policy, prompts: Sequence[Sequence[int]], sampling: Sequence[Sampling]) -> None:
    """Raises ValueError when a prompt and its completion exceed the context: together, or each where both have one."""
    config = policy.model.config
    context = getattr(config, "max_position_embeddings", None)
    together = max if config.is_encoder_decoder else sum
    longest = max(
        together((len(prompt), settings.max_new_tokens)) for prompt, settings in zip(prompts, sampling, strict=True)
    )
    if context is not None and longest > context:
        raise ValueError(
            f"a prompt and its completion take {longest} tokens, but the model's context is {context}; "
            "lower max_new_tokens or shorten the prompts"
        )


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
