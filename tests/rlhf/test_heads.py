"""The head's gradients travel through autograd: hooks and other processes see each of them once, and whole."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.multiprocessing.spawn import spawn

from rlhf import heads
from rlhf.batches import Batch, make_batch, response_states
from rlhf.heads import TokenLoss, Tokens, response_logits, response_logprobs, token_loss
from rlhf.logprobs import token_logprobs
from rlhf.models import Policy, autocast, build_policy, load_policy, save_policy

PROMPTS = [[3, 4, 5], [6], [7, 3, 3, 5, 6, 4], [5, 7]]
RESPONSES = [[9, 3], [4, 5, 0, 1, 8, 8, 9, 3], [8], [1, 7, 7]]
SIZES: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "initializer_range": 0.3,
}
HEADS: dict[str, dict[str, Any]] = {
    "phi, a bias": {"model_type": "phi", **SIZES},
    "cohere, scaled": {"model_type": "cohere", **SIZES},
    "gemma2, capped": {"model_type": "gemma2", **SIZES, "head_dim": 8, "final_logit_softcapping": 2.0},
    "llama, its own": {"model_type": "llama", **SIZES, "tie_word_embeddings": False},
    "gpt2, the embedding's": {"model_type": "gpt2", "n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 64},
}
Loss = Callable[[nn.Module, Batch], torch.Tensor]


def plain(model: nn.Module, batch: Batch) -> torch.Tensor:
    """The mean log-likelihood of a token, from the logits of all tokens at once."""
    return token_logprobs(response_logits(model, batch), batch.response_ids)[batch.response_mask].mean()


def by_tokens(model: nn.Module, batch: Batch) -> torch.Tensor:
    """The same as a loss that is a sum over tokens."""

    def loss(logits: torch.Tensor, tokens: Tokens) -> TokenLoss:
        return TokenLoss(token_logprobs(logits, tokens.ids).sum() / batch.response_mask.sum(), {})

    return token_loss(model, response_states(model, batch), batch, loss).total


def by_sequences(model: nn.Module, batch: Batch) -> torch.Tensor:
    """The same of what could be any function of the logprobs."""
    return response_logprobs(model, batch).sum() / batch.response_mask.sum()


def gradients(model: nn.Module, loss: Loss, batch: Batch) -> dict[str, torch.Tensor]:
    """Of every weight that the loss depends on."""
    model.zero_grad(set_to_none=True)
    loss(model, batch).backward()
    return {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}


@pytest.fixture
def chunks_of_five(monkeypatch: pytest.MonkeyPatch, bpe: Any) -> None:
    """Five tokens to a chunk: the 14 make three."""
    monkeypatch.setattr(heads, "CHUNK_LOGITS", 5 * len(bpe))


@pytest.mark.usefixtures("chunks_of_five")
@pytest.mark.parametrize("loss", [by_tokens, by_sequences])
@pytest.mark.parametrize("mixed", [False, True], ids=["float32", "autocast"])
@pytest.mark.parametrize("name", HEADS)
def test_whatever_lies_around_the_product_is_differentiated_too(name: str, mixed: bool, loss: Loss, bpe: Any) -> None:
    """Biases, scales and caps, in three chunks: the gradients of one pass over all logits, also in mixed precision."""
    model, batch = build_policy(HEADS[name], bpe, seed=0).model, make_batch(PROMPTS, RESPONSES)
    with autocast("bfloat16" if mixed else "float32", torch.device("cpu")):
        expected = gradients(model, plain, batch)
        found = gradients(model, loss, batch)
    assert found.keys() == expected.keys()
    for weight, gradient in found.items():
        scale = float(expected[weight].abs().max())
        torch.testing.assert_close(
            gradient, expected[weight], atol=scale * (1e-2 if mixed else 1e-5), rtol=0, msg=weight
        )


@pytest.mark.usefixtures("chunks_of_five")
@pytest.mark.parametrize("loss", [by_tokens, by_sequences])
@pytest.mark.parametrize("name", ["llama", "gpt2", "t5", "bart"])
def test_a_hook_on_the_heads_weights_sees_the_whole_gradient_once(
    name: str, loss: Loss, request: pytest.FixtureRequest, clone: Callable[[Policy], Policy]
) -> None:
    """Also where they are the embedding's; a second backward pass calls it once more, with the sum."""
    model, batch = clone(request.getfixturevalue(name)).model, make_batch(PROMPTS, RESPONSES)
    weight, seen = model.get_output_embeddings().weight, []
    assert weight is model.get_input_embeddings().weight
    (key,) = (key for key, each in model.named_parameters() if each is weight)
    expected = gradients(model, plain, batch)[key].clone()
    model.zero_grad(set_to_none=True)
    weight.register_post_accumulate_grad_hook(lambda each: seen.append(each.grad.clone()))
    for _ in range(2):
        loss(model, batch).backward()
    assert len(seen) == 2
    for times, gradient in enumerate(seen, 1):
        torch.testing.assert_close(gradient, times * expected, atol=1e-5, rtol=1e-5)


