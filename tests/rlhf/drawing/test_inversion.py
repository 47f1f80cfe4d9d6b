"""The draw in two levels against the plain inverse of a cumulative sum in double precision, and its filters."""

from __future__ import annotations

import pytest
import torch
from scipy.stats import chisquare

from rlhf.drawing import inversion
from rlhf.drawing.controls import NUCLEUS, Controls, warp
from rlhf.drawing.inversion import cumulate, invert, log_chances

SIZES = [1, 2, 65, 2048, 2049, 4096, 5003]
DRAWS = 500
EPSILON = 2**-24
LEAST = -80.0
"""log of chances that float32 still holds with all their digits."""


def logits_of(kind: str, size: int) -> torch.Tensor:
    """One row of logits that is hard in its own way."""
    generator = torch.Generator().manual_seed(size)
    row = torch.randn(size, generator=generator)
    place = int(torch.randint(size, (1,), generator=generator))
    hidden = torch.rand(size, generator=generator) < 0.7
    hidden[place] = False
    return {
        "flat": torch.zeros(size),
        "random": 3 * row,
        "far from 0": 3 * row + 2.0e4,
        "peaked": 60 * row,
        "one-hot": torch.full((size,), -torch.inf).index_fill(0, torch.tensor(place), 1.0),
        "filtered": row.masked_fill(hidden, -torch.inf),
        "last alone": torch.full((size,), -torch.inf).index_fill(0, torch.tensor(size - 1), 0.0),
        "first block filtered": row.masked_fill(torch.arange(size) < min(size - 1, 128), -torch.inf),
        "tail below rounding": torch.where(torch.arange(size) == 0, 0.0, -18.0 + row),
    }[kind]


KINDS = ["flat", "random", "far from 0", "peaked", "one-hot", "filtered", "last alone", "first block filtered"]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", [*KINDS, "tail below rounding"])
def test_the_drawn_token_is_the_plain_inverse(kind: str, size: int) -> None:
    """For 500 numbers, 0 and the largest below 1 among them: the plain token, or its neighbour at a boundary."""
    row = logits_of(kind, size)
    uniform = torch.rand(DRAWS, generator=torch.Generator().manual_seed(0))
    uniform[0], uniform[1] = 0.0, 1 - EPSILON
    drawn = invert(cumulate(row.expand(DRAWS, -1)), uniform)
    chances = row.double().softmax(0)
    ends = chances.cumsum(0)
    # The number falls into the token's own share of [0, 1), give or take the rounding of float32.
    assert (ends[drawn] - chances[drawn] <= uniform.double() + 1e-6).all()
    assert (uniform.double() < ends[drawn] + 1e-6).all()
    assert (chances[drawn] > 0).all()
    plain = torch.searchsorted(ends, uniform.double() * ends[-1], right=True)
    assert (drawn != plain).sum() <= 2


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", KINDS)
def test_log_chances_are_the_log_softmax(kind: str, size: int) -> None:
    """Of every token that may be drawn, as exact as float32 holds it."""
    row = logits_of(kind, size)
    chances = row.double().log_softmax(0)
    tokens = (chances > LEAST).nonzero()[:, 0]
    found = log_chances(cumulate(row.expand(len(tokens), -1)), tokens)
    torch.testing.assert_close(found.double(), chances[tokens], rtol=1e-6, atol=1e-6)


def test_a_row_is_drawn_as_it_would_be_alone() -> None:
    """Nine kinds of rows in one batch."""
    rows = torch.stack([logits_of(kind, 300) for kind in KINDS])
    uniform = torch.rand(len(rows), generator=torch.Generator().manual_seed(3))
    together = invert(cumulate(rows), uniform).tolist()
    alone = [int(invert(cumulate(row[None]), chance[None])) for row, chance in zip(rows, uniform, strict=True)]
    assert together == alone


def test_frequencies_over_a_vocabulary_of_several_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A chi-square over 40,000 draws from 300 tokens in 10 blocks, a third of them filtered out and never drawn."""
    monkeypatch.setattr(inversion, "SMALL_VOCABULARY", 0)
    row = torch.randn(300, generator=torch.Generator().manual_seed(0))
    row[::3] = -torch.inf
    uniform = torch.rand(40_000, generator=torch.Generator().manual_seed(1))
    counts = invert(cumulate(row.expand(40_000, -1)), uniform).bincount(minlength=300)
    chances = row.double().softmax(0)
    assert counts[chances == 0].sum() == 0
    kept = chances > 0
    assert chisquare(counts[kept].numpy(), (40_000 * chances[kept]).numpy()).pvalue > 1e-3


def warped(logits: torch.Tensor, **columns: list[float]) -> torch.Tensor:
    """Logits after controls of which these are on, a row each."""
    off = {"top_k": 0, "top_p": 1.0, "min_p": 0.0, "repetition_penalty": 1.0, "min_new_tokens": 0, "max_new_tokens": 9}
    rows = len(logits)
    settings = {name: torch.tensor(columns.get(name, [value] * rows))[:, None] for name, value in off.items()}
    controls = Controls(temperature=torch.ones(rows, 1), greedy=torch.zeros(rows, 1, dtype=torch.bool), **settings)
    seen = torch.zeros(rows, 1, dtype=torch.long)
    return warp(logits, controls, seen, torch.ones_like(seen, dtype=torch.bool), 0, [0])


@pytest.mark.parametrize("spread", [0.0, 0.01, 1.0, 8.0])
def test_the_nucleus_is_the_same_with_and_without_a_sort(spread: float) -> None:
    """Ten times as many tokens as are looked at first, from a flat row to a peaked one, for nuclei of every size."""
    shares = [0.01, 0.2, 0.5, 0.9, 0.999, 1.0]
    logits = spread * torch.randn(6, 10 * NUCLEUS, generator=torch.Generator().manual_seed(4))
    kept = ~torch.isneginf(warped(logits, top_p=shares))
    assert kept[5].all()
    for row, share in enumerate(shares[:5]):
        chances = logits[row].double().softmax(0).sort(descending=True).values
        expected = max(1, int((chances.cumsum(0) - chances < share).sum()))
        assert int(kept[row].sum()) == pytest.approx(expected, abs=2)
        assert logits[row][kept[row]].min() >= logits[row][~kept[row]].max()


def test_equally_likely_tokens_at_the_edge_of_the_nucleus_leave_by_their_ids() -> None:
    """Four of a quarter each, p = .5: two stay, the ones of the higher ids, in a batch as alone."""
    logits = torch.zeros(2, 4)
    logits[1, 0] = 5.0
    assert torch.isneginf(warped(logits, top_p=[0.5, 0.5])).tolist()[0] == [True, True, False, False]
    assert torch.isneginf(warped(logits[:1], top_p=[0.5])).tolist()[0] == [True, True, False, False]


def test_ties_at_the_edge_of_top_k_all_stay() -> None:
    """As in transformers; beside a row without top-k, which keeps all."""
    logits = torch.tensor([[1.0, 3.0, 2.0, 2.0, 0.0], [1.0, 3.0, 2.0, 2.0, 0.0]])
    kept = ~torch.isneginf(warped(logits, top_k=[2, 0]))
    assert kept.tolist() == [[False, True, True, True, False], [True] * 5]
