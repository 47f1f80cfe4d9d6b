"""The builtin corpus: attributes → sentence, in a small domain of our own invention (places to eat).

Demonstrations are mediocre on purpose, as people's are: they drop facts, now and then state a wrong value, and
some open with filler. References state everything. That gap is what learning from preferences can win.
Whole combinations of kind and dish are held out: a test prompt has one that no training row has.

A second task, the labels of a tool store, shares no word with it: what a policy may forget while it learns the first.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from functools import cache
from itertools import pairwise, product

from rlhf.records import Demonstration, Prompt

VALUES: dict[str, tuple[str, ...]] = {
    "name": (
        "Amber Lantern", "Bellwether", "Cinder Row", "Dapple Hall", "Ember and Oak", "Fennel Yard",
        "Glasshouse", "Hazel Barn", "Indigo Moon", "Juniper Loft", "Kestrel", "Lark Cottage",
        "Marigold", "Nettle Inn", "Old Granary", "Pepper Mill", "Quill", "Rowan Tree", "Saltmarsh", "Thistle",
    ),
    "kind": ("bakery", "bistro", "canteen", "diner", "tavern", "teahouse"),
    "dish": (
        "dumplings", "flatbread", "grilled fish", "lentil stew", "noodle soup", "pancakes",
        "roast lamb", "stuffed peppers", "tapas", "vegetable curry",
    ),
    "price": ("cheap", "fair", "steep", "lavish"),
    "rating": ("poor", "mixed", "good", "superb"),
    "area": ("harbour", "hillside", "market square", "mill quarter", "old town", "station"),
    "near": (
        "the aquarium", "the bell tower", "the botanic garden", "the boat house", "the city library",
        "the clock museum", "the flower hall", "the lighthouse", "the opera", "the planetarium",
        "the stone bridge", "the velodrome",
    ),
    "seating": ("a balcony", "booths", "a courtyard", "long tables", "a terrace"),
}  # fmt: skip
"""Attribute → its values. No value is part of another one, so the values that a text states can be read from it."""

MANDATORY = ("name", "kind", "dish")
OPTIONAL = tuple(attribute for attribute in VALUES if attribute not in MANDATORY)

HEADS = ("{name} is a {kind}", "{name} , a {kind} ,", "the {kind} {name}", "there is a {kind} called {name}")
"""How a sentence opens. The second and third still need a verb, which the first clause then adds."""
VERBLESS = frozenset(HEADS[1:3])
CLAUSES: dict[str, tuple[str, ...]] = {
    "dish": ("serving {dish}", "known for {dish}"),
    "price": ("with {price} prices", "at {price} prices"),
    "rating": ("with {rating} reviews", "holding {rating} reviews"),
    "area": ("in the {area}", "by the {area}"),
    "near": ("near {near}", "close to {near}"),
    "seating": ("offering {seating}", "that has {seating}"),
}
FILLERS = ("well ,", "so ,", "now ,", "you see ,")

TOOLS = ("anvil", "bolt", "chisel", "clamp", "drill", "file", "hammer", "hinge", "mallet", "nail", "rivet", "wrench")
METALS = ("brass", "bronze", "copper", "iron", "nickel", "steel", "zinc")
SIZES = (4, 6, 8, 10, 12, 16, 20, 24)
AISLES = range(1, 25)


def make_demonstrations(count: int, seed: int) -> list[Demonstration]:
    """Generates mediocre demonstrations for training (split train, and one in twenty for dev)."""
    generator = random.Random(f"demonstrations-{seed}")
    rows = []
    for index in range(count):
        split = "dev" if index % 20 == 19 else "train"
        facts = _draw_facts(generator, held_out=False, split=split)
        rows.append(
            Demonstration.model_validate(
                {
                    "id": f"demonstration-{index:05d}",
                    "prompt": write_prompt(facts),
                    "response": _write_demonstration(facts, generator),
                    "split": split,
                }
            )
        )
    return rows


def make_prompts(count: int, seed: int) -> list[Prompt]:
    """Generates distinct prompts with three full references each: 7 in 10 train, 1 dev, 2 test."""
    generator = random.Random(f"prompts-{seed}")
    rows: dict[str, Prompt] = {}
    while len(rows) < count:
        split = (("train",) * 7 + ("dev", "test", "test"))[len(rows) % 10]
        facts = _draw_facts(generator, held_out=split == "test", split=split)
        prompt = write_prompt(facts)
        if prompt in rows:
            continue
        references = _write_references(facts, generator)
        rows[prompt] = Prompt.model_validate(
            {"id": f"prompt-{len(rows):05d}", "prompt": prompt, "references": references, "split": split}
        )
    return list(rows.values())


def make_general_demonstrations(count: int, seed: int) -> list[Demonstration]:
    """Generates demonstrations of the other task: a prompt has one right answer, so that all loss is lack of skill."""
    generator = random.Random(f"general-{seed}")
    rows = []
    for index in range(count):
        tool, metal, size, aisle = (generator.choice(values) for values in (TOOLS, METALS, SIZES, AISLES))
        rows.append(
            Demonstration(
                id=f"general-{index:05d}",
                prompt=f"{tool} / {metal} / {size} mm / aisle {aisle}",
                response=f"Aisle {aisle} stocks every {metal} {tool} of {size} mm.",
            )
        )
    return rows


def write_prompt(facts: Mapping[str, str]) -> str:
    """The attributes as a prompt: `name: Kestrel; kind: diner`.

    A space before each value, as in a sentence, so that a value has the same tokens in both.
    """
    return "; ".join(f"{attribute}: {value}" for attribute, value in facts.items())


def read_prompt(prompt: str) -> dict[str, str]:
    """The attributes of a prompt; raises ValueError when it is not one of this corpus."""
    facts = dict(re.findall(r"(\w+): ([^;]*)(?:; |$)", prompt))
    if not facts or any(value not in VALUES.get(attribute, ()) for attribute, value in facts.items()):
        raise ValueError(
            f"{prompt!r:.80} is no prompt of the builtin corpus; only those have a gold score, "
            "so give rankings by people for other data (rank.annotator: people)"
        )
    return facts


def write_sentence(facts: Mapping[str, str], generator: random.Random) -> str:
    """A fluent sentence that states every fact once."""
    head = generator.choice(HEADS)
    rest = [attribute for attribute in facts if attribute in CLAUSES]
    generator.shuffle(rest)
    clauses = [generator.choice(CLAUSES[attribute]) for attribute in rest]
    if head in VERBLESS:
        head, clauses = _with_verb(head, rest, clauses)
    return _finish(" ".join([head, *clauses]).format(**facts))


def find_values(text: str) -> list[tuple[str, str]]:
    """Every (attribute, value) that a text states, in order, repeats included."""
    return [(_attribute_of()[match.lower()], match) for match in _value_pattern().findall(text)]


def delexicalise(text: str) -> list[str]:
    """A text as lower-cased tokens, each value replaced by its attribute's slot."""
    slotted = _value_pattern().sub(lambda match: f" <{_attribute_of()[match.group().lower()]}> ", text)
    return re.findall(r"<\w+>|[\w'-]+|[^\w\s]", slotted.lower())