def test_a_frozen_head_gets_no_gradient(gpt2: Policy, clone: Callable[[Policy], Policy], chunks_of_five: None) -> None:
    """As with an adapter: what lies below it learns as ever."""
    model, batch = clone(gpt2).model, make_batch(PROMPTS, RESPONSES)
    model.get_output_embeddings().weight.requires_grad_(False)
    expected = gradients(model, plain, batch)
    for loss in (by_tokens, by_sequences):
        found = gradients(model, loss, batch)
        assert found.keys() == expected.keys()
        for name, gradient in found.items():
            torch.testing.assert_close(gradient, expected[name], atol=1e-6, rtol=1e-5)


def test_weights_that_moved_before_the_backward_pass_are_noticed(
    gpt2: Policy, clone: Callable[[Policy], Policy], chunks_of_five: None
) -> None:
    """Logits computed again with other weights would give the gradient of another loss."""
    model = clone(gpt2).model
    loss = by_sequences(model, make_batch(PROMPTS, RESPONSES))
    with torch.no_grad():
        model.get_output_embeddings().weight.add_(1.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


class Step(nn.Module):
    """A loss as the forward of a module, as DistributedDataParallel wants it."""

    def __init__(self, model: nn.Module, loss: Loss) -> None:
        super().__init__()
        self.model, self.loss = model, loss

    def forward(self, batch: Batch) -> torch.Tensor:
        return self.loss(self.model, batch)


def train_in_parallel(rank: int, folder: Path) -> None:
    """One of two processes: writes the gradients of its own half of the rows, averaged over both."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    batch = make_batch(PROMPTS[rank::2], RESPONSES[rank::2])
    for loss in (by_tokens, by_sequences):
        model = load_policy(folder / "model").model
        heads.CHUNK_LOGITS = 5 * model.config.vocab_size
        parallel = nn.parallel.DistributedDataParallel(Step(model, loss))  # whose hooks go with it
        parallel(batch).backward()
        found = {name: weight.grad for name, weight in model.named_parameters()}
        torch.save(found, folder / f"{loss.__name__}_{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.skipif(
    not (torch.distributed.is_available() and torch.distributed.is_gloo_available()),
    reason="this torch is built without gloo",
)
def test_two_processes_get_the_mean_of_their_gradients(gpt2: Policy, tmp_path: Path) -> None:
    """On every weight, the head's among them, in chunks of five tokens."""
    save_policy(gpt2, tmp_path / "model")
    spawn(train_in_parallel, (tmp_path,), nprocs=2)
    halves = [gradients(gpt2.model, plain, make_batch(PROMPTS[rank::2], RESPONSES[rank::2])) for rank in range(2)]
    gpt2.model.zero_grad(set_to_none=True)
    for loss in (by_tokens, by_sequences):
        for rank in range(2):
            found = torch.load(tmp_path / f"{loss.__name__}_{rank}.pt")
            assert found.keys() == halves[0].keys()
            for name, gradient in found.items():
                mean = (halves[0][name] + halves[1][name]) / 2
                torch.testing.assert_close(gradient, mean, atol=1e-5, rtol=1e-5)
