"""What rankings tell of those who made them: habits that are no preferences."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from math import factorial

from rlhf.preferences import verdicts
from rlhf.records import Ranking, digest, prompt_key

SHARE = 0.95
"""Of so many rankings of one kind nobody thinks each over."""
CHANCE = 1.0e-4
"""How seldom chance alone may do what is called a habit."""
AGAIN = 3
"""How many times one may rank the very same, to see whether the answer holds."""
WORSE, BETTER, REPEATED = 0b001, 0b100, 0b1000
"""What is remembered of a couple of texts: each verdict (-1, 0, 1) has a bit, and so has a second ranking."""


@dataclass
class _Answers:
    """What is kept of somebody's rankings: counts alone, for there may be many."""

    orders: Counter[tuple[int, ...]] = field(default_factory=Counter)
    couples: dict[bytes, int] = field(default_factory=dict)
    """Of each couple of texts what was said of it, in bits."""
    items: Counter[bytes] = field(default_factory=Counter)
    """How often each prompt with its completions was ranked."""
    again: dict[bytes, str] = field(default_factory=dict)
    """Prompts of those that were ranked more than AGAIN times."""

    def add(self, ranking: Ranking) -> None:
        self.orders[tuple(ranking.ranks)] += 1
        for (key, *texts), verdict in verdicts(ranking):
            if texts[0] != texts[1]:
                couple = digest(key, *texts)
                before = self.couples.get(couple, 0)
                self.couples[couple] = before | (WORSE << (verdict + 1)) | (REPEATED if before else 0)
        key = prompt_key(ranking.prompt)
        item = digest(key, *sorted(ranking.completions))
        self.items[item] += 1
        if self.items[item] > AGAIN:
            self.again[item] = key


def habits(rankings: Iterable[Ranking]) -> list[str]:
    """What looks like a habit, each in a sentence: the order of the list, one answer to all, contradictions, repeats.

    Who answers in the order of the list, or always alike, is called so when 95 % of the answers are, and when one who
    draws by lot would answer so with a chance below 1e-4: from 14 rankings of two completions on, 6 of three, 3 of 4.
    Where no single one ranks enough, all are counted together for the order of the list.

    Args:
        rankings: people's, as they were given.
    """
    by_annotator: dict[str, _Answers] = defaultdict(_Answers)
    for ranking in rankings:
        by_annotator[ranking.annotator].add(ranking)
    lines = [line for who, own in by_annotator.items() for line in _of_one(who, own)]
    together = sum((own.orders for own in by_annotator.values()), Counter[tuple[int, ...]]())
    if not any("in the order" in line for line in lines) and (text := _constant(together, listed=True)):
        lines.append(f"all annotators together: {text}")
    return lines


def _of_one(who: str, answers: _Answers) -> Iterator[str]:
    if text := _constant(answers.orders, listed=True) or _constant(answers.orders, listed=False):
        yield f"{who}: {text}"
    repeated = [seen for seen in answers.couples.values() if seen & REPEATED]
    if against := sum({WORSE, BETTER} <= {seen & WORSE, seen & BETTER} for seen in repeated):
        yield (
            f"{who}: prefers both ways in {against} of {len(repeated)} couples of texts that were ranked more than once"
        )
    [(item, most)] = answers.items.most_common(1)
    if most > AGAIN:
        prompt = answers.again[item]
        yield f"{who}: ranked the same completions {most} times, so they count as often ({prompt[:60]!r})"


def _constant(orders: Counter[tuple[int, ...]], listed: bool) -> str | None:
    """One answer to all: the order in which completions are listed, or another."""
    total = orders.total()
    if not total:
        return None
    if listed:
        count = sum(number for ranks, number in orders.items() if ranks == tuple(range(1, len(ranks) + 1)))
        what = "in the order in which the completions are listed; if they were shown so, they may not have been read"
    else:
        ranks, count = orders.most_common(1)[0]
        what = f"all alike, {list(ranks)}, whatever the completions"
    # By lot, one of k! orders comes each time; a bound on the chance of so many, without the few that differ.
    if count < SHARE * total or factorial(min(map(len, orders))) ** -count > CHANCE:
        return None
    return f"{count} of {total} rankings are {what}"
