"""The benchmark's own arithmetic, and that our side of each race runs; the peers are not needed for it."""

from __future__ import annotations

import io
import json
import math
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from rlhf.adapters import attach
from rlhf.fast import activations, forwards, packing
from rlhf.generation import sampler
from rlhf.generation.decoding import ForwardDecoder
from rlhf.models import load_policy, save_policy
from rlhf.ppo.critic import Critic
from rlhf.settings.adapters import AdapterSettings
from rlhf.settings.model import ComputeSettings
from tests.benchmarks import __main__ as benchmarks
from tests.benchmarks import floor, growth, memory, ours, report, shapes, stages, worker
from tests.benchmarks.cases import CASES, PIECES, Case, Entry
from tests.benchmarks.floor import Network, Rates
from tests.benchmarks.harness import Contender, Runs, race
from tests.benchmarks.models import build
from tests.benchmarks.shapes import PREFIX, Work
from tests.benchmarks.worker import Job, Stopped, Turns

TINY = Work(shape="tiny", rows=4, new_tokens=3, completions=3, longest_prompt=10, longest_response=12, minibatches=2)
NETWORK = Network(layers=2, matrices=100, attention=4, cache=8, head=50)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of the tiny model."""
    path = tmp_path_factory.mktemp("benchmark") / "tiny"
    save_policy(build("tiny", None), path)
    return str(path)


def test_layers_and_attention_of_ragged_sequences_by_hand() -> None:
    """Lengths 1 and 3: 2·100·4 in the matrices; 2 layers of 2·4·(1·2 + 3·4) in attention; the head 2·50 a token."""
    assert NETWORK.forward([1, 3]) == 800 + 2 * 8 * 14
    assert NETWORK.predict(5) == 500


def test_a_decoding_step_takes_the_longer_of_its_operations_and_its_bytes() -> None:
    """Two prompts of 3; a second step of both rows, whose context is 4 each.

    The prompts: 2·100·6 + 2·8·24 + 2·100 = 1,784 operations. The step: 2·150·2 + 2·16·8 = 856 operations, and
    100 + 50 + 2·8·8 = 278 numbers of 4 bytes.
    """
    operations = NETWORK.decode([3, 3], [1.0, 1.0], Rates(flops=1.0, bandwidth=1e9))
    assert operations == pytest.approx(1_784 + 856)
    reading = NETWORK.decode([3, 3], [1.0, 1.0], Rates(flops=1e9, bandwidth=1.0))
    assert reading == pytest.approx(4 * 278, rel=1e-4)
    half = NETWORK.decode([3, 3], [1.0, 0.5], Rates(flops=1.0, bandwidth=1e9))
    assert half == pytest.approx(1_784 + 856 / 2)


@pytest.mark.parametrize("shape", ["tiny", "small"])
def test_the_counted_matrices_are_the_models_own(shape: str) -> None:
    """The layers' parameters of more than one dimension, and the head's."""
    built: Any = build(shape, None).model
    counted = floor.network_of(shape)
    matrices = sum(weight.numel() for weight in built.transformer.h.parameters() if weight.ndim > 1)
    assert (counted.matrices, counted.head) == (matrices, built.lm_head.weight.numel())


def test_the_counted_matrices_of_llama_are_the_models_own() -> None:
    """The layers' parameters of more than one dimension, and the width of what is cached of a token."""
    built, counted = build("tiny-llama", None).model, floor.network_of("tiny-llama")
    matrices = sum(weight.numel() for weight in built.model.layers.parameters() if weight.ndim > 1)
    assert (counted.matrices, counted.cache) == (matrices, 2 * 8)


def test_the_layers_of_llama_are_counted_with_their_shared_keys() -> None:
    """The 1B shape without its embeddings: 973 million parameters in the matrices of its layers."""
    assert floor.network_of("llama-1b").matrices == 16 * (2 * 2048**2 + 2 * 2048 * 512 + 3 * 2048 * 8192)


def test_a_critic_of_its_own_adds_its_passes_to_the_floor() -> None:
    """The network's trunk is read once when values are taken, and three times in each epoch."""
    rates = Rates(flops=1.0, bandwidth=1e12)
    with_network, with_head = (floor.seconds(TINY, "ppo", rates, critic) for critic in ("network", "head"))
    prompts = list(map(len, shapes.prompts(TINY)))
    trunk = floor.network_of("tiny").forward([length + 2 for length in prompts])
    assert with_network - with_head == pytest.approx((1 + 3 * 4) * trunk)


