"""The adaptive KL coefficient, by hand."""

from __future__ import annotations

import pytest

from rlhf.ppo.kl import KlController
from rlhf.settings.policy import KlSettings


def controller(**settings: object) -> KlController:
    return KlController.start(KlSettings.model_validate({"coefficient": 0.1, "horizon": 1000, **settings}))


def test_without_a_target_the_coefficient_stands_still() -> None:
    """Whatever the KL."""
    fixed = controller()
    fixed.update(kl=100.0, sequences=64)
    assert fixed.coefficient == 0.1


@pytest.mark.parametrize(
    ("kl", "factor"),
    [
        (6.0, 1.0),  # on target
        (6.6, 1 + 0.1 * 50 / 1000),  # ten per cent above
        (5.4, 1 - 0.1 * 50 / 1000),  # ten per cent below
        (60.0, 1 + 0.2 * 50 / 1000),  # far above: the error is clipped at .2
        (0.0, 1 - 0.2 * 50 / 1000),  # far below
        (-3.0, 1 - 0.2 * 50 / 1000),  # an estimate may be negative
    ],
)
def test_the_coefficient_grows_above_the_target_and_shrinks_below(kl: float, factor: float) -> None:
    """β·(1 + clip(KL/6 - 1, ±.2)·50/1000)."""
    adaptive = controller(target=6.0)
    adaptive.update(kl, sequences=50)
    assert adaptive.coefficient == pytest.approx(0.1 * factor)


def test_updates_compound() -> None:
    """Three iterations far above a target: 1.01³ with 50 sequences at a horizon of 1000."""
    adaptive = controller(target=1.0)
    for _ in range(3):
        adaptive.update(9.0, sequences=50)
    assert adaptive.coefficient == pytest.approx(0.1 * 1.01**3)
