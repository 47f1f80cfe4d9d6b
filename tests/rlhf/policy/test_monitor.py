"""The monitor on a run whose proxy pays for repetition: it reads, it stops in time, and it disturbs nothing."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from typing import NamedTuple

import pytest
import torch

from rlhf.drawing.samples import Samples
from rlhf.evaluation.answers import sequence_kl
from rlhf.evaluation.text import distinct_n, empty_share, identical_share, repeated_ngram_share
from rlhf.generation import generate
from rlhf.models import Policy
from rlhf.policy.monitor import Monitor
from rlhf.ppo.critic import Critic
from rlhf.ppo.trainer import PpoTrainer
from rlhf.records import Sampling
from rlhf.settings.policy import MonitorSettings, PolicySettings

PROMPTS = ["a", "b c", "d", "e a b", "c", "b", "e d", "a a"] * 4
DEV = [f"{one} {other}" for one in "abcde" for other in "abcd"]
QUIET = dict.fromkeys(
    ("max_length_ratio", "min_length_ratio", "max_empty", "max_identical", "max_repetition", "min_distinct_ratio")
)


class Assessment(NamedTuple):
    """What a reward model of several members says."""

    scores: torch.Tensor
    spread: torch.Tensor


class Greedy:
    """A proxy that pays for every `a`, without end; its members differ by the text's length."""

    def score(self, prompts: Sequence[object], completions: Sequence[str], batch_size: int = 64) -> torch.Tensor:
        return torch.tensor([float(text.split().count("a")) for text in completions])

    def assess(self, prompts: Sequence[object], completions: Sequence[str]) -> Assessment:
        return Assessment(
            self.score(prompts, completions), torch.tensor([float(len(text.split())) for text in completions])
        )


class Content:
    """A held-out scorer that is content with one `a`: each one more costs a half."""

    def score(self, prompts: Sequence[object], completions: Sequence[str], batch_size: int = 64) -> torch.Tensor:
        counts = [text.split().count("a") for text in completions]
        return torch.tensor([min(count, 1) - 0.5 * max(0, count - 1) for count in counts])


def monitor_of(held_out: object | None = None, iterations: int = 40, **limits: object) -> Monitor:
    """A monitor that asks the two scorers above."""
    settings = MonitorSettings.model_validate({"every": 2} | QUIET | limits)
    return Monitor(DEV, Greedy(), held_out, settings, Sampling(max_new_tokens=8), iterations, seed=3)  # type: ignore[arg-type]


@pytest.fixture
def trainer_of(speller: Policy, clone: Callable[[Policy], Policy]) -> Callable[..., PpoTrainer]:
    """Builds a trainer on the eight-word model with the greedy proxy, no KL penalty and this monitor."""

    def build(monitor: Monitor | None, iterations: int = 40) -> PpoTrainer:
        settings = PolicySettings.model_validate(
            {"iterations": iterations, "prompts_per_iteration": 32, "max_new_tokens": 8, "critic_warmup": 0}
            | {"minibatches": 2, "learning_rate": 1e-2, "kl": {"coefficient": 0.0}, "unfinished_score": 0.0}
        )
        critic = Critic(speller.model.base_model, speller.hidden)
        return PpoTrainer(
            policy=clone(speller),
            reference=clone(speller),
            critic=critic,
            scorer=Greedy(),
            prompts=PROMPTS,
            settings=settings,
            watch=monitor,
        )

    return build


def weights(policy: Policy) -> list[torch.Tensor]:
    """A copy of all weights."""
    return [weight.detach().clone() for weight in policy.model.parameters()]


def test_a_reading_is_what_the_policy_writes(speller: Policy, trainer_of: Callable[..., PpoTrainer]) -> None:
    """Scores, KL and statistics equal those of samples drawn with the same seeds, in whatever batches."""
    trainer, monitor = trainer_of(None), monitor_of(Content())
    monitor.prompts = DEV * 4  # more than one batch holds
    with torch.no_grad():
        for weight in trainer.policy.model.parameters():
            weight.add_(0.02 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(0)))
    reading = monitor.read(trainer.policy, trainer.networks.log_ratio, 6)
    drawn = generate(trainer.policy, DEV * 4, [Sampling(max_new_tokens=8)] * 80, list(range(3, 83)), batch_size=9)
    texts = [completion.text for completion in drawn]
    assert torch.equal(reading.proxy, Greedy().score([], texts))
    assert reading.held_out is not None
    assert torch.equal(reading.held_out, Content().score([], texts))
    assert reading.spread == pytest.approx(sum(len(text.split()) for text in texts) / 80)
    assert reading.kl == pytest.approx(sequence_kl(trainer.policy, speller, DEV * 4, 8, 3, 64), abs=1e-4)
    assert reading.kl > 0.01
    assert reading.length == pytest.approx(sum(completion.tokens for completion in drawn) / 80)
    assert reading.repeated_3 == repeated_ngram_share(texts, 3)
    assert reading.distinct_2 == distinct_n(texts, 2)
    assert (reading.empty, reading.identical) == (empty_share(texts), identical_share(texts))
    assert 0.0 < reading.empty < reading.identical < 1.0
    assert reading.iteration == 6


