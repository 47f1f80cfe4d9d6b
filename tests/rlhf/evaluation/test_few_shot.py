"""Few-shot prompts: every token where it belongs, honest and repeatable draws, and zero shots as plain evaluation."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf.evaluation.answers import greedy_answers
from rlhf.evaluation.few_shot import draw_shots, encode_shots, greedy_continuations
from rlhf.models import Policy
from rlhf.records import Demonstration, Message

TEMPLATE = (
    "{% for turn in messages %}<{{ turn.role }}>{{ turn.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def demonstration(prompt: Any, response: str, name: str = "x") -> Demonstration:
    return Demonstration(id=name, prompt=prompt, response=response)


def turn(role: str, content: str) -> Message:
    return Message(role=role, content=content)


def chat(policy: Policy) -> Policy:
    """The same model with a chat template."""
    tokenizer = copy.deepcopy(policy.tokenizer)
    tokenizer.chat_template = TEMPLATE
    return Policy(policy.model, tokenizer)


TWO = [demonstration("a", "b c"), demonstration("d", "e")]
POOL = [demonstration(f"p{place}", f"r{place}", str(place)) for place in range(9)]


def test_a_plain_model_gets_demonstrations_as_sft_writes_them(speller: Policy) -> None:
    """a<sep>b c<eos>d<sep>e<eos>c<sep>, with <eos> 1, <sep> 2, a 3 … e 7."""
    context = encode_shots(speller, "c", TWO, max_new_tokens=4)
    assert context.tokens == [3, 2, 4, 5, 1, 6, 2, 7, 1, 5, 2]
    assert context.dropped == 0
    assert encode_shots(speller, "c", [], 4).tokens == [5, 2]


def test_a_model_without_a_separator_gets_line_breaks_and_eos(gpt2: Policy) -> None:
    """The newline form: the prompt's own encoding, then the response's with EOS, then the question's."""
    plain: Any = copy.deepcopy(gpt2.tokenizer)
    known = plain.convert_tokens_to_ids
    plain.convert_tokens_to_ids = lambda token: None if token == "<sep>" else known(token)
    policy = Policy(gpt2.model, plain)

    def encode(text: str) -> list[int]:
        return list(plain.encode(text, add_special_tokens=False))

    expected = [*encode("ab\n"), *encode("cd"), policy.eos_id, *encode("ef\n")]
    assert encode_shots(policy, "ef", [demonstration("ab", "cd")], 4).tokens == expected


def test_a_chat_model_gets_them_as_earlier_turns(llama: Policy) -> None:
    """User and assistant turns in order, a demonstration's own conversation too, one system turn: the question's."""
    policy = chat(llama)
    talk = [turn("system", "S1"), turn("user", "u1"), turn("assistant", "v1"), turn("user", "u2")]
    question = [turn("system", "S2"), turn("user", "q")]
    context = encode_shots(policy, question, [demonstration("a", "b"), demonstration(talk, "v2")], 4)
    text = "<system>S2\n<user>a\n<assistant>b\n<user>u1\n<assistant>v1\n<user>u2\n<assistant>v2\n<user>q\n<assistant>"
    assert context.tokens == policy.tokenizer.encode(text, add_special_tokens=False)
    alone = encode_shots(policy, "q", [demonstration("a", "b")], 4)
    assert alone.tokens == policy.tokenizer.encode(
        "<user>a\n<assistant>b\n<user>q\n<assistant>", add_special_tokens=False
    )
    assert encode_shots(policy, question, [], 4).tokens == policy.encode_prompt(question)


