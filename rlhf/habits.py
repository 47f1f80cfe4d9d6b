"""What rankings tell of those who made them: habits that are no preferences."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from itertools import chain
from math import factorial

from rlhf.preferences import verdicts
from rlhf.records import Ranking, prompt_key

SHARE = 0.95
"""Of so many rankings of one kind nobody thinks each over."""
CHANCE = 1.0e-4
"""How seldom chance alone may do what is called a habit."""
AGAIN = 3
"""How many times one may rank the very same, to see whether the answer holds."""


def habits(rankings: Sequence[Ranking]) -> list[str]:
    """What looks like a habit, each in a sentence: the order of the list, one answer to all, contradictions, repeats.

    Who answers in the order of the list, or always alike, is called so when 95 % of the answers are, and when one who
    draws by lot would answer so with a chance below 1e-4: from 14 rankings of two completions on, 6 of three, 3 of 4.
    Where no single one ranks enough, all are counted together for the order of the list.

    Args:
        rankings: people's, as they were given.
    """
    by_annotator: dict[str, list[Ranking]] = defaultdict(list)
    for ranking in rankings:
        by_annotator[ranking.annotator].append(ranking)
    lines = [line for who, own in by_annotator.items() for line in _of_one(who, own)]
    if not any("in the order" in line for line in lines) and (text := _constant(list(rankings), listed=True)):
        lines.append(f"all annotators together: {text}")
    return lines


def _of_one(who: str, rankings: Sequence[Ranking]) -> Iterator[str]:
    if text := _constant(rankings, listed=True) or _constant(rankings, listed=False):
        yield f"{who}: {text}"
    couples, against = _contradictions(rankings)
    if against:
        yield f"{who}: prefers both ways in {against} of {couples} couples of texts that were ranked more than once"
    same = Counter((prompt_key(each.prompt), tuple(sorted(each.completions))) for each in rankings)
    if same and max(same.values()) > AGAIN:
        prompt = same.most_common(1)[0][0][0]
        yield f"{who}: ranked the same completions {max(same.values())} times, so they count as often ({prompt[:60]!r})"


def _constant(rankings: Sequence[Ranking], listed: bool) -> str | None:
    """One answer to all: the order in which completions are listed, or another."""
    answers = Counter(tuple(each.ranks) for each in rankings)
    if listed:
        count = sum(number for ranks, number in answers.items() if ranks == tuple(range(1, len(ranks) + 1)))
        what = "in the order in which the completions are listed; if they were shown so, they may not have been read"
    elif answers:
        ranks, count = answers.most_common(1)[0]
        what = f"all alike, {list(ranks)}, whatever the completions"
    # By lot, one of k! orders comes each time; a bound on the chance of so many, without the few that differ.
    fewest = min((len(each.ranks) for each in rankings), default=0)
    if not rankings or count < SHARE * len(rankings) or factorial(fewest) ** -count > CHANCE:
        return None
    return f"{count} of {len(rankings)} rankings are {what}"


def _contradictions(rankings: Sequence[Ranking]) -> tuple[int, int]:
    """How many couples of texts were ranked more than once, and in how many of them each was preferred to the other."""
    by_couple: dict[tuple[str, str, str], list[int]] = defaultdict(list)
    for couple, verdict in chain.from_iterable(map(verdicts, rankings)):
        if couple[1] != couple[2]:
            by_couple[couple].append(verdict)
    repeated = [each for each in by_couple.values() if len(each) > 1]
    return len(repeated), sum({-1, 1} <= {*each} for each in repeated)