def test_a_proxy_that_knows_no_spread_is_read_too(trainer_of: Callable[..., PpoTrainer]) -> None:
    """Any scorer will do."""
    trainer, monitor = trainer_of(None), monitor_of()
    monitor.proxy = Content()
    reading = monitor.read(trainer.policy, trainer.networks.log_ratio, 0)
    assert reading.spread == 0.0
    assert reading.held_out is None


def test_the_first_reading_is_the_baseline_and_the_best(trainer_of: Callable[..., PpoTrainer]) -> None:
    """KL 0, gains 0, no warning; an unchanged policy reads the same again, and is no better."""
    trainer, monitor = trainer_of(None), monitor_of(Content())
    first, again = (monitor.check(trainer.policy, trainer.networks.log_ratio, iteration) for iteration in (0, 2))
    assert first is not None
    assert again is not None
    assert first.figures["monitor_kl"] == pytest.approx(0.0, abs=1e-4)
    assert first.figures["monitor_proxy_gain"] == first.figures["monitor_held_out_gain"] == 0.0
    assert (first.best, first.warnings, first.stop) == (True, [], None)
    assert (again.best, again.warnings, again.stop) == (False, [], None)
    assert again.figures == first.figures


def test_readings_are_due_every_so_often_and_at_the_end(trainer_of: Callable[..., PpoTrainer]) -> None:
    """Of 7 iterations at every third: 0, 3, 6 and 7."""
    trainer, monitor = trainer_of(None), monitor_of(every=3, iterations=7)
    checks = [monitor.check(trainer.policy, trainer.networks.log_ratio, iteration) for iteration in range(8)]
    assert [place for place, check in enumerate(checks) if check is not None] == [0, 3, 6, 7]


def test_over_optimisation_is_stopped_and_the_best_policy_is_back(trainer_of: Callable[..., PpoTrainer]) -> None:
    """The proxy rises on, the held-out score rises and falls; the run ends and its weights are the best reading's."""
    monitor = monitor_of(Content())
    trainer = trainer_of(monitor)
    seen = {0: weights(trainer.policy)}
    last: list[torch.Tensor] = []
    inner = monitor.check

    def check(policy: Policy, log_ratio: object, iteration: int) -> object:
        nonlocal last
        last = seen[iteration] = weights(policy)
        return inner(policy, log_ratio, iteration)  # type: ignore[arg-type]

    monitor.check = check  # type: ignore[assignment, method-assign]
    rows = list(trainer.train())
    assert len(rows) < 40
    assert trainer.stopped is not None
    assert trainer.kept is not None
    assert "so the policy learns to fool it" in trainer.stopped
    assert f"The policy of iteration {trainer.kept.iteration} is kept" in trainer.stopped
    means = {reading.iteration: float(reading.held_out.mean()) for reading in monitor.readings}
    assert means[trainer.kept.iteration] == max(means.values()) > means[0]
    assert rows[-1]["monitor_held_out"] < max(means.values())
    assert rows[-1]["monitor_proxy"] > float(monitor.readings[0].proxy.mean()) + 1.0
    assert rows[-1]["monitor_proxy_gain"] > 1.0
    now = weights(trainer.policy)
    assert all(torch.equal(one, other) for one, other in zip(now, seen[trainer.kept.iteration], strict=True))
    assert not all(torch.equal(one, other) for one, other in zip(now, last, strict=True))


def test_without_a_held_out_score_the_kl_limit_stops(trainer_of: Callable[..., PpoTrainer]) -> None:
    """Two readings in a row past it; the last one within is kept."""
    monitor = monitor_of(None, max_kl=0.5)
    trainer = trainer_of(monitor)
    list(trainer.train())
    kl = [reading.kl for reading in monitor.readings]
    assert trainer.stopped is not None
    assert trainer.kept is not None
    assert min(kl[-2:]) > 0.5 >= max(kl[:-2])
    assert trainer.kept.iteration == monitor.readings[-3].iteration


