"""Precision and memory: what changes them changes no gradient, and what must be float32 is."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.distributions import Categorical
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode

from rlhf import heads
from rlhf.batches import Batch, make_batch, response_states
from rlhf.generation import sample
from rlhf.heads import TokenLoss, Tokens, response_logits, response_logprobs, token_loss
from rlhf.logprobs import TokenStatistics, token_statistics
from rlhf.models import Policy, autocast, build_policy, checkpoint_layers, load_policy, save_policy
from rlhf.optim import Optimizer
from rlhf.records import Sampling
from rlhf.settings.model import ComputeSettings
from rlhf.settings.sft import SftSettings

PROMPTS = [[3, 4, 5], [6], [7, 3, 3, 5, 6, 4], [5, 7]]
RESPONSES = [[9, 3], [4, 5, 0, 1, 8, 8, 9, 3], [8], [1, 7, 7]]
ALL = ["llama", "gpt2", "t5", "bart"]


@pytest.fixture(params=ALL)
def policy(request: pytest.FixtureRequest, clone: Callable[[Policy], Policy]) -> Policy:
    """A copy of each, in evaluation mode."""
    return clone(request.getfixturevalue(request.param))


def gradients(model: nn.Module) -> dict[str, torch.Tensor]:
    """Every weight's gradient, which is taken off the model."""
    found = {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}
    model.zero_grad(set_to_none=True)
    return found


def assert_same_gradients(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor], atol: float = 1e-6) -> None:
    """Of the same weights, and equal but for rounding."""
    assert ours.keys() == theirs.keys()
    for name, gradient in ours.items():
        torch.testing.assert_close(gradient, theirs[name], atol=atol, rtol=1e-5)


def small_chunks(monkeypatch: pytest.MonkeyPatch, policy: Policy, tokens: int) -> None:
    """So many tokens to a chunk."""
    monkeypatch.setattr(heads, "CHUNK_LOGITS", tokens * policy.model.config.vocab_size)


def statistics(policy: Policy, batch: Batch) -> TokenStatistics:
    """By autograd, from the logits of all tokens at once, at temperature 0.7."""
    plain = token_statistics(response_logits(policy.model, batch), batch.response_ids, 0.7)
    return TokenStatistics(*(torch.where(batch.response_mask, tensor, 0.0) for tensor in plain))


def learn(
    policy: Policy,
    batch: Batch,
    loss: Callable[[TokenStatistics, torch.Tensor], torch.Tensor],
    temperature: float = 1.0,
) -> TokenLoss:
    """A loss over tokens, of what the model says of them and of their index in the batch; that is its figures."""

    def measure(logits: torch.Tensor, tokens: Tokens) -> TokenLoss:
        found = token_statistics(logits, tokens.ids, temperature)
        return TokenLoss(loss(found, tokens.positions), found._asdict())

    return token_loss(policy.model, response_states(policy.model, batch), batch, measure)