def test_the_prompt_of_a_ranking_is_read_once() -> None:
    """Three completions of one prompt: all of their sequences, less the prompt twice, forwards and backwards."""
    rates, network = Rates(flops=1.0, bandwidth=1.0), floor.network_of("tiny")
    expected = 0.0
    for prompt, completions in shapes.rankings(TINY):
        whole = network.forward([len(prompt) + len(completion) for completion in completions])
        expected += 3 * (whole - network.forward([len(prompt)] * 2))
    assert floor.seconds(TINY, "reward", rates) == pytest.approx(expected)


def test_ratios_are_of_repetitions_that_ran_side_by_side() -> None:
    """A machine that is slow for a while slows both: 2, 3 and 10 times, where the medians' ratio would be 3."""
    assert report.ratio([2.0, 30.0, 10.0], [1.0, 10.0, 1.0]) == (3.0, 2.0, 10.0)
    assert report.spread([3.0, 1.0, 2.0, 8.0]) == (2.5, 1.0, 8.0)


def test_seconds_are_for_the_same_tokens() -> None:
    """Who sampled half of what was expected is charged double; who counts nothing is taken at its word."""
    assert report.for_the_same_tokens([1.0, 3.0], [{"tokens": 5.0}, {}], 10.0) == [2.0, 3.0]


def test_a_case_is_summed_up_against_each_peer() -> None:
    """Ratios of time and memory stand at the peer; the multiple of the floor uses the better library's rate."""
    case = Case("sft", "SFT", "sft", TINY, (Entry("ours", "ours:sft"), Entry("them", "peers:sft", differs="slow")))
    machine = Runs(figures=[{"mkl": 1e6, "onednn": 2e6, "bandwidth": 1e9}, {"mkl": 3e6, "onednn": 1e6, "bandwidth": 1}])
    runs = [
        Runs([1.0, 2.0, 3.0], [1.0, 1.0, 1.0], [{}] * 3, peak_mb=50.0),
        Runs([4.0, 4.0, 6.0], [2.0, 3.0, 4.0], [{}] * 3, peak_mb=200.0),
    ]
    found = report.summarise(case, runs, machine)
    least = floor.seconds(TINY, "sft", Rates(3e6, 1e9))
    assert found["contenders"][0]["times_floor"] == pytest.approx(2.0 / least)
    against = found["contenders"][1]["ratios"]["ours"]
    assert (against["wall"]["median"], against["cpu"]["median"], against["memory"]) == (2.0, 3.0, 0.25)
    shown = report.table(found)
    assert "| 2 (2–4)×; CPU 3×; memory 0.25 |" in shown
    assert "- them: slow." in shown
    json.dumps(found)


def test_on_a_gpu_it_says_what_part_of_the_floor_was_reached() -> None:
    """Twice the floor's seconds are 50 %; at 494.5 TFLOP/s measured that is a quarter of the 989 that are stated."""

    def notes(kind: str, accelerator: str | None) -> str:
        case = Case(kind, "", kind, TINY, (Entry("ours", f"ours:{kind}"),))
        machine = Runs(figures=[{"cublas": 494.5e12, "bandwidth": 4e12}])
        least = floor.seconds(TINY, kind, Rates(494.5e12, 4e12))
        runs = [Runs([2 * least], [1.0], [{}])]
        return report.table(report.summarise(case, runs, machine, accelerator=accelerator))

    known = notes("sft", "NVIDIA H200")
    assert "- ours: 50% of what the floor allows (model FLOPs over the rate measured; 25% of the 989 TFLOP/s" in known
    assert "over the rate measured).\n" in notes("sft", "another")
    assert "- ours: 50% of what the floor allows.\n" in notes("sampling", "NVIDIA H200")
    assert "floor allows" not in notes("sft", None)


