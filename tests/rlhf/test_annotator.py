"""Gold by hand, defect by defect; the annotator's agreement with it; the probe that swaps one value."""

from __future__ import annotations

import random
from statistics import NormalDist, fmean, pstdev

import pytest

from rlhf import corpus
from rlhf.annotator import Annotator, gold_score, rank_completions, swap_value

PROMPT = "name: Kestrel; kind: diner; dish: tapas; price: fair"
PERFECT = "Kestrel is a diner serving tapas with fair prices."


@pytest.mark.parametrize(
    ("completion", "quarters"),
    [
        (PERFECT, 4),
        ("Kestrel is a diner serving tapas.", 3),  # a fact dropped
        ("Kestrel is a diner serving tapas with steep prices.", 2),  # a wrong value: dropped and foreign
        ("Kestrel is a diner serving tapas with fair prices in the old town.", 3),  # a value nobody asked for
        ("Kestrel is a diner serving tapas with fair prices", 3),  # no full stop
        ("", -1),  # nothing covered, and unfinished
        ("Kestrel is a diner serving tapas known for tapas with fair prices.", 2.5),  # a repeat; (dish, known)
        ("Kestrel is a a diner serving tapas with fair prices.", 3),  # (a, a) is no bigram of the grammar
        ("Kestrel is the diner serving tapas with fair prices.", 3),  # (is, the); (the, kind) opens a sentence
        ("Well, kestrel is a diner serving tapas with fair prices.", 1),  # (<s>, well), (well, ","), (",", <name>)
    ],
)
def test_gold_by_hand(completion: str, quarters: float) -> None:
    """(covered - foreign - ½·repeats - words over 30 - disfluent bigrams - unfinished) / 4."""
    assert gold_score(PROMPT, completion) == pytest.approx(quarters / 4)


def test_a_repeat_costs_half_a_fact_and_a_word_over_thirty_a_whole_one() -> None:
    """Five facts, and clauses of three words that may follow one another without end.

    Two state all: 1. Three repeat one value: (5 - ½) / 5.
    8 clauses make 30 words and 6 repeats: (5 - 3) / 5. A ninth makes 33 and 7: (5 - 3.5 - 3) / 5.
    """
    prompt, start = f"{PROMPT}; rating: good", "Kestrel is a diner serving tapas"
    clauses = [" with fair prices", " with good reviews"] * 5
    golds = [gold_score(prompt, start + "".join(clauses[:count]) + ".") for count in (2, 3, 8, 9)]
    assert golds == pytest.approx([1.0, 4.5 / 5, 2 / 5, -1.5 / 5])


def test_references_have_gold_one() -> None:
    """Every reference of every split is perfect."""
    scores = {gold_score(str(row.prompt), text) for row in corpus.make_prompts(150, seed=5) for text in row.references}
    assert scores == {1.0}


def test_gold_of_another_corpus_is_an_error() -> None:
    """There is none."""
    with pytest.raises(ValueError, match="no prompt of the builtin corpus"):
        gold_score("Tell me a joke", "Knock knock.")


def completions_of(prompt: str, generator: random.Random) -> list[str]:
    """Four sentences that drop some facts and now and then state a wrong one, as an SFT model's would."""
    texts = []
    for _ in range(4):
        facts = {
            attribute: generator.choice(corpus.VALUES[attribute]) if generator.random() < 0.08 else value
            for attribute, value in corpus.read_prompt(prompt).items()
            if attribute in ("name", "kind") or generator.random() < 0.65
        }
        texts.append(corpus.write_sentence(facts, generator))
    return texts


def test_the_annotator_agrees_with_gold_as_often_as_its_noise_lets_it() -> None:
    """On pairs that gold tells apart by Δ the chance is Φ(Δ / (.12·√2)); over all it is between .88 and .97."""
    generator, agreed, expected = random.Random(0), [], []
    for row in corpus.make_prompts(400, seed=8):
        prompt = str(row.prompt)
        texts = completions_of(prompt, generator)
        gold = [gold_score(prompt, text) for text in texts]
        ranks = rank_completions(prompt, texts, 0.12, generator)
        for one in range(4):
            for other in range(4):
                if gold[one] > gold[other] + 1e-9:
                    agreed.append(ranks[one] < ranks[other])
                    expected.append(NormalDist().cdf((gold[one] - gold[other]) / (0.12 * 2**0.5)))
    assert len(agreed) > 1000
    assert 0.88 <= fmean(agreed) <= 0.97
    assert fmean(agreed) == pytest.approx(fmean(expected), abs=0.015)