def test_learnt_embeddings_stand_before_the_whole_once(speller: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the soft prompt 8, 9: 8 9 a<sep>b c<eos>d<sep>e<eos>c<sep>."""
    monkeypatch.setattr(Policy, "soft_ids", [8, 9])
    assert encode_shots(speller, "c", TWO, 4).tokens == [8, 9, 3, 2, 4, 5, 1, 6, 2, 7, 1, 5, 2]


@pytest.mark.parametrize(("room", "kept"), [(12, 3), (13, 2), (126, 0)])
def test_demonstrations_that_do_not_fit_go_from_the_front(speller: Policy, room: int, kept: int) -> None:
    """38 tokens each in a context of 128: beside 2 of the question and 12 new ones exactly 3, beside 13 only 2."""
    shots = [demonstration(word, " ".join(["e"] * 35)) for word in "abcde"]
    context = encode_shots(speller, "c", shots, max_new_tokens=room)
    expected = [token for word in range(5 - kept, 5) for token in [3 + word, 2, *[7] * 35, 1]]
    assert context.tokens == [*expected, 5, 2]
    assert context.dropped == 5 - kept


@pytest.mark.parametrize("shots", [[], TWO])
def test_a_question_that_does_not_fit_alone_is_an_error(speller: Policy, shots: list[Demonstration]) -> None:
    """It names the tokens, the context and the remedy."""
    with pytest.raises(ValueError, match="take 129 tokens, but the model's context is 128; lower max_new_tokens"):
        encode_shots(speller, "c", shots, max_new_tokens=127)


@given(st.integers(0, 8), st.integers(0, 1000), st.lists(st.integers(0, 12), min_size=1, max_size=6))
def test_a_draw_holds_neither_the_question_nor_a_prompt_twice(count: int, seed: int, places: list[int]) -> None:
    """For questions that are in train and others, as many as asked for, of the rows given."""
    doubled = [*POOL, *[demonstration(row.prompt, "again", f"{row.id}b") for row in POOL]]
    prompts = [f"p{place}" for place in places]
    for prompt, shots in zip(prompts, draw_shots(prompts, doubled, count, seed), strict=True):
        drawn = [str(row.prompt) for row in shots]
        assert len(drawn) == len(set(drawn)) == count
        assert prompt not in drawn
        assert all(row in doubled for row in shots)


def test_a_draw_depends_on_the_seed_and_the_question_alone() -> None:
    """The same beside other questions and in another order of them; another seed or question draws otherwise.

    The question itself is not shown, in no form.
    """
    first, second = draw_shots(["p1", "new"], POOL, 5, seed=0)
    assert draw_shots(["new", "other", "p1"], POOL, 5, seed=0)[::2] == [second, first]
    assert draw_shots(["p1"], POOL, 5, seed=1) != [first]
    others = draw_shots(["new", "newer", "newest"], POOL, 5, seed=0)
    assert len({tuple(row.id for row in shots) for shots in others}) == 3
    message = [turn("user", "p1")]
    talks = [*POOL, demonstration(message, "r", "talk")]
    for prompt in ("p1", " P1", message):
        assert {row.id for row in draw_shots([prompt], talks, 8, seed=0)[0]} == set("02345678")


def test_too_few_demonstrations_are_counted() -> None:
    """Nine in train, of which one is the question's own."""
    with pytest.raises(ValueError, match=r"found demonstrations of 8 other prompts in train, but .* asks for 9"):
        draw_shots(["p3"], POOL, 9, seed=0)
    assert len(draw_shots(["new"], POOL, 9, seed=0)[0]) == 9


@pytest.mark.parametrize("batch_size", [1, 2, 64])
def test_zero_shots_are_the_plain_evaluations_greedy_answers(llama: Policy, batch_size: int) -> None:
    """Text for text, in the order given, whatever the batch."""
    prompts = ["name[Kestrel]", "name[Bellwether], kind[bistro], dish[tapas]", "area[old town]"]
    contexts = [encode_shots(llama, prompt, [], 10).tokens for prompt in prompts]
    answers = greedy_continuations(llama, contexts, 10, batch_size)
    assert answers == greedy_answers(llama, prompts, 10, 64)
    assert len(set(answers)) == 3


def test_a_demonstration_changes_what_is_answered(llama: Policy) -> None:
    """The model really reads it."""
    shots = [demonstration("name[Bellwether]", "Bellwether is a bistro.")]
    contexts = [encode_shots(llama, "name[Kestrel]", shown, 10).tokens for shown in ([], shots)]
    answers = greedy_continuations(llama, contexts, 10, 64)
    assert answers[0] != answers[1]