def test_the_peak_stands_beside_the_sum_of_what_must_be_there() -> None:
    """600 MB where 300 + 100 must be: 1.5 times; nothing where a contender does not say."""
    case = Case("lora", "", "lora", TINY, (Entry("ours", "ours:lora"), Entry("theirs", "peers:lora")))
    machine = Runs(figures=[{"mkl": 1e9, "bandwidth": 1e9}])
    held = {f"{PREFIX}backbone": 300.0, f"{PREFIX}cache": 100.0}
    runs = [Runs([1.0], [1.0], [figures], peak_mb=600.0) for figures in (held, {"tokens": 1.0})]
    shown = report.table(report.summarise(case, runs, machine))
    assert "- ours: peak 600 MB, 1.50 × 400 MB (backbone 300, cache 100).\n" in shown
    assert shown.count("peak 600") == 1


def test_what_must_be_there_is_summed_up_by_hand() -> None:
    """The tiny shape with an adapter of rank 2: 4 rows of 10 + 3 columns, two minibatches.

    Weights of 64 tokens and 64 places of 16, a layer of 12·16² and 13·16, a last norm of 32: 5,360, each of 4 bytes.
    LoRA on matrices 16 × 48, 16 × 16, 16 × 64 and 64 × 16: 2·(64 + 32 + 80 + 80) = 512 weights, four times. A head of
    17 weights, four times. Sampled: a cache of 1·32·13·4 numbers and 64·4 logits, 7,680 bytes. Learnt from two rows:
    their inputs 16·13·2 and, with their gradient, 64·3·2 logits, 4,736 bytes; from four twice as much, which is more.
    """
    policy = attach(build("tiny", None), AdapterSettings(rank=2), seed=0)
    always = {"backbone": 4 * 5_360, "adapter and its optimizer": 16 * 512, "critic and its optimizer": 16 * 17}
    sampled = {"cache": 4 * 1_664, "logits of a step": 4 * 256}
    learnt = {"layers' inputs": 4 * 16 * 13 * 4, "a chunk of logits and their gradient": 8 * 64 * 3 * 4}
    for minibatches, expected in ((2, sampled), (1, learnt)):
        found = memory.must_be_there(policy, Critic(None, 16), replace(TINY, minibatches=minibatches), 99)
        sizes = {name.removeprefix(PREFIX): round(size * 1e6) for name, size in found.items()}
        assert sizes == {**always, **expected}


@pytest.mark.parametrize(
    ("rates", "said"), [((1.0, 1.05), "multiply alike"), ((1.0, 2.0), "2.00 times"), ((2.0, 1.0), "0.50 times")]
)
def test_it_says_whether_the_library_matters(rates: tuple[float, float], said: str) -> None:
    """Where one multiplies faster than the other, the reader is told."""
    summary = {"rates": {"mkl": rates[0], "onednn": rates[1], "bandwidth": 1.0}}
    assert said in report.libraries([summary])


def test_a_stage_is_run_on_so_many_rows() -> None:
    """Once a turn, all rows good."""
    replies = io.StringIO()
    with pytest.raises(Stopped):
        stages.pairs(Job("", Work(rows=100), ""), Turns(io.StringIO("go\n"), replies))
    assert [sorted(json.loads(line))[0] for line in replies.getvalue().splitlines()] == ["ready", "cpu"]


def test_the_exponent_is_the_slope_on_logarithmic_axes() -> None:
    """Costs 3·size² grow as size^2.00, whatever the factor; constant ones as size^0."""
    sizes = [2.0, 4.0, 8.0]
    assert growth.exponent(sizes, [3 * size**2 for size in sizes]) == pytest.approx(2.0)
    assert growth.exponent(sizes, [5.0] * 3) == pytest.approx(0.0)


def test_growth_is_told_and_drawn(tmp_path: Path) -> None:
    """A row for each quantity with its exponents, and a picture."""
    axis = {"name": "prompts", "sizes": [16, 32], "seconds": [1.0, 2.0], "megabytes": [30.0, 31.0]}
    found = [axis | {"time_exponent": 1.0, "memory_exponent": 0.05}]
    assert "| prompts | 16, 32 | 1.00, 2.00 | size^1.00 | 30, 31 | size^0.05 |" in growth.table(found)
    growth.plot(found, tmp_path / "growth.png")
    assert (tmp_path / "growth.png").read_bytes().startswith(b"\x89PNG")


def test_lengths_are_ragged_within_their_bounds() -> None:
    """Half of the demonstrations are shorter than 40 tokens, and the longest nearly as long as may be."""
    rows = shapes.demonstrations(Work())
    responses = sorted(len(row.response) for row in rows)
    assert (responses[0], responses[32] < 40, 150 < responses[-1] <= 160) == (8, True, True)
    assert 4_500 < floor.tokens(Work(), "sft") < 5_300


