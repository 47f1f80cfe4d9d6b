"""The buffer between training steps and the tracker."""

from __future__ import annotations

from tasks.tracking.metric_buffer import MetricBuffer, Point


class Clock:
    """Seconds that pass when the test says so."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_figures_wait_for_two_seconds_and_go_out_together() -> None:
    """Nothing is sent before the time is up, then all of it in one call, then the wait begins anew."""
    sent: list[list[Point]] = []
    clock = Clock()
    buffer = MetricBuffer(sent.append, clock)
    buffer(1, {"loss": 3.0})
    clock.now = 1.9
    buffer(2, {"loss": 2.0})
    assert sent == []
    clock.now = 2.0
    buffer(3, {"loss": 1.0})
    assert sent == [[("train/loss", 3.0, 1), ("train/loss", 2.0, 2), ("train/loss", 1.0, 3)]]
    clock.now = 3.9
    buffer(4, {"loss": 0.5})
    assert len(sent) == 1


def test_a_flush_sends_the_rest_once() -> None:
    """What was sent is not sent again, and an empty buffer sends nothing."""
    sent: list[list[Point]] = []
    buffer = MetricBuffer(sent.append, Clock())
    buffer(1, {"loss": 3.0, "kl": 0.1})
    buffer.flush()
    buffer.flush()
    assert sent == [[("train/loss", 3.0, 1), ("train/kl", 0.1, 1)]]


def test_a_second_training_in_a_stage_keeps_curves_of_its_own() -> None:
    """The reward stage trains a judge after the reward model: its steps begin at 1 again."""
    sent: list[list[Point]] = []
    buffer = MetricBuffer(sent.append, Clock())
    for step in (1, 2, 1, 2, 1):
        buffer(step, {"loss": 0.0})
    buffer.flush()
    names = [name for name, _, _ in sent[0]]
    assert names == ["train/loss", "train/loss", "train2/loss", "train2/loss", "train3/loss"]