def test_without_noise_the_annotator_is_gold() -> None:
    """Best first; equal gold ties, and ties share the lowest rank."""
    texts = ["Kestrel is a diner.", PERFECT, "Kestrel is a diner.", "Kestrel", "There is a diner called Kestrel."]
    assert rank_completions(PROMPT, texts, 0.0, random.Random(0)) == [2, 1, 2, 5, 2]


def test_the_same_text_ties_with_itself_whatever_the_noise() -> None:
    """Nobody prefers a text to itself."""
    for seed in range(10):
        ranks = rank_completions(PROMPT, [PERFECT, "Kestrel.", PERFECT], 5.0, random.Random(seed))
        assert ranks in ([1, 3, 1], [2, 1, 2])


def test_noise_is_a_function_of_the_generator() -> None:
    """The same seed ranks alike; over many seeds large noise turns the order of good and bad now and then."""
    texts = [PERFECT, "Kestrel is a diner."]
    draws = [[rank_completions(PROMPT, texts, 1.0, random.Random(seed)) for seed in range(30)] for _ in range(2)]
    assert draws[0] == draws[1]
    assert [1, 2] in draws[0]
    assert [2, 1] in draws[0]


def test_an_annotator_scores_gold_plus_noise_of_the_stated_size() -> None:
    """Over 2,000 texts the difference to gold has mean 0 and deviation .12, within 4 standard errors."""
    texts = [f"Kestrel is a diner number {number}." for number in range(2000)]
    scores = Annotator(seed=1).score([PROMPT] * 2000, texts).tolist()
    noise = [score - gold_score(PROMPT, text) for score, text in zip(scores, texts, strict=True)]
    assert fmean(noise) == pytest.approx(0.0, abs=4 * 0.12 / 2000**0.5)
    assert pstdev(noise) == pytest.approx(0.12, abs=4 * 0.12 / 4000**0.5)
    assert Annotator(seed=1, noise=0.0).score([PROMPT], [PERFECT]).tolist() == [1.0]


def test_an_annotator_asked_again_says_the_same_and_another_one_differs() -> None:
    """Whatever it was asked in between, so that a run taken up again hears what it would have heard."""
    first = Annotator(seed=1).score([PROMPT, PROMPT], [PERFECT, "Kestrel."])
    again = Annotator(seed=1).score([PROMPT, PROMPT, PROMPT], ["Kestrel.", "A diner.", PERFECT])
    assert first.tolist() == [again[2].item(), again[0].item()]
    assert Annotator(seed=2).score([PROMPT], [PERFECT]).item() != first[0].item()


def test_an_annotator_asked_about_another_corpus_is_an_error() -> None:
    """There is no gold to add noise to."""
    with pytest.raises(ValueError, match="no prompt of the builtin corpus"):
        Annotator(seed=1).score(["Tell me a joke"], ["Knock knock."])


def test_a_swap_changes_exactly_one_value() -> None:
    """To another of the same attribute; all words around it stay, and gold falls by a fact and a foreign value."""
    generator, swapped_attributes = random.Random(1), set()
    for row in corpus.make_prompts(80, seed=6):
        prompt, reference = str(row.prompt), row.references[0]
        swapped = swap_value(prompt, reference, generator)
        assert swapped is not None
        before, after = corpus.find_values(reference), corpus.find_values(swapped)
        changed = [(old, new) for old, new in zip(before, after, strict=True) if old != new]
        assert len(changed) == 1
        (old_attribute, old), (new_attribute, new) = changed[0]
        assert old_attribute == new_attribute
        assert swapped == reference.replace(old, new)
        assert corpus.delexicalise(swapped) == corpus.delexicalise(reference)
        assert gold_score(prompt, swapped) == pytest.approx(1 - 2 / len(corpus.read_prompt(prompt)))
        swapped_attributes.add(old_attribute)
    assert swapped_attributes == set(corpus.VALUES)


def test_a_text_that_states_nothing_cannot_be_swapped() -> None:
    """There is no value to change."""
    assert swap_value(PROMPT, "Well, who knows.", random.Random(0)) is None