@pytest.mark.parametrize("patience", [1, 3])
def test_patience_is_how_many_readings_in_a_row_stop(trainer_of: Callable[..., PpoTrainer], patience: int) -> None:
    """The ones before warn."""
    trainer, monitor = trainer_of(None), monitor_of(max_kl=0.1, patience=patience)
    monitor.check(trainer.policy, trainer.networks.log_ratio, 0)
    with torch.no_grad():
        trainer.policy.model.get_input_embeddings().weight.mul_(3.0)
    for count in range(1, patience + 1):
        check = monitor.check(trainer.policy, trainer.networks.log_ratio, 2 * count)
        assert check is not None
        assert len(check.warnings) == 1
        assert (check.stop is not None) == (count == patience)


def test_at_the_end_one_reading_past_a_limit_is_enough(trainer_of: Callable[..., PpoTrainer]) -> None:
    """There is no later reading that could recover."""
    trainer, monitor = trainer_of(None), monitor_of(max_kl=0.1, patience=3, iterations=2)
    monitor.check(trainer.policy, trainer.networks.log_ratio, 0)
    with torch.no_grad():
        trainer.policy.model.get_input_embeddings().weight.mul_(3.0)
    check = monitor.check(trainer.policy, trainer.networks.log_ratio, 2)
    assert check is not None
    assert check.stop is not None
    assert "The policy of iteration 0 is kept" in check.stop


def test_watching_disturbs_nothing(trainer_of: Callable[..., PpoTrainer]) -> None:
    """With and without a monitor whose limits are far off: the same figures and the same weights, bit for bit."""
    watched = trainer_of(monitor_of(Content(), iterations=4, max_held_out_drop=100.0), iterations=4)
    alone = trainer_of(None, iterations=4)
    before = torch.get_rng_state()
    ours = [{key: value for key, value in row.items() if "monitor" not in key} for row in watched.train()]
    assert torch.equal(torch.get_rng_state(), before)
    assert ours == list(alone.train())
    pairs = zip(weights(watched.policy), weights(alone.policy), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)


def test_a_run_taken_up_from_a_checkpoint_stops_where_it_would_have(trainer_of: Callable[..., PpoTrainer]) -> None:
    """The readings travel in the checkpoint, as plain tensors that load without pickled code."""
    whole = trainer_of(monitor_of(Content()))
    rows = list(whole.train())
    first = trainer_of(monitor_of(Content()))
    steps = first.train()
    for _ in range(5):
        next(steps)
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    second = trainer_of(monitor_of(Content()))
    second.load_state_dict(torch.load(file, weights_only=True))
    assert list(second.train()) == rows[5:]
    assert second.stopped == whole.stopped is not None
    pairs = zip(weights(second.policy), weights(whole.policy), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)


def test_a_first_reading_that_measured_nothing_is_an_error(trainer_of: Callable[..., PpoTrainer]) -> None:
    """There would be nothing to hold the others against; a later one is a reading past a limit, without its figure."""

    class Mute(Greedy):
        def score(self, prompts: Sequence[object], completions: Sequence[str], batch_size: int = 64) -> torch.Tensor:
            return super().score(prompts, completions) * float("nan")

    trainer, monitor = trainer_of(None), monitor_of(iterations=20)
    talking, monitor.proxy = monitor.proxy, Mute()
    with pytest.raises(
        ValueError, match=r"before the first update the reward model's score is not finite for 20 of 20"
    ):
        monitor.check(trainer.policy, trainer.networks.log_ratio, 0)
    monitor.proxy = talking
    monitor.check(trainer.policy, trainer.networks.log_ratio, 0)
    monitor.proxy = Mute()
    check = monitor.check(trainer.policy, trainer.networks.log_ratio, 2)
    assert check is not None
    assert not check.best
    assert "not finite" in check.warnings[0]
    assert "monitor_kl" in check.figures
    assert "monitor_proxy" not in check.figures


def test_a_policy_that_falls_silent_is_seen(
    trainer_of: Callable[..., PpoTrainer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """EOS at once for every prompt: shorter, empty and identical, where no word is left to repeat, or to differ."""
    trainer, monitor = trainer_of(None), monitor_of()
    monitor.limits = MonitorSettings(every=2)
    monitor.check(trainer.policy, trainer.networks.log_ratio, 0)

    def silent(policy: Policy, prompts: Sequence[Sequence[int]], *_: object) -> Samples:
        ends = torch.full((len(prompts), 1), policy.eos_id)
        return Samples(ends, torch.ones(len(prompts), dtype=torch.long), ends > 0, torch.zeros(len(prompts), 1))

    monkeypatch.setattr("rlhf.policy.monitor.sample", silent)
    check = monitor.check(trainer.policy, trainer.networks.log_ratio, 2)
    assert check is not None
    found = " ".join(check.warnings)
    for words in (
        "pay for brevity",
        "100% of completions are empty",
        "100% of completions are another",
        "are distinct",
    ):
        assert words in found
    assert (monitor.readings[-1].length, monitor.readings[-1].distinct_2) == (1.0, 0.0)
