"""SFT: Hugging Face's own loss on the response alone, whatever the micro-batch, and it does learn."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch.nn.utils import parameters_to_vector

from rlhf.batches import make_batch
from rlhf.demonstrations import Example, encode_demonstrations, evaluate_loss, learn_responses, perplexity, response_nll
from rlhf.finite import BadBatches
from rlhf.heads import response_logprobs
from rlhf.models import Policy
from rlhf.records import Demonstration
from rlhf.settings.sft import SftSettings
from rlhf.sft import draw_batches, train_sft

EXAMPLES = [([3, 4, 2], [5, 6, 7, 1]), ([7, 2], [3, 1]), ([5, 5, 6, 4, 2], [6, 1]), ([4, 2], [7, 7, 4, 3, 1])]
DEV = [([3, 2], [4, 1]), ([6, 5, 2], [7, 3, 1])]


def settings(**fields: object) -> SftSettings:
    return SftSettings.model_validate(
        {"steps": 1, "batch_size": 4, "learning_rate": 1e-2, "warmup_share": 0.0, "weight_decay": 0.0, **fields}
    )


def hugging_face_loss(policy: Policy, prompt: list[int], response: list[int]) -> torch.Tensor:
    """The mean cross-entropy that the model itself computes with labels of -100 on the prompt."""
    return policy.model(torch.tensor([prompt + response]), labels=torch.tensor([[-100] * len(prompt) + response])).loss


@pytest.mark.parametrize("name", ["speller", "llama", "gpt2"])
def test_the_loss_is_hugging_faces_with_the_prompt_masked(name: str, request: pytest.FixtureRequest) -> None:
    """Example by example without padding, weighted by response tokens, it is the loss of the padded batch."""
    policy: Policy = request.getfixturevalue(name)
    with torch.no_grad():
        total = sum(hugging_face_loss(policy, *example).item() * len(example[1]) for example in EXAMPLES)
    expected = total / sum(len(response) for _, response in EXAMPLES)
    for batch_size in (1, 3, 64):
        assert evaluate_loss(policy, EXAMPLES, batch_size) == pytest.approx(expected, abs=1e-5)


def test_the_first_step_reports_the_loss_before_it(speller: Policy, clone: Callable[[Policy], Policy]) -> None:
    """The loss of a step is that of the weights it started from; eval_loss that of those it ended with."""
    policy = clone(speller)
    (figures,) = train_sft(policy, EXAMPLES, DEV, settings())
    assert figures["loss"] == pytest.approx(evaluate_loss(speller, EXAMPLES), abs=1e-5)
    assert figures["eval_loss"] == pytest.approx(evaluate_loss(policy, DEV), abs=1e-6)
    assert figures["eval_loss"] != pytest.approx(evaluate_loss(speller, DEV), abs=1e-3)
    assert figures["learning_rate"] == pytest.approx(1e-2)


def test_a_step_follows_the_gradient_of_the_response_loss(speller: Policy, clone: Callable[[Policy], Policy]) -> None:
    """The norm of our gradient is that of Hugging Face's loss, summed over tokens and divided by their number."""
    oracle = clone(speller)
    tokens = sum(len(response) for _, response in EXAMPLES)
    for prompt, response in EXAMPLES:
        (hugging_face_loss(oracle, prompt, response) * len(response) / tokens).backward()
    norm = torch.stack([weight.grad.norm() for weight in oracle.model.parameters() if weight.grad is not None]).norm()
    (figures,) = train_sft(clone(speller), EXAMPLES, DEV, settings())
    assert figures["grad_norm"] == pytest.approx(norm.item(), rel=1e-4)