@cache
def fluent_bigrams() -> frozenset[tuple[str, str]]:
    """Every bigram of slots and words that the grammar can write, sentence ends included."""
    generator = random.Random("bigrams")
    bigrams: set[tuple[str, str]] = set()
    for _ in range(20_000):
        attributes = [*MANDATORY, *generator.sample(OPTIONAL, generator.randint(0, len(OPTIONAL)))]
        facts = {attribute: VALUES[attribute][0] for attribute in generator.sample(attributes, len(attributes))}
        bigrams.update(pairwise(["<s>", *delexicalise(write_sentence(facts, generator)), "</s>"]))
    return frozenset(bigrams)


def held_out_combinations() -> frozenset[tuple[str, str]]:
    """The (kind, dish) combinations that only test prompts have: one in five."""
    combinations = list(product(VALUES["kind"], VALUES["dish"]))
    return frozenset(random.Random("held-out").sample(combinations, len(combinations) // 5))


def _draw_facts(generator: random.Random, held_out: bool, split: str) -> dict[str, str]:
    while True:
        attributes = [*MANDATORY, *generator.sample(OPTIONAL, generator.randint(1, 4))]
        facts = {attribute: generator.choice(VALUES[attribute]) for attribute in VALUES if attribute in attributes}
        if ((facts["kind"], facts["dish"]) in held_out_combinations()) != held_out:
            continue
        # The prompt's own text decides between train and dev, so a prompt drawn twice is in one split.
        if held_out or (random.Random(write_prompt(facts)).random() < 0.1) == (split == "dev"):
            return facts


def _write_references(facts: Mapping[str, str], generator: random.Random) -> list[str]:
    references: list[str] = []
    while len(references) < 3:
        sentence = write_sentence(facts, generator)
        if sentence not in references:
            references.append(sentence)
    return references


def _write_demonstration(facts: Mapping[str, str], generator: random.Random) -> str:
    keep = generator.uniform(0.6, 0.85)
    stated = {}
    for attribute, value in facts.items():
        if attribute in ("name", "kind") or generator.random() < keep:
            wrong = generator.random() < 0.06
            stated[attribute] = generator.choice(VALUES[attribute]) if wrong else value
    sentence = write_sentence(stated, generator)
    if generator.random() < 0.15:
        sentence = _finish(f"{generator.choice(FILLERS)} {_lower_first(sentence, stated)}".removesuffix("."))
    return sentence


def _with_verb(head: str, rest: list[str], clauses: list[str]) -> tuple[str, list[str]]:
    """Gives a verbless head the verb `serves` and moves the dish there; without a dish, takes another head."""
    if "dish" in rest:
        index = rest.index("dish")
        others = clauses[:index] + clauses[index + 1 :]
        return f"{head} serves {{dish}}", others
    return "{name} is a {kind}", clauses


def _lower_first(sentence: str, facts: Mapping[str, str]) -> str:
    return sentence if sentence.startswith(facts["name"]) else sentence[0].lower() + sentence[1:]


def _finish(text: str) -> str:
    text = re.sub(r"\s+([,.])", r"\1", text).strip()
    return text[0].upper() + text[1:] + "."


@cache
def _value_pattern() -> re.Pattern[str]:
    values = sorted((value for group in VALUES.values() for value in group), key=len, reverse=True)
    return re.compile(r"\b(?:" + "|".join(map(re.escape, values)) + r")\b", re.IGNORECASE)


@cache
def _attribute_of() -> dict[str, str]:
    return {value.lower(): attribute for attribute, group in VALUES.items() for value in group}
