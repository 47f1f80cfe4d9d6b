"""The sampler's path for a GPU: held to the CPU's, its recording to a stand-in that repeats what was captured."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from rlhf.drawing.samples import Samples
from rlhf.drawing.transcript import Transcript
from rlhf.fast import forwards
from rlhf.fast.decoding import graphs, static
from rlhf.fast.decoding.cached import CachedDecoder
from rlhf.fast.decoding.networks import read_network
from rlhf.fast.decoding.static import StaticDecoder
from rlhf.generation import sample, sampler
from rlhf.models import Policy
from rlhf.records import Sampling
from tests.rlhf.fast.decoding.test_cached import FAMILIES, MIXED, PROMPTS, SEEDS, random_policy

PLAIN = [
    Sampling(temperature=temperature, max_new_tokens=length)
    for temperature, length in ((1.0, 14), (0.7, 24), (1.3, 3), (0.0, 9), (1.0, 18), (0.0, 1))
]
ASKS_THE_HOST = ("_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "equal", "unique", "item")
"""Operations whose result the host waits for: none may happen in a capture."""
FROM_THE_HOST = ("lift_fresh", "randint", "rand", "randn", "multinomial", "bernoulli", "exponential")
"""Operations that copy from the host's memory, or draw numbers that a replay would draw again."""


@pytest.fixture(params=FAMILIES)
def policy(request: pytest.FixtureRequest, bpe: Any) -> Policy:
    """Each family in turn."""
    return random_policy(request.param, bpe)


@pytest.fixture(autouse=True)
def small_buckets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Five buckets, five rounds and several drops in as many tokens as a test writes."""
    for name, value in {"BUCKET": 8, "ROUND": 5, "WORTH": 2}.items():
        monkeypatch.setattr(static, name, value)


@pytest.fixture(params=["masked buckets", "ragged rows"])
def attention(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Either way to attend; the kernel for ragged rows is written out in its place."""
    if request.param == "ragged rows":
        monkeypatch.setattr(static, "takes_ragged_rows", lambda *_: True)
        monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", attention_to_written)


def attention_to_written(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cu_seq_q: Tensor,
    cu_seq_k: Tensor,
    max_q: int,
    max_k: int,
    *,
    scale: float,
    seqused_k: Tensor,
    enable_gqa: bool = False,
) -> Tensor:
    """What `varlen_attn` computes of one query a row: over so many of the tokens that begin where it is told."""
    assert max_q == 1
    assert len(cu_seq_q) == len(cu_seq_k) == len(query) + 1
    assert {cu_seq_q.dtype, cu_seq_k.dtype, seqused_k.dtype} == {torch.int32}
    assert enable_gqa == (key.shape[1] < query.shape[1])
    shared = query.shape[1] // key.shape[1]
    columns = torch.arange(max_k)
    places = (cu_seq_k[:-1, None] + columns).clamp(max=len(key) - 1).long()
    keys, values = (each[places].repeat_interleave(shared, 2) for each in (key, value))
    scores = torch.einsum("nad,ncad->nac", query, keys) * scale
    unwritten = (columns >= seqused_k[:, None])[:, None]
    return torch.einsum("nac,ncad->nad", scores.masked_fill(unwritten, -torch.inf).softmax(-1), values)


def on_the_static_path(monkeypatch: pytest.MonkeyPatch) -> list[StaticDecoder]:
    """Has `sample` decode on the CPU as it would on a GPU from now on; the decoders that it opens."""
    opened: list[StaticDecoder] = []

    def build(*args: Any) -> StaticDecoder:
        opened.append(StaticDecoder(CachedDecoder(*args)))
        return opened[-1]

    monkeypatch.setattr(forwards, "CachedDecoder", build)
    return opened


def assert_same(ours: Samples, theirs: Samples) -> None:
    """The same tokens, lengths and ends; logprobs within 1e-5."""
    for name in ("tokens", "lengths", "finished"):
        assert torch.equal(getattr(ours, name), getattr(theirs, name)), name
    torch.testing.assert_close(ours.logprobs, theirs.logprobs, atol=1e-5, rtol=0)