def test_the_prompt_is_no_target(gpt2: Policy, clone: Callable[[Policy], Policy]) -> None:
    """An untied head gets the gradient of the response's two places alone: Σ (p - target)·h / 2, without padding."""
    policy = clone(gpt2)
    head = torch.nn.Linear(policy.hidden, len(policy.tokenizer), bias=False)
    embeddings: Any = policy.model.get_input_embeddings()
    head.weight = torch.nn.Parameter(embeddings.weight.detach().clone())
    policy.model.lm_head = head
    transformer: Any = policy.model.base_model
    prompt, response = [9, 8, 7], [20, 21]
    hidden = transformer(torch.tensor([prompt + response])).last_hidden_state[0].detach()
    places = hidden[len(prompt) - 1 : -1]
    errors = (places @ head.weight.T).softmax(-1) - torch.nn.functional.one_hot(
        torch.tensor(response), len(policy.tokenizer)
    )
    expected = (errors.T @ places / len(response)).detach()  # the gradient of cross-entropy in the head's weight
    batch = make_batch([prompt], [response], prompt_width=7, response_width=5)
    (-response_logprobs(policy.model, batch).sum() / len(response)).backward()
    torch.testing.assert_close(head.weight.grad, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("micro", [1, 3])
def test_micro_batches_change_nothing(speller: Policy, clone: Callable[[Policy], Policy], micro: int) -> None:
    """One forward of four rows, or several of fewer, unequal in tokens: the same losses and gradient norms."""
    runs = [
        list(train_sft(clone(speller), EXAMPLES, DEV, settings(steps=3, micro_batch_size=size)))
        for size in (None, micro)
    ]
    for whole, parts in zip(*runs, strict=True):
        assert parts == pytest.approx(whole, rel=1e-3, abs=1e-5)


@pytest.mark.parametrize(
    ("size", "replay", "expected"), [(8, 0.0, 0), (8, 0.25, 2), (8, 0.3, 2), (8, 0.01, 1), (7, 0.5, 4)]
)
def test_each_batch_holds_its_share_of_general_examples(size: int, replay: float, expected: int) -> None:
    """8 x .3 = 2.4 rows are two, .08 of a row is one, none is none; every batch is full."""
    train, general = [([row, 2], [1]) for row in range(3, 23)], [([row, 2], [5, 1]) for row in range(3, 9)]
    batches = list(draw_batches(train, general, settings(steps=9, batch_size=size, replay=replay)))
    assert [sum(example in general for example in batch) for batch in batches] == [expected] * 9
    assert [sum(example in train for example in batch) for batch in batches] == [size - expected] * 9


def test_replay_does_not_change_the_order_of_the_tasks_examples() -> None:
    """Read one after the other, they come as they do without replay; each kind comes whole before it comes again."""
    train, general = [([row, 2], [1]) for row in range(3, 23)], [([row, 2], [5, 1]) for row in range(3, 9)]

    def drawn(replay: float, kind: list[Example]) -> list[Example]:
        batches = draw_batches(train, general, settings(steps=10, batch_size=8, replay=replay))
        return [example for batch in batches for example in batch if example in kind]

    plain, replayed, others = drawn(0.0, train), drawn(0.3, train), drawn(0.3, general)
    assert replayed == plain[: len(replayed)]
    assert sorted(replayed[:20]) == train != replayed[:20]
    assert sorted(others[:6]) == sorted(others[6:12]) == general
    assert others[:6] != others[6:12]


def test_replayed_examples_weigh_as_the_others_do(speller: Policy, clone: Callable[[Policy], Policy]) -> None:
    """The first loss is that of the whole batch, summed over all response tokens and divided by their number."""
    both = settings(batch_size=6, replay=1 / 3)
    (figures,) = train_sft(clone(speller), EXAMPLES, DEV, both, DEV)
    assert figures["loss"] == pytest.approx(evaluate_loss(speller, [*EXAMPLES, *DEV]), abs=1e-5)


def test_replay_leaves_rows_to_the_task() -> None:
    """A batch of other tasks alone would not learn this one; the remedy is named."""
    with pytest.raises(ValidationError, match=r"replay 0.9 takes 4 of the 4 rows .* lower replay, or raise batch_size"):
        settings(replay=0.9)
    with pytest.raises(ValidationError, match="takes 1 of the 1 rows"):
        settings(batch_size=1, replay=0.1)


def test_the_likelihood_of_responses_is_hugging_faces(speller: Policy) -> None:
    """Summed over the response tokens of all examples, with their number, and differentiable."""
    nll = response_nll(speller, EXAMPLES)
    with torch.no_grad():
        expected = sum(hugging_face_loss(speller, *example).item() * len(example[1]) for example in EXAMPLES)
    assert nll.total.item() == pytest.approx(expected, rel=1e-5)
    assert nll.tokens == 4 + 2 + 2 + 5
    assert nll.total.requires_grad


def test_learning_adds_the_weighted_gradient_of_the_likelihood(
    speller: Policy, clone: Callable[[Policy], Policy]
) -> None:
    """Half of it in two parts, which autograd finds in one; what is returned is the whole."""
    policy = clone(speller)
    response_nll(policy, EXAMPLES).total.backward()
    expected = {name: 0.5 * weight.grad for name, weight in policy.model.named_parameters()}
    policy.model.zero_grad()
    found = learn_responses(policy, EXAMPLES[:1], 0.5) + learn_responses(policy, EXAMPLES[1:], 0.5)
    assert found == pytest.approx(response_nll(policy, EXAMPLES).total.item(), rel=1e-5)
    for name, weight in policy.model.named_parameters():
        torch.testing.assert_close(weight.grad, expected[name], atol=1e-5, rtol=1e-5)


def test_training_overfits_a_few_examples(speller: Policy, clone: Callable[[Policy], Policy]) -> None:
    """Sixty steps on four examples bring the loss from above 2 to below .2, and leave evaluation mode on."""
    policy = clone(speller)
    figures = list(train_sft(policy, EXAMPLES, DEV, settings(steps=60, learning_rate=3e-2, eval_every=25)))
    assert figures[0]["loss"] > 2 > 0.2 > figures[-1]["loss"]
    assert [step for step, row in enumerate(figures, 1) if "eval_loss" in row] == [25, 50, 60]
    assert not policy.model.training


def test_the_same_seed_trains_the_same_weights_though_there_is_dropout(
    gpt2: Policy, clone: Callable[[Policy], Policy]
) -> None:
    """GPT-2 trains with dropout; what was drawn from torch's global stream before plays no part."""
    runs = []
    for noise in (0, 5):
        torch.rand(noise)
        policy = clone(gpt2)
        losses = [row["loss"] for row in train_sft(policy, EXAMPLES, DEV, settings(steps=3, batch_size=2))]
        runs.append((losses, policy.model.state_dict()))
    assert runs[0][0] == runs[1][0]
    assert all(torch.equal(weight, runs[1][1][name]) for name, weight in runs[0][1].items())


def test_evaluating_on_the_way_changes_no_step(gpt2: Policy, clone: Callable[[Policy], Policy]) -> None:
    """Dropout is off while the dev loss is measured and on again afterwards: often or once, the same losses."""
    often, once = (
        [row["loss"] for row in train_sft(clone(gpt2), EXAMPLES, DEV, settings(steps=4, eval_every=every))]
        for every in (1, 100)
    )
    assert often == once


def test_demonstrations_become_prompt_and_response_ids(speller: Policy) -> None:
    """The separator ends the prompt, EOS the response, and a long response is cut."""
    rows = [Demonstration(id="1", prompt="a b", response="c"), Demonstration(id="2", prompt="e", response="d c b a")]
    assert encode_demonstrations(speller, rows, 8, 3) == [([3, 4, 2], [5, 1]), ([7, 2], [6, 5, 4])]


def test_a_prompt_that_is_too_long_is_named(speller: Policy) -> None:
    """By its id, with its length, the limit and the remedy."""
    rows = [Demonstration(id="row-7", prompt="a b c d", response="e")]
    with pytest.raises(ValueError, match=r"row-7: the prompt has 5 tokens, above model.max_prompt_tokens 4; raise it"):
        encode_demonstrations(speller, rows, 4, 8)


def test_no_demonstration_is_an_error(speller: Policy) -> None:
    """Nothing to learn from is no success."""
    with pytest.raises(ValueError, match="found no demonstration"):
        encode_demonstrations(speller, [], 8, 8)


def test_perplexity_is_the_exponential_of_the_loss() -> None:
    """log 7 nats a token are as good as a choice among 7."""
    assert perplexity(math.log(7)) == pytest.approx(7.0)


def test_a_bad_batch_is_skipped(
    speller: Policy, clone: Callable[[Policy], Policy], poison: Callable[[torch.nn.Module, int], None]
) -> None:
    """Of three steps the second is NaN: no loss is told, no weight moves, its texts are kept, and the third learns."""
    policy, kept = clone(speller), []
    poison(policy.model.get_input_embeddings(), 2)
    bad = BadBatches("sft", 1, lambda batch: kept.append(batch) or "here")
    ends, rows = [], []
    for row in train_sft(policy, EXAMPLES, DEV, settings(steps=3), bad=bad):
        rows.append(row)
        ends.append(parameters_to_vector(policy.model.parameters()).detach().clone())
    assert [{"loss", "grad_norm"} <= row.keys() for row in rows] == [True, False, True]
    assert torch.equal(ends[1], ends[0])
    assert ends[2].isfinite().all()
    assert not torch.equal(ends[2], ends[1])
    assert (bad.count, kept[0]["step"], kept[0]["found"]) == (1, 2, "the loss is nan")
    assert {"prompt": "a b <sep>", "response": "c d e"} in kept[0]["examples"]


def test_too_many_bad_batches_stop_the_training(
    speller: Policy, clone: Callable[[Policy], Policy], poison: Callable[[torch.nn.Module, int], None]
) -> None:
    """None is allowed here, and the first says so."""
    policy = clone(speller)
    poison(policy.model.get_input_embeddings(), 1)
    with pytest.raises(ValueError, match=r"the loss is nan; batches of sft .*: 1, and sft.max_bad_batches allows 0"):
        list(train_sft(policy, EXAMPLES, DEV, settings(max_bad_batches=0)))
    assert torch.equal(*(parameters_to_vector(each.model.parameters()) for each in (policy, speller)))