def test_a_ranking_gives_the_peer_all_its_pairs() -> None:
    """Three completions give three pairs, each of the better and the worse one after their prompt."""
    rows, found = shapes.rankings(TINY), list(shapes.pairs(TINY))
    assert len(found) == 3 * len(rows)
    prompt, (best, _, worst) = rows[0]
    assert found[1] == ((prompt, best), (prompt, worst))


@pytest.mark.parametrize("stop", [0.0, 0.25])
def test_the_model_stops_as_often_as_asked(stop: float) -> None:
    """EOS has the given probability after any text."""
    policy = build("tiny", stop)
    with torch.no_grad():
        logits = policy.model(torch.tensor([[5, 9, 2], [3, 3, 60]])).logits
    assert logits.softmax(-1)[..., shapes.EOS].flatten().tolist() == pytest.approx([stop] * 6, abs=0.01)


def test_a_text_is_the_same_tokens_again() -> None:
    """What is decoded and encoded is what it was, so that a scorer of texts reads what a scorer of tokens would."""
    policy = build("tiny", None)
    tokens = [3, 63, 7, shapes.SEP]
    assert policy.encode_prompt(shapes.text(tokens)) == tokens
    assert policy.encode_response(policy.decode([5, 9, shapes.EOS]), 8) == [5, 9, shapes.EOS]


@pytest.mark.parametrize(
    ("subject", "options"),
    [(ours.sft, {}), (ours.reward, {}), (ours.sampling, {})]
    + [(ours.ppo, {"critic": critic}) for critic in ("network", "head")]
    + [(ours.lora, {"critic": "head", "micro_batch_size": 1})],
)
def test_our_subjects_run(model: str, subject: Callable[[Job, Turns], None], options: dict[str, Any]) -> None:
    """Two repetitions of each on a tiny shape, with the seconds that they took and what they say of them."""
    replies = io.StringIO()
    with pytest.raises(Stopped):
        subject(Job("", TINY, model, options), Turns(io.StringIO("go\ngo\nstop\n"), replies))
    ready, first, second = map(json.loads, replies.getvalue().splitlines())
    assert ready["ready"]
    assert min(first["wall"], first["cpu"], second["wall"]) > 0.0
    figures = second["figures"]
    assert figures.get("first_loss", math.log(64)) == pytest.approx(math.log(64), abs=0.1)
    assert figures.get("pairs", 12) == 12
    assert figures.get("tokens", 12) == 12
    assert figures.get("update_steps", 8) == 8