@pytest.mark.parametrize("sampling", [PLAIN, MIXED], ids=["temperatures alone", "filters"])
@pytest.mark.usefixtures("attention")
def test_static_steps_write_what_the_others_write(
    policy: Policy, sampling: list[Sampling], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ragged prompts, rows that end one by one and are dropped, buckets crossed: tokens and logprobs stay."""
    expected = sample(policy, PROMPTS, sampling, SEEDS)
    opened = on_the_static_path(monkeypatch)
    assert_same(sample(policy, PROMPTS, sampling, SEEDS), expected)
    (decoder,) = opened
    assert decoder.width == 32
    assert len(decoder.tokens) < len(PROMPTS)


@pytest.mark.usefixtures("attention")
def test_a_row_may_stay_after_its_end_and_past_its_context(bpe: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is dropped, and the longest prompt's row ends where its context does, long before the others."""
    policy = random_policy("gpt2", bpe)
    prompts = [[3 + place % 7 for place in range(60)], *PROMPTS[:2]]
    sampling = [Sampling(max_new_tokens=length) for length in (4, 30, 25)]
    expected = sample(policy, prompts, sampling, SEEDS[:3])
    on_the_static_path(monkeypatch)
    monkeypatch.setattr(static, "WORTH", 1_000)
    assert_same(sample(policy, prompts, sampling, SEEDS[:3]), expected)


class Capture(TorchDispatchMode):
    """Notes operations and undoes what they wrote, as a capture runs none; refuses what a capture may not hold."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[tuple[Callable[..., Any], Any, Any, Any]] = []
        self.before: list[tuple[Tensor, Tensor]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name, given = func.overloadpacket.__name__, tensors((args, kwargs))
        assert name not in (*ASKS_THE_HOST, *FROM_THE_HOST), f"{name} cannot be captured"
        assert not (name == "index" and any(one.dtype == torch.bool for one in given[1:])), "a mask asks the host"
        if func._schema.is_mutable:
            self.before += [(one, one.clone()) for one in given]
        result = func(*args, **kwargs)
        known = {one.untyped_storage().data_ptr() for one in given}
        if func._schema.is_mutable:
            self.operations.append((func, args, kwargs, None))
        elif any(one.untyped_storage().data_ptr() not in known for one in tensors(result)):
            self.operations.append((func, args, kwargs, result))
        return result

    def undo(self) -> None:
        for tensor, value in reversed(self.before):
            tensor.copy_(value)

    def replay(self) -> None:
        """Does each operation again, with its result where it was: the host's numbers are those of the capture."""
        for func, args, kwargs, result in self.operations:
            again = func(*args, **kwargs)
            for old, new in zip(tensors(result), tensors(again), strict=False):
                old.copy_(new)


def tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in torch.utils._pytree.tree_leaves(tree) if isinstance(leaf, Tensor)]


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Puts the stand-in where CUDA is asked for; what was recorded and replayed is noted."""
    log: list[str] = []

    class Graph(Capture):
        def replay(self) -> None:
            log.append("replay")
            super().replay()

    @contextmanager
    def graph(capture: Graph, pool: object) -> Iterator[None]:
        log.append("capture")
        with capture:
            yield
        capture.undo()

    @contextmanager
    def stream(_: object) -> Iterator[None]:
        log.append("as it is")
        yield

    def place() -> Any:
        return SimpleNamespace(wait_stream=lambda other: None)

    cuda = SimpleNamespace(
        graph_pool_handle=object, CUDAGraph=Graph, graph=graph, stream=stream, Stream=place, current_stream=place
    )
    monkeypatch.setattr(graphs, "torch", SimpleNamespace(cuda=cuda))
    monkeypatch.setattr(static, "open_recordings", lambda device: graphs.Recordings())
    return log


@pytest.mark.parametrize("sampling", [PLAIN, MIXED], ids=["temperatures alone", "filters"])
@pytest.mark.usefixtures("attention")
def test_a_recorded_step_is_right_at_every_replay(
    policy: Policy, sampling: list[Sampling], recorded: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing in it asks the host, and nothing that the host knew when it was captured is needed later."""
    expected = sample(policy, PROMPTS, sampling, SEEDS)
    on_the_static_path(monkeypatch)
    assert_same(sample(policy, PROMPTS, sampling, SEEDS), expected)
    assert recorded.count("replay") > recorded.count("capture") >= 2


def test_bfloat16_is_recorded_too(llama: Policy, clone: Any, recorded: list[str], monkeypatch: Any) -> None:
    """Under autocast and in weights of bfloat16: greedy tokens as without recording, bit for bit."""
    policy, sampling = clone(llama), [Sampling(temperature=0.0, max_new_tokens=20)] * 6
    on_the_static_path(monkeypatch)
    for half in (False, True):
        policy.model.to(torch.bfloat16 if half else torch.float32)
        with nullcontext() if half else torch.autocast("cpu", dtype=torch.bfloat16, cache_enabled=False):
            with monkeypatch.context() as patch:
                patch.setattr(static, "open_recordings", lambda device: None)
                expected = sample(policy, PROMPTS, sampling, SEEDS)
            ours = sample(policy, PROMPTS, sampling, SEEDS)
        assert torch.equal(ours.tokens, expected.tokens)
        assert torch.equal(ours.logprobs, expected.logprobs)
    assert "replay" in recorded


