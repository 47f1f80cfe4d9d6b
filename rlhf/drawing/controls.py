"""The sampler's controls, row by row: what each does to the logits of the next token.

Dimensions: B batch, L tokens of the history, K the likeliest of them, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rlhf.records import Sampling

NEVER = float("-inf")
NUCLEUS = 256
"""How many of the likeliest tokens are looked at before the vocabulary is sorted."""


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

    def rows(self, index: Int[Tensor, " N"]) -> Controls:
        """Those of some of the rows."""
        return Controls(*(column[index] for column in self))


class WarpStage(NamedTuple):
    """Logits after a control, which is called as in `Sampling`."""

    control: str
    logits: Float[Tensor, "B V"]


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


def needs_filters(sampling: Sequence[Sampling]) -> bool:
    """Whether any row asks for more than a temperature."""
    plain = Sampling()
    fields = ("top_k", "top_p", "min_p", "repetition_penalty", "min_new_tokens")
    return any(getattr(settings, field) != getattr(plain, field) for settings in sampling for field in fields)


def warp(
    logits: Float[Tensor, "B V"],
    controls: Controls,
    history: Int[Tensor, "B L"],
    history_mask: Bool[Tensor, "B L"],
    step: int,
    stop_ids: Sequence[int],
) -> Float[Tensor, "B V"]:
    """Logits with every control applied: the last of `warp_stages`. A filtered token gets −∞."""
    for stage in warp_stages(logits, controls, history, history_mask, step, stop_ids):
        logits = stage.logits
    return logits


def warp_stages(
    logits: Float[Tensor, "B V"],
    controls: Controls,
    history: Int[Tensor, "B L"],
    history_mask: Bool[Tensor, "B L"],
    step: int,
    stop_ids: Sequence[int],
) -> Iterator[WarpStage]:
    """Logits after one control more each, in the order that `transformers` applies them.

    Repetition penalty (Keskar et al. 2019, over prompt and completion), minimum length, temperature, then the
    filters top-k, top-p (Holtzman et al. 2020) and min-p (Nguyen et al. 2024).
    """
    logits = _penalise(logits, controls.repetition_penalty, torch.where(history_mask, history, history[:, -1:]))
    yield WarpStage("repetition_penalty", logits)
    early = step < controls.min_new_tokens[:, 0]
    if early.any():
        stops = torch.tensor(stop_ids, device=logits.device)
        logits = logits.index_copy(1, stops, logits[:, stops].masked_fill(early[:, None], NEVER))
    yield WarpStage("min_new_tokens", logits)
    logits = torch.where(controls.greedy, logits, logits / controls.temperature)
    yield WarpStage("temperature", logits)
    logits = _keep_top_k(logits, controls.top_k)
    yield WarpStage("top_k", logits)
    logits = _keep_top_p(logits, controls.top_p)
    yield WarpStage("top_p", logits)
    yield WarpStage("min_p", _keep_min_p(logits, controls.min_p))


def _penalise(
    logits: Float[Tensor, "B V"], penalty: Float[Tensor, "B 1"], seen: Int[Tensor, "B L"]
) -> Float[Tensor, "B V"]:
    """A token seen once or several times is penalised once."""
    if (penalty == 1.0).all():
        return logits
    before = logits.gather(1, seen)
    return logits.scatter(1, seen, torch.where(before > 0, before / penalty, before * penalty))


def _keep_top_k(logits: Float[Tensor, "B V"], top_k: Int[Tensor, "B 1"]) -> Float[Tensor, "B V"]:
    size = logits.shape[1]
    width = min(int(top_k.max()), size)
    if not width:
        return logits
    kth = logits.topk(width).values.gather(1, (top_k - 1).clamp(min=0, max=width - 1))
    return logits.masked_fill((logits < kth) & (top_k > 0), NEVER)


def _keep_top_p(logits: Float[Tensor, "B V"], top_p: Float[Tensor, "B 1"]) -> Float[Tensor, "B V"]:
    """A token goes when it and all less likely ones together hold at most 1 − p; the likeliest always stays.

    The likeliest few tell where the nucleus ends in most rows; the others are sorted.
    """
    on = top_p < 1.0
    if not on.any():
        return logits
    width = min(NUCLEUS, logits.shape[1])
    likeliest = logits.topk(width).values
    chances = (likeliest - logits.logsumexp(-1, keepdim=True)).exp()
    count = (chances.cumsum(-1) - chances < top_p).sum(-1, keepdim=True).clamp(min=1)
    dropped = (logits < likeliest.gather(1, count - 1)) & on
    # Equal logits at the nucleus's edge are for the sort too, which takes them in a stated order.
    unclear = on & ((count == width) | (dropped.sum(-1, keepdim=True) + count != logits.shape[1]))
    rows = unclear[:, 0].nonzero()[:, 0]
    if len(rows):
        dropped[rows] = _outside_nucleus(logits[rows], top_p[rows])
    return logits.masked_fill(dropped, NEVER)


def _outside_nucleus(logits: Float[Tensor, "B V"], top_p: Float[Tensor, "B 1"]) -> Bool[Tensor, "B V"]:
    """The same by sorting the vocabulary; of equally likely tokens the lower ids go first."""
    ascending, order = logits.sort(dim=-1, stable=True)
    dropped = ascending.softmax(-1).cumsum(-1) <= 1.0 - top_p
    dropped[:, -1] = False
    return torch.zeros_like(dropped).scatter(-1, order, dropped)


def _keep_min_p(logits: Float[Tensor, "B V"], min_p: Float[Tensor, "B 1"]) -> Float[Tensor, "B V"]:
    """A token goes when it is less likely than min_p times the likeliest: z < max z + log min_p."""
    if not min_p.any():
        return logits
    return logits.masked_fill(logits < logits.amax(-1, keepdim=True) + min_p.log(), NEVER)
