"""The builtin corpus: a function of its seed, splits that share nothing, and texts that say what they say."""

from __future__ import annotations

import random
import re
from collections import defaultdict
from collections.abc import Callable
from itertools import combinations, pairwise, product

import pytest

from rlhf import corpus
from rlhf.records import Demonstration, Prompt, Record


@pytest.fixture(scope="module")
def demonstrations() -> list[Demonstration]:
    return corpus.make_demonstrations(400, seed=3)


@pytest.fixture(scope="module")
def prompts() -> list[Prompt]:
    return corpus.make_prompts(300, seed=3)


def split_of(row: Record) -> str:
    return str((row.model_extra or {})["split"])


def text_of(row: Record) -> str:
    return str(row.model_dump()["prompt"])


@pytest.mark.parametrize("make", [corpus.make_demonstrations, corpus.make_prompts, corpus.make_general_demonstrations])
def test_the_same_seed_gives_the_same_bytes(make: Callable[..., list[Demonstration] | list[Prompt]]) -> None:
    """And another seed others; a longer corpus begins with the shorter one."""
    first, again, other = ("\n".join(row.model_dump_json() for row in make(40, seed)).encode() for seed in (1, 1, 2))
    assert first == again != other
    assert make(60, 1)[:40] == make(40, 1)


def test_held_out_combinations_are_in_test_alone(demonstrations: list[Demonstration], prompts: list[Prompt]) -> None:
    """One in five of (kind, dish) is: every test prompt has one, and no other row does."""
    held_out = corpus.held_out_combinations()
    assert len(held_out) == 12 == len(corpus.VALUES["kind"]) * len(corpus.VALUES["dish"]) // 5
    for row in [*demonstrations, *prompts]:
        facts = corpus.read_prompt(text_of(row))
        assert ((facts["kind"], facts["dish"]) in held_out) == (split_of(row) == "test")


def test_no_prompt_is_in_two_splits(demonstrations: list[Demonstration], prompts: list[Prompt]) -> None:
    """Over demonstrations and prompts together, also of other seeds: train, dev and test share no prompt."""
    splits = defaultdict(set)
    for row in [*demonstrations, *prompts, *corpus.make_demonstrations(400, 4), *corpus.make_prompts(200, 4)]:
        splits[split_of(row)].add(text_of(row))
    assert set(splits) == {"train", "dev", "test"}
    assert all(not splits[one] & splits[other] for one, other in combinations(splits, 2))


