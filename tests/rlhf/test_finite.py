"""What is not finite: named and counted, skipped as often as params allow, and never saved."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from rlhf.finite import BadBatches, NotFiniteError, check_figures, check_state, check_tensors
from rlhf.models import Policy, save_policy

NAN, INF = float("nan"), float("inf")


def test_what_is_bad_is_named_and_counted() -> None:
    """The first figure, and of a tensor how many of how many entries, with the first of them."""
    check_figures({"loss": 1.0})
    check_tensors({"scores": torch.zeros(2)})
    with pytest.raises(NotFiniteError, match="the norm is inf"):
        check_figures({"loss": 1.0, "norm": INF, "rate": NAN})
    with pytest.raises(NotFiniteError, match=r"of 6 scores 2 are not finite \(-inf\)"):
        check_tensors({"values": torch.ones(1), "scores": torch.tensor([[1.0, -INF, NAN], [0.0, 0.0, 0.0]])})


def test_bad_batches_are_skipped_up_to_their_number() -> None:
    """Each is kept with what is known of it; one more than the limit stops with all that there is to say."""
    kept: list[object] = []
    bad = BadBatches("sft", 1, lambda batch: kept.append(batch) or "aside.jsonl")
    bad.skip(NotFiniteError("the loss is nan", {"scores": [NAN]}), step=7)
    assert kept == [{"found": "the loss is nan", "step": 7, "scores": [pytest.approx(NAN, nan_ok=True)]}]
    with pytest.raises(
        ValueError,
        match=r"the norm is inf; batches of sft that nothing could be learnt from: 2 \(they are kept in aside.jsonl\), "
        r"and sft.max_bad_batches allows 1; lower sft.learning_rate, or look for damaged data",
    ):
        bad.skip(NotFiniteError("the norm is inf"))
    assert bad.count == len(kept) == 2


@pytest.mark.parametrize(
    ("state", "place"),
    [
        ({"policy": [torch.zeros(2), torch.tensor([0.0, INF])]}, "state: policy: 1 is not finite"),
        ({"adam": {0: {"step": torch.tensor(1), "moment": torch.tensor([NAN])}}}, "state: adam: 0: moment is not"),
        ({"mean": NAN}, "state: mean is not finite and is not saved"),
    ],
)
def test_a_state_is_looked_through_at_any_depth(state: object, place: str) -> None:
    """Where the number stands is told; names, counts and what is not there are let through."""
    check_state({"name": "x", "count": 3, "critic": None, "weights": [torch.ones(2)]}, "state")
    with pytest.raises(ValueError, match=place):
        check_state(state, "state")


def test_a_policy_that_is_not_finite_is_not_saved(speller: Policy, clone: Any, tmp_path: Path) -> None:
    """One number of one weight is enough; nothing is written, and the error names the weight."""
    policy: Policy = clone(speller)
    with torch.no_grad():
        policy.model.lm_head.weight[3, 1] = NAN
    with pytest.raises(ValueError, match=r"policy: model.embed_tokens.weight is not finite and is not saved"):
        save_policy(policy, tmp_path / "policy")
    assert not (tmp_path / "policy").exists()