def test_work_runs_as_it_is_then_is_captured_then_replayed(recorded: list[str]) -> None:
    """For each shape; each call does the work once, and the capture none of it."""
    count = torch.zeros(1)
    recordings = graphs.Recordings()
    results = [float(recordings.run(shape, lambda: count.add_(1))) for shape in (8, 8, 8, 16, 16, 8)]
    assert results == [1, 2, 3, 4, 5, 6]
    assert recorded == ["as it is", "capture", "replay", "replay", "as it is", "capture", "replay", "replay"]


def test_steps_noted_together_are_those_noted_one_by_one() -> None:
    """Random tokens of which every sixth is EOS, limits of 4 to 12, rows dropped between rounds of four.

    The last row ends before the last round does; what came after is cut off.
    """
    draw = torch.Generator().manual_seed(0)
    limits, tokens = torch.arange(4, 13), torch.randint(6, (12, 9), generator=draw)
    tokens[:8, 8], tokens[8] = 0, 2
    logprobs = torch.randn(12, 9, generator=draw)
    one, together = Transcript(limits, stop_ids=[2]), Transcript(limits, stop_ids=[2])
    for row in range(12):
        if one.left:
            one.add(tokens[row], logprobs[row])
    for step in range(0, 12, 4):
        if together.left:
            together.extend(tokens[step : step + 4][:, together.rows], logprobs[step : step + 4][:, together.rows])
            if together.left:
                together.drop(0.2)
    assert len(together.rows) < 9
    assert (together.step, one.step) == (12, 9)
    for ours, theirs in zip(together.samples()[:4], one.samples()[:4], strict=True):
        assert torch.equal(ours, theirs)


def test_the_cpu_keeps_its_own_decoder(llama: Policy) -> None:
    """Static shapes are for recordings, which only a GPU has."""
    assert isinstance(sampler.open_decoder(llama, PROMPTS, 4), CachedDecoder)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device: graphs cannot be captured")
class TestOnAGpu:
    """What the stand-in cannot show: that CUDA captures the step, and that its kernels agree with the CPU's."""

    @pytest.mark.parametrize("sampling", [PLAIN, MIXED], ids=["temperatures alone", "filters"])
    def test_it_writes_what_the_cpu_writes(self, policy: Policy, sampling: list[Sampling]) -> None:
        """In float32: the same tokens, and logprobs within 1e-4."""
        expected = sample(policy, PROMPTS, sampling, SEEDS)
        nn.Module.to(policy.model, "cuda")
        assert isinstance(sampler.open_decoder(policy, PROMPTS, 4), StaticDecoder)
        ours = Samples(*(tensor.cpu() for tensor in sample(policy, PROMPTS, sampling, SEEDS)[:4]))
        assert torch.equal(ours.tokens, expected.tokens)
        torch.testing.assert_close(ours.logprobs, expected.logprobs, atol=1e-4, rtol=0)

    @pytest.mark.parametrize("ragged", [True, False], ids=["ragged rows", "masked buckets"])
    def test_replays_in_bfloat16_round_no_more_than_plain_steps(
        self, policy: Policy, ragged: bool, bpe: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Logits after the same tokens: their distance to float32's is at most 1.2 times the other decoder's."""
        exact = logits_after(lambda start: start, policy)
        nn.Module.to(policy.model, "cuda", torch.bfloat16)
        own = (logits_after(lambda start: start, policy) - exact).abs().mean()
        if not ragged:
            monkeypatch.setattr(static, "takes_ragged_rows", lambda *_: False)
        ours = (logits_after(StaticDecoder, policy) - exact).abs().mean()
        assert 0 < ours < 1.2 * own


def logits_after(steps: Callable[[CachedDecoder], CachedDecoder | StaticDecoder], policy: Policy) -> Tensor:
    """Those of 24 steps whose tokens are the same whatever the model says, in float32 on the CPU."""
    model, device = policy.model, policy.device
    network = read_network(model, len(PROMPTS), 40, model.dtype)
    assert network is not None
    with torch.no_grad():
        decoder = steps(CachedDecoder(network, model.get_input_embeddings(), PROMPTS, 24, 40))
        tokens = [torch.arange(6, device=device) + 3 + step for step in range(24)]
        return torch.stack([decoder.first().float().cpu(), *(decoder.next(each).float().cpu() for each in tokens)])