@pytest.mark.parametrize("piece", PIECES)
def test_we_can_be_raced_without_a_piece(model: str, piece: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a peer of ours with the whole, under a name that says so, on a model that lacks it."""
    for owner, name in (
        (activations, "fuse_activations"),
        (packing, "enable_packing"),
        (forwards.Forwards, "decoder"),
    ):
        monkeypatch.setattr(owner, name, getattr(owner, name))  # so that it is put back
    whole = Entry("ours", "ours:sampling")
    entry = whole.without(piece)
    assert (whole.ours, entry.ours, entry.name) == (True, False, f"ours, without {piece}")
    with pytest.raises(Stopped):
        ours.sampling(Job("", TINY, model, entry.options), Turns(io.StringIO("go\nstop\n"), io.StringIO()))
    policy = load_policy(model, ComputeSettings(device="cpu"))
    assert isinstance(sampler.open_decoder(policy, [[3]], 2), ForwardDecoder) == (piece == "decoders")
    assert any(isinstance(each, activations.Gelu) for each in policy.model.modules()) == (piece != "activations")
    assert packing.can_pack(policy.model) == (piece != "packing")


@pytest.mark.parametrize("subject", [ours.sft, ours.reward, ours.ppo])
def test_we_train_in_the_precision_of_the_race(model: str, subject: Callable[[Job, Turns], None]) -> None:
    """As the stages do: products in bfloat16 over weights of float32."""
    seen: list[bool] = []

    class Looking(Turns):
        def __call__(self, **figures: float) -> None:
            seen.append(torch.is_autocast_enabled("cpu"))
            super().__call__(**figures)

    with pytest.raises(Stopped):
        subject(
            Job("", TINY, model, {"critic": "head"}, dtype="bfloat16"),
            Looking(io.StringIO("go\nstop\n"), io.StringIO()),
        )
    assert seen[1:] == [True]
    assert not torch.is_autocast_enabled("cpu")


def test_what_a_gpu_held_to_warm_up_is_forgotten_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its peak is that of the repetitions, and starts anew after the first."""
    forgotten: list[int] = []
    replies = io.StringIO()
    monkeypatch.setattr(worker, "forget_peak", lambda: forgotten.append(len(replies.getvalue().splitlines())))
    turns = Turns(io.StringIO("go\n" * 4), replies)
    for _ in range(4):
        turns()
    assert forgotten == [2]  # after `ready` and the first repetition


def test_a_gpus_cases_run_on_a_gpu_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unless they are named: all of them with --device cuda, none of them without."""

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)

    def chosen(*arguments: str) -> set[str]:
        monkeypatch.setattr("sys.argv", ["benchmarks", *arguments])
        return {case.name for case in benchmarks.parse().cases}

    with pytest.raises(SystemExit):
        chosen("--device", "cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert chosen("--device", "cuda") == {"gpu-sampling", "gpu-ppo", "gpu-sft", "gpu-lora"}
    assert not any(name.startswith("gpu") for name in chosen("all") | chosen())
    assert chosen("gpu-sft", "ppo") == {"gpu-sft", "ppo"}


class Scripted:
    """A contender that answers at once, and notes in whose turn it was asked what."""

    def __init__(self, name: str, log: list[str]) -> None:
        self.name, self.log, self.asked = name, log, 0

    def hear(self) -> dict[str, Any]:
        return {"start_mb": 1.0}

    def ask(self, word: str) -> dict[str, Any]:
        self.log.append(f"{self.name} {word}")
        self.asked += 1
        return {"peak_mb": 2.0} if word == "stop" else {"wall": self.asked, "cpu": self.asked, "figures": {}}

    def close(self) -> None:
        self.log.append(f"{self.name} closed")


def test_repetitions_alternate_after_a_warm_up() -> None:
    """All warm up, which is not counted, then each has its turn in every round."""
    log: list[str] = []
    runs = race([Scripted("a", log), Scripted("b", log)], repetitions=2)  # type: ignore[list-item]
    assert log == ["a go", "b go"] * 3 + ["a stop", "b stop", "a closed", "b closed"]
    assert runs[0].wall == [2, 3]
    assert (runs[1].start_mb, runs[1].peak_mb) == (1.0, 2.0)


def test_a_contender_runs_in_a_process_of_its_own() -> None:
    """The machine as the only contender: each repetition gives its rates, and its memory is known."""
    (run,) = race([Contender(Job("floor:machine", TINY, ""))], repetitions=1)
    assert len(run.wall) == 1
    assert min(run.figures[0].values()) > 0.0
    assert run.peak_mb >= run.start_mb > 0.0


def test_a_contender_that_fails_is_out_and_the_others_go_on(tmp_path: Path) -> None:
    """Its error names the subject and ends with what it printed; the table has the others, and says who failed."""
    failed, ours = race(
        [Contender(Job(subject, TINY, str(tmp_path))) for subject in ("floor:nothing", "floor:machine")], repetitions=2
    )
    assert re.match(r"floor:nothing ended early:(.|\n)*no attribute 'nothing'", failed.error)
    assert (len(failed.wall), len(ours.wall), ours.error) == (0, 2, "")
    case = Case("sft", "SFT", "sft", TINY, (Entry("them", "peers:sft"), Entry("ours", "ours:sft")))
    shown = report.table(report.summarise(case, [failed, ours], ours))
    assert "| ours | " in shown
    assert "| them | " not in shown
    assert re.search(r"- them failed: .*no attribute 'nothing'", shown)


def test_every_case_names_subjects_that_exist() -> None:
    """Its work has a known shape, its floor can be told, and no two cases have one name."""
    assert len({case.name for case in CASES}) == len(CASES)
    for case in CASES:
        assert floor.seconds(case.work, case.kind, Rates(1e9, 1e9)) > 0.0
        assert all(hasattr(ours, entry.subject.split(":")[1]) for entry in case.entries if entry.ours)