@torch.no_grad()
@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_what_is_measured_is_of_the_categorical_distribution(policy: Policy, temperature: float) -> None:
    """torch.distributions agrees, token by token; padded positions are 0, and without gradients the loss has none."""
    batch = make_batch(PROMPTS, RESPONSES)
    total, ours = learn(policy, batch, lambda found, _: found.entropy.sum(), temperature)
    expected = Categorical(logits=response_logits(policy.model, batch) / temperature)
    for name, theirs in {"logprobs": expected.log_prob(batch.response_ids), "entropy": expected.entropy()}.items():
        torch.testing.assert_close(ours[name], torch.where(batch.response_mask, theirs, 0.0), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(total, expected.entropy()[batch.response_mask].sum(), atol=1e-4, rtol=1e-5)
    assert not total.requires_grad


@pytest.mark.parametrize("tokens", [1, 5, 14])
def test_chunks_change_no_logprob_and_no_gradient(policy: Policy, tokens: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """14 tokens in chunks of 1, of 5 or all together, of a loss that is no sum over them."""
    batch = make_batch(PROMPTS, RESPONSES)
    expected = statistics(policy, batch).logprobs
    expected.sum(1).sigmoid().log().mean().backward()
    theirs = gradients(policy.model)
    small_chunks(monkeypatch, policy, tokens)
    ours = response_logprobs(policy.model, batch, temperature=0.7)
    ours.sum(1).sigmoid().log().mean().backward()
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-5)
    assert_same_gradients(gradients(policy.model), theirs)


def test_micro_batches_change_no_gradient(policy: Policy) -> None:
    """Summed over the mask and divided by the tokens of the step: four rows at once, or one and three."""
    tokens = sum(map(len, RESPONSES))
    (response_logprobs(policy.model, make_batch(PROMPTS, RESPONSES)).sum() / tokens).backward()
    whole = gradients(policy.model)
    for rows in (slice(0, 1), slice(1, 4)):
        (response_logprobs(policy.model, make_batch(PROMPTS[rows], RESPONSES[rows])).sum() / tokens).backward()
    assert_same_gradients(gradients(policy.model), whole)


class LargestTensor(TorchDispatchMode):
    """Remembers how many elements the largest tensor has that any operation returns."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else (result,):
            if isinstance(tensor, torch.Tensor):
                self.elements = max(self.elements, tensor.numel())
        return result


def test_no_tensor_is_larger_than_a_chunk_of_logits(bpe: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """GPT-2's vocabulary, 96 tokens in chunks of 20: forward and backward hold 20 × 50,257 numbers at most.

    And what the forward leaves for the backward is smaller than one chunk altogether, weights apart.
    """
    vocabulary, size = 50_257, 20
    fields = {"model_type": "gpt2", "n_embd": 8, "n_layer": 1, "n_head": 1, "n_positions": 32}
    model = build_policy(fields, bpe, seed=0).model
    model.resize_token_embeddings(vocabulary)
    monkeypatch.setattr(heads, "CHUNK_LOGITS", size * vocabulary)
    batch = make_batch([[3, 4]] * 4, [[5] * 24] * 4)
    weights = {weight.data_ptr() for weight in model.parameters()}
    saved: dict[int, int] = {}

    def save(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.data_ptr() not in weights:
            saved[tensor.data_ptr()] = tensor.numel()
        return tensor

    with LargestTensor() as largest:
        states = response_states(model, batch)
        with torch.autograd.graph.saved_tensors_hooks(save, lambda tensor: tensor):
            ours = response_logprobs(model, batch, states=states)
        ours.sum().backward()
        learn(Policy(model, bpe), batch, lambda found, _: torch.stack(found).sum()).total.backward()
    assert largest.elements == size * vocabulary
    assert sum(saved.values()) < size * vocabulary / 10


@pytest.mark.parametrize("tokens", [1, 5, 14])
def test_learning_chunk_by_chunk_is_one_backward_pass(
    policy: Policy, tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A loss that bends with what it is made of, in chunks of 1, of 5 or in one: autograd's gradient over all of it.

    Each token's logits are computed once, and what was measured carries no graph.
    """
    batch = make_batch(PROMPTS, RESPONSES)
    weights = torch.randn(batch.response_mask.shape, generator=torch.Generator().manual_seed(3))

    def loss(measured: tuple[torch.Tensor, ...], weights: torch.Tensor) -> torch.Tensor:
        return (measured[0].exp() * weights + 0.5 * measured[1]).sum() / 14

    expected = statistics(policy, batch)
    loss(expected, weights).backward()
    theirs = gradients(policy.model)
    small_chunks(monkeypatch, policy, tokens)
    seen: list[int] = []

    def of_chunk(found: TokenStatistics, index: torch.Tensor) -> torch.Tensor:
        seen.append(len(index))
        return loss(found, weights.flatten()[index])

    total, figures = learn(policy, batch, of_chunk, 0.7)
    (3.0 * total).backward()
    assert_same_gradients(gradients(policy.model), {name: 3.0 * gradient for name, gradient in theirs.items()})
    counted = TokenStatistics(*(tensor[batch.response_mask] for tensor in expected))
    torch.testing.assert_close(total, loss(counted, weights[batch.response_mask]).detach(), atol=1e-5, rtol=1e-5)
    assert sum(seen) == 14
    assert max(seen) <= tokens
    for name, plain in expected._asdict().items():
        torch.testing.assert_close(figures[name], plain.detach(), atol=1e-5, rtol=1e-5)
        assert not figures[name].requires_grad


def tensors_made(size: int, work: Callable[[], None]) -> int:
    """How many tensors of so many bytes are made, in place of which a sum may be written."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        work()
    return sum(event.self_cpu_memory_usage == size for event in seen.events())


@pytest.mark.parametrize("tokens", [1, 5])
@pytest.mark.parametrize("chunk_by_chunk", [False, True])
def test_chunks_add_to_one_gradient_of_the_head(
    gpt2: Policy, chunk_by_chunk: bool, tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many they are: one tensor for all of them and one for the embedding, which has the same weights.

    A second backward pass adds to what is there, as micro-batches need.
    """
    small_chunks(monkeypatch, gpt2, tokens)
    weights, batch = gpt2.model.get_input_embeddings().weight, make_batch(PROMPTS, RESPONSES)

    def backward() -> None:
        if chunk_by_chunk:
            learn(gpt2, batch, lambda found, _: found.logprobs.sum() / 14).total.backward()
        else:
            (response_logprobs(gpt2.model, batch).sum() / 14).backward()

    assert tensors_made(weights.numel() * 4, backward) == 2
    once = gradients(gpt2.model)
    backward()
    backward()
    assert_same_gradients(gradients(gpt2.model), {name: 2 * gradient for name, gradient in once.items()})


def count_forwards(model: nn.Module) -> list[str]:
    """The names of the layers' first linear modules, added to each time one runs."""
    ran: list[str] = []
    for name, module in model.named_modules():
        if name.endswith(("q_proj", "c_attn", "SelfAttention.q")):
            module.register_forward_hook(lambda *_, name=name: ran.append(name))
    return ran


def test_recomputed_layers_give_the_same_gradients(policy: Policy) -> None:
    """In evaluation mode, as PPO trains: each layer runs once more in the backward pass, and no dropout is drawn."""
    batch = make_batch(PROMPTS, RESPONSES)
    response_logprobs(policy.model, batch).mean().backward()
    kept = gradients(policy.model)
    checkpoint_layers(policy.model)
    ran = count_forwards(policy.model)
    response_logprobs(policy.model, batch).mean().backward()
    assert ran
    assert all(ran.count(name) == 2 for name in ran)
    assert_same_gradients(gradients(policy.model), kept)


@pytest.mark.parametrize("name", ["gpt2", "t5", "bart"])
def test_recomputed_layers_draw_the_same_dropout(
    name: str, request: pytest.FixtureRequest, clone: Callable[[Policy], Policy]
) -> None:
    """In training mode, as SFT trains, with the same seed before either."""
    model, batch = clone(request.getfixturevalue(name)).model.train(), make_batch(PROMPTS, RESPONSES)
    found = []
    for recompute in (False, True):
        if recompute:
            checkpoint_layers(model)
        torch.manual_seed(3)
        response_logprobs(model, batch).mean().backward()
        found.append(gradients(model))
    once, again = found
    assert_same_gradients(once, again)


def test_recomputation_leaves_sampling_alone(policy: Policy) -> None:
    """With its key-value cache: the same tokens."""
    settings = [Sampling(max_new_tokens=6)] * 4
    before = sample(policy, PROMPTS, settings, range(4)).tokens
    checkpoint_layers(policy.model)
    assert torch.equal(sample(policy, PROMPTS, settings, range(4)).tokens, before)


def test_a_copy_of_a_model_recomputes_its_own_layers(policy: Policy) -> None:
    """A critic starts from a copy: its gradients are its own, and the model it came from gets none."""
    checkpoint_layers(policy.model)
    twin, batch = copy.deepcopy(policy.model), make_batch(PROMPTS, RESPONSES)
    response_logprobs(twin, batch).mean().backward()
    assert not gradients(policy.model)
    response_logprobs(policy.model, batch).mean().backward()
    assert_same_gradients(gradients(twin), gradients(policy.model))


@pytest.mark.parametrize("training", [True, False])
def test_layers_are_recomputed_where_a_model_is_loaded_to_be_trained(
    llama: Policy, tmp_path: Path, training: bool
) -> None:
    """And nowhere else: a model that only answers keeps nothing anyway."""
    save_policy(llama, tmp_path)
    compute = ComputeSettings(device="cpu", gradient_checkpointing=True)
    model = load_policy(tmp_path, compute, training).model
    ran = count_forwards(model)
    response_logprobs(model, make_batch(PROMPTS, RESPONSES)).mean().backward()
    assert len(ran) == (4 if training else 2)
    assert not model.training


def test_mixed_precision_keeps_weights_and_logprobs_in_float32(policy: Policy) -> None:
    """Products are bfloat16, so logprobs differ a little; weights, gradients and logprobs are float32."""
    batch = make_batch(PROMPTS, RESPONSES)
    exact = response_logprobs(policy.model, batch).detach()
    with autocast("bfloat16", torch.device("cpu")):
        logprobs = response_logprobs(policy.model, batch)
    logprobs.mean().backward()
    assert logprobs.dtype == torch.float32
    assert 0.0 < (logprobs - exact).abs().max() < 0.5
    assert {weight.dtype for weight in policy.model.parameters()} == {torch.float32}
    assert {gradient.dtype for gradient in gradients(policy.model).values()} == {torch.float32}


def test_pure_bfloat16_holds_for_weights_and_optimizer_alike(policy: Policy, tmp_path: Path) -> None:
    """Weights and moments are bfloat16 after a step, the logprobs float32; what is saved loads again so."""
    save_policy(policy, tmp_path)
    compute = ComputeSettings(device="cpu", precision="pure_bfloat16")
    loaded = load_policy(tmp_path, compute, training=True)
    optimizer = Optimizer(loaded.model, SftSettings(steps=1, batch_size=1, learning_rate=1e-2, warmup_share=0.0))
    with autocast(compute.precision, loaded.device):
        logprobs = response_logprobs(loaded.model, make_batch(PROMPTS, RESPONSES))
    embedding: Any = loaded.model.get_input_embeddings()
    before = embedding.weight.clone()
    (-logprobs.mean()).backward()
    optimizer.step(1.0)
    assert logprobs.dtype == torch.float32
    assert not torch.equal(embedding.weight, before)
    states = optimizer.adam.state.values()
    moments = {state[name].dtype for state in states for name in ("exp_avg", "exp_avg_sq")}
    assert moments == {weight.dtype for weight in loaded.model.parameters()} == {torch.bfloat16}


def test_a_model_from_scratch_takes_its_precision_from_the_params(bpe: Any) -> None:
    """bfloat16 weights where all is to be, float32 in every other case."""
    fields = {"model_type": "llama", "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    for precision, expected in (("pure_bfloat16", torch.bfloat16), ("bfloat16", torch.float32)):
        compute = ComputeSettings.model_validate({"device": "cpu", "precision": precision})
        policy = build_policy(fields, bpe, 0, compute)
        assert {weight.dtype for weight in policy.model.parameters()} == {expected}
