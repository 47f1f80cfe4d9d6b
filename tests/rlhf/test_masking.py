"""Masked statistics: golden numbers by hand, and nothing that a mask leaves out is ever seen."""

from __future__ import annotations

import jaxtyping
import pytest
import torch

from rlhf.masking import explained_variance, length_mask, masked_mean, masked_variance, whiten

NAN = float("nan")
VALUES = torch.tensor([[1.0, 2.0, NAN], [6.0, NAN, NAN]])
MASK = torch.tensor([[True, True, False], [True, False, False]])


def test_masked_mean_and_variance_are_those_of_the_entries_that_count() -> None:
    """Of 1, 2 and 6: mean 3, population variance (4 + 1 + 9) / 3."""
    assert masked_mean(VALUES, MASK).item() == pytest.approx(3.0)
    assert masked_variance(VALUES, MASK).item() == pytest.approx(14 / 3)


def test_an_empty_mask_gives_zero() -> None:
    """Where nothing counts the mean and the variance are 0, not NaN."""
    nothing = torch.zeros_like(MASK)
    assert masked_mean(VALUES, nothing).item() == 0.0
    assert masked_variance(VALUES, nothing).item() == 0.0


def test_whitening_centres_and_scales_and_leaves_the_rest_zero() -> None:
    """(x - 3) / √(14/3), and 0 where masked."""
    deviation = (14 / 3) ** 0.5
    expected = torch.tensor([[-2 / deviation, -1 / deviation, 0.0], [3 / deviation, 0.0, 0.0]])
    torch.testing.assert_close(whiten(VALUES, MASK), expected)


def test_whitening_can_keep_the_mean() -> None:
    """With `keep_mean` the entries that count are scaled about their mean 3, the others stay 0."""
    whitened = whiten(VALUES, MASK, keep_mean=True)
    assert masked_mean(whitened, MASK).item() == pytest.approx(3.0)
    assert masked_variance(whitened, MASK).item() == pytest.approx(1.0)
    assert whitened[~MASK].tolist() == [0.0, 0.0, 0.0]


def test_whitening_equal_values_gives_zeros_and_not_infinities() -> None:
    """Without variance there is nothing to scale."""
    assert whiten(torch.full((2, 3), 5.0), MASK).abs().max().item() == 0.0


def test_explained_variance_by_hand() -> None:
    """Returns 1, 2, 6 and values 1, 2, 3: residuals 0, 0, 3 have variance 2, so 1 - 2 / (14/3) = 4/7."""
    values = torch.tensor([[1.0, 2.0, 9.0], [3.0, 9.0, 9.0]])
    assert explained_variance(values, VALUES, MASK).item() == pytest.approx(4 / 7)


def test_a_perfect_critic_explains_all_and_a_constant_one_nothing() -> None:
    """1 and 0 by definition."""
    assert explained_variance(VALUES, VALUES, MASK).item() == pytest.approx(1.0)
    assert explained_variance(torch.full((2, 3), 7.0), VALUES, MASK).item() == pytest.approx(0.0, abs=1e-6)


def test_length_mask_counts_from_the_left() -> None:
    """Two, none and three of three places."""
    assert length_mask(torch.tensor([2, 0, 3]), 3).tolist() == [[True, True, False], [False] * 3, [True] * 3]


def test_shapes_are_checked_while_tests_run() -> None:
    """A mask of another shape or type is refused: the annotations are live."""
    with pytest.raises(jaxtyping.TypeCheckError, match="mask"):
        masked_mean(VALUES, MASK[:, :2])
    with pytest.raises(jaxtyping.TypeCheckError, match="mask"):
        masked_mean(VALUES, MASK.float())