def test_prompts_that_come_again_stay_in_their_split(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a corpus so small that most prompts are drawn many times, train and dev still share none."""
    for attribute in ("name", *corpus.OPTIONAL):
        monkeypatch.setitem(corpus.VALUES, attribute, corpus.VALUES[attribute][:1])
    splits = defaultdict(list)
    for row in [*corpus.make_demonstrations(2000, 0), *corpus.make_prompts(200, 0)]:
        splits[split_of(row)].append(text_of(row))
    assert len(set(splits["train"])) < 0.7 * len(splits["train"])
    assert all(not set(splits[one]) & set(splits[other]) for one, other in combinations(splits, 2))


def test_splits_have_their_shares(demonstrations: list[Demonstration], prompts: list[Prompt]) -> None:
    """One demonstration in twenty is dev; of ten prompts seven are train, one dev, two test."""
    assert [split_of(row) for row in demonstrations].count("dev") == 20
    counts = [split_of(row) for row in prompts]
    assert [counts.count(split) for split in ("train", "dev", "test")] == [210, 30, 60]


def test_ids_and_prompts_are_distinct(demonstrations: list[Demonstration], prompts: list[Prompt]) -> None:
    """Each row has an id of its own, and no prompt is asked twice."""
    assert len({row.id for row in demonstrations}) == len(demonstrations)
    assert len({row.id for row in prompts}) == len({text_of(row) for row in prompts}) == len(prompts)


def test_a_reference_states_every_fact_once_and_nothing_else(prompts: list[Prompt]) -> None:
    """Three different sentences for each prompt, each with the prompt's values alone."""
    for row in prompts:
        facts = sorted(corpus.read_prompt(text_of(row)).items())
        assert len(set(row.references)) == 3
        for reference in row.references:
            assert sorted(corpus.find_values(reference)) == facts
            assert re.fullmatch(r"[A-Z].*[^\s.]\.", reference)
            assert not re.search(r"\s[,.]|\s\s|[{}]", reference)


def test_demonstrations_are_mediocre_on_purpose(demonstrations: list[Demonstration]) -> None:
    """They state between .7 and .9 of the facts, some wrongly (2 to 8 %), and 10 to 20 % open with filler."""
    asked = kept = wrong = filler = 0
    for row in demonstrations:
        facts, stated = corpus.read_prompt(text_of(row)), dict(corpus.find_values(row.response))
        assert set(stated) <= set(facts)
        assert {"name", "kind"} <= set(stated)
        asked, kept = asked + len(facts), kept + len(stated)
        wrong += sum(facts[attribute] != value for attribute, value in stated.items())
        filler += row.response.lower().startswith(tuple(words.replace(" ,", ",") for words in corpus.FILLERS))
    assert 0.7 < kept / asked < 0.9
    assert 0.02 < wrong / kept < 0.08
    assert 0.1 < filler / len(demonstrations) < 0.2


def test_a_prompt_reads_back_as_its_facts() -> None:
    """`write_prompt` and `read_prompt` are each other's inverse, in order."""
    facts = {"name": "Old Granary", "kind": "diner", "near": "the boat house"}
    assert corpus.write_prompt(facts) == "name: Old Granary; kind: diner; near: the boat house"
    assert list(corpus.read_prompt(corpus.write_prompt(facts)).items()) == list(facts.items())


@pytest.mark.parametrize("prompt", ["", "Tell me a joke", "name: Nowhere", "colour: red", "name: Kestrel; kind: cheap"])
def test_a_prompt_of_another_corpus_is_an_error(prompt: str) -> None:
    """Unknown attributes, unknown values, or none; the remedy is named."""
    with pytest.raises(ValueError, match=r"no prompt of the builtin corpus; .* give rankings by people"):
        corpus.read_prompt(prompt)


def test_no_value_is_part_of_another() -> None:
    """So that a text tells which values it states."""
    values = [value.lower() for group in corpus.VALUES.values() for value in group]
    assert len(set(values)) == len(values)
    assert not [(one, other) for one, other in product(values, values) if one != other and one in other]


def test_values_are_found_in_order_with_repeats_and_whatever_their_case() -> None:
    """Whole words only: `fairly` and `goods` state nothing."""
    text = "the KESTREL is a fairly cheap diner, a Diner with goods near the opera."
    assert corpus.find_values(text) == [
        ("name", "KESTREL"),
        ("price", "cheap"),
        ("kind", "diner"),
        ("kind", "Diner"),
        ("near", "the opera"),
    ]


def test_delexicalising_puts_slots_for_values() -> None:
    """Words in lower case, marks as tokens of their own."""
    assert corpus.delexicalise("Old Granary is a Diner, near the opera.") == [
        *("<name>", "is", "a", "<kind>", ",", "near", "<near>", "."),
    ]


def test_what_the_grammar_writes_is_fluent_and_what_it_does_not_is_not() -> None:
    """Bigrams of fresh sentences are known; a doubled article or a missing verb is not."""
    fluent = corpus.fluent_bigrams()
    generator = random.Random(9)
    for row in corpus.make_prompts(60, seed=77):
        sentence = corpus.write_sentence(corpus.read_prompt(text_of(row)), generator)
        tokens = ["<s>", *corpus.delexicalise(sentence), "</s>"]
        assert {bigram for bigram in pairwise(tokens) if bigram not in fluent} == set()
    assert not {("a", "a"), ("<name>", "<name>"), ("<name>", "."), ("serves", "is"), ("<s>", "is")} & fluent


def test_a_sentence_without_a_dish_still_has_a_verb() -> None:
    """Heads that wait for `serves` give way to `is`."""
    facts = {"name": "Kestrel", "kind": "diner", "price": "fair"}
    for seed in range(30):
        assert re.search(r"\bis a\b", corpus.write_sentence(facts, random.Random(seed)))


def test_the_general_task_shares_no_word_with_the_first(
    demonstrations: list[Demonstration], prompts: list[Prompt]
) -> None:
    """So that what is learnt of one teaches nothing of the other, and neither has a gold score of the other's."""

    def words(texts: list[str]) -> set[str]:
        return set(re.findall(r"\w+", " ".join(texts).lower()))

    general = corpus.make_general_demonstrations(400, 0)
    first = [text for row in demonstrations for text in (text_of(row), row.response)]
    first += [reference for row in prompts for reference in row.references]
    grammar = [part for heads in (corpus.HEADS, corpus.FILLERS, *corpus.CLAUSES.values()) for part in heads]
    values = [value for group in corpus.VALUES.values() for value in group]
    others = words([text for row in general for text in (text_of(row), row.response)])
    assert not others & words([*first, *grammar, *values])
    assert len(others) > 40
    with pytest.raises(ValueError, match="no prompt of the builtin corpus"):
        corpus.read_prompt(text_of(general[0]))


def test_a_general_prompt_has_one_right_answer_that_states_all_of_it() -> None:
    """Every word of the prompt stands in the response, and a prompt drawn again has the same one."""
    answers = defaultdict(set)
    for row in corpus.make_general_demonstrations(2000, 5):
        answers[text_of(row)].add(row.response)
        assert set(re.findall(r"\w+", text_of(row))) < set(re.findall(r"\w+", row.response.lower()))
    assert 1500 < len(answers) < 2000
    assert {len(found) for found in answers.values()} == {1}
