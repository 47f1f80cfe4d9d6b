"""Tonight's profile beside a baseline's: every figure tested, all of them as one family, and what drifted in words.

Nights share most of their rows, and rows that are in both say nothing of drift. So what is new tonight is tested
against all that the baseline had, or, where rows only went, what is gone against what stayed; one row of each prompt
counts. Fixed texts are the rows that both have.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, median, pstdev
from typing import TYPE_CHECKING, Any, Literal

from rlhf.evaluation.language import unicode_words
from tasks.drift.profile import MAX_ROWS, Profile, Traits, bucket_of
from tasks.figures import find
from tasks.params.register import DriftParams

if TYPE_CHECKING:
    from rlhf.drift import Shift

MEASURES = (
    *("prompts.words", "prompts.length", "prompts.language", "demonstrations.length", "demonstrations.language"),
    *("rankings.length", "rankings.language", "rankings.annotator", "rankings.ties", "rankings.agreement"),
)
"""What is compared of rows: a kind of row and one of its traits; keys of the table of figures."""
ORDER, LEVEL = "fixed_texts.order", "fixed_texts.level"
"""What is compared of the fixed texts."""

Change = Literal["new", "gone", "none"]
"""How tonight's rows differ from the baseline's."""
WHERE = {"new": ("before", "now"), "gone": ("in what stayed", "in what is gone")}
"""By change, what the two sides are called."""

MAX_PROMPTS = 2000
"""Prompts of each side whose words are compared: those with the smallest digests."""
SHOWN = 8
"""Words and kinds that are listed of a figure."""


@dataclass(frozen=True)
class Baseline:
    """What tonight is compared with.

    Attributes:
        key: champion or nights.
        title: as people read it: `champion 3`, `the last 2 nights`.
        profiles: the rows of its nights; None where they were not kept.
    """

    key: str
    title: str
    profiles: Sequence[Profile] | None


@dataclass(frozen=True)
class Measured:
    """One figure against one baseline.

    Attributes:
        baseline: its key.
        figure: the key in the table of figures, such as prompts.length.
        before: how many rows are compared with, one a prompt: all of the baseline's, or those that stayed.
        after: how many are compared: tonight's new ones, or those that are gone; of fixed texts, those that both have.
        change: `new`, `gone`, or `none` where the rows are the same; of fixed texts `none`.
        distance: how far apart they lie; None where it was not measured.
        p: the chance of so much without drift.
        adjusted: the same over all of the night's figures together.
        drifted: whether that is a warning.
        note: what each side is like, in words, or what kept it from being measured.
    """

    baseline: str
    figure: str
    before: int
    after: int
    change: Change = "none"
    distance: float | None = None
    p: float | None = None
    adjusted: float | None = None
    drifted: bool = False
    note: str = ""


def compare(
    tonight: Profile, baselines: Sequence[Baseline], params: DriftParams, prompts: Iterable[str] = ()
) -> list[Measured]:
    """Every figure against every baseline whose profiles were kept, adjusted as one family.

    Args:
        tonight: the night's profile.
        baselines: what it is compared with.
        params: when a figure counts as drifted.
        prompts: tonight's, as text, which name the words that became frequent.
    """
    from rlhf.drift import holm

    names = dict[int, str]()
    for word, _ in Counter(word for text in prompts for word in unicode_words(text)).most_common():
        names.setdefault(bucket_of(word), word)
    measured = [
        each
        for baseline in baselines
        if baseline.profiles is not None
        for each in (*_of_rows(tonight, baseline, names), *_of_fixed_texts(tonight, baseline, params))
    ]
    adjusted = iter(holm([each.p for each in measured if each.p is not None]))
    return [each if each.p is None else _judged(each, next(adjusted), params) for each in measured]


def describe(measured: Sequence[Measured], baselines: Sequence[Baseline]) -> str:
    """The night's drift in one line."""
    if not baselines:
        return "drift: nothing to compare with, for no earlier night's data are known"
    return f"drift from {'; from '.join(_sentence(each, measured) for each in baselines)}"


def drifted(measured: Iterable[Measured], baseline: str) -> list[str]:
    """The figures that drifted from a baseline, by title, each with its distance."""
    return [_by(each) for each in measured if each.baseline == baseline and each.drifted]


def _by(each: Measured) -> str:
    figure = find(each.figure)
    assert each.distance is not None
    return f"{figure.title} by {figure.show(each.distance)}{' (rows gone)' * (each.change == 'gone')}"


def _sentence(baseline: Baseline, measured: Sequence[Measured]) -> str:
    if baseline.profiles is None:
        return f"{baseline.title} not known: its data's profile was not kept"
    if names := drifted(measured, baseline.key):
        return f"{baseline.title}: {', '.join(names)}"
    tested = sum(each.baseline == baseline.key and each.p is not None for each in measured)
    return f"{baseline.title}: {f'none in {tested} figures' if tested else 'nothing new'}"


def _judged(each: Measured, adjusted: float, params: DriftParams) -> Measured:
    assert each.distance is not None
    is_drift = adjusted <= params.alpha and each.distance >= params.min_distance
    return replace(each, adjusted=adjusted, drifted=is_drift)


def _of_rows(tonight: Profile, baseline: Baseline, names: Mapping[int, str]) -> Iterator[Measured]:
    for key in MEASURES:
        kind, _, trait = key.partition(".")
        old, new, change = _sides(tonight, baseline.profiles or (), kind)
        before, after = (_one_a_prompt(rows, trait) for rows in (old, new))
        sizes = Measured(baseline.key, key, len(before), len(after), change)
        if change == "none":
            yield replace(sizes, note="the rows are the same" if old else "no rows")
        elif not (before and after):
            yield replace(sizes, note=f"nothing measured {WHERE[change][bool(before)]}")
        else:
            shift, now = _test(trait, before, after), WHERE[change][1]
            texts = [_risen(before, after, names, now)] if trait == "words" else [_outline(before), _outline(after)]
            yield replace(sizes, distance=shift.distance, p=shift.p, note=f"; {now} ".join(texts))


def _sides(tonight: Profile, profiles: Sequence[Profile], kind: str) -> tuple[list[Traits], list[Traits], Change]:
    """The rows of a kind to compare with, and those that are compared.

    Of a profile that is full only rows up to its largest digest are known to be in it or not.
    """
    sides = [[row for row in rows if row.kind == kind] for rows in (tonight, *profiles)]
    known = min((rows[-1].row for rows in sides if len(rows) == MAX_ROWS), default="g")  # after every digest
    after, *before = ({row.row: row for row in rows if row.row <= known} for rows in sides)
    old = {key: row for rows in before for key, row in rows.items()}
    new = [row for key, row in after.items() if key not in old]
    gone = [row for key, row in old.items() if key not in after]
    if gone and not new:
        return [row for key, row in old.items() if key in after], gone, "gone"
    return list(old.values()), new, "new" if new else "none"


def _one_a_prompt(rows: Iterable[Traits], trait: str) -> list[Any]:
    """The trait of each prompt's row with the smallest digest, of those that have it; the smallest digest last."""
    having = sorted((row for row in rows if getattr(row, trait) is not None), key=lambda row: row.row, reverse=True)
    return list({row.prompt: getattr(row, trait) for row in having}.values())


def _of_fixed_texts(tonight: Profile, baseline: Baseline, params: DriftParams) -> Iterator[Measured]:
    """What tonight's reward model says beside the baseline's; of several nights the mean of what theirs said."""
    from rlhf.drift import MIN_TEXTS, level_shift, rank_shift

    scores: dict[str, list[float]] = defaultdict(list)
    for row in (row for rows in baseline.profiles or () for row in rows):
        if row.score is not None:
            scores[row.row].append(row.score)
    pairs = [(fmean(scores[row.row]), row.score) for row in tonight if row.score is not None and row.row in scores]
    before, after = [old for old, _ in pairs], [new for _, new in pairs]
    for key, test, bound in (
        (ORDER, rank_shift, params.min_reward_order),
        (LEVEL, level_shift, params.max_reward_shift),
    ):
        sizes = Measured(baseline.key, key, len(scores), len(pairs))
        if len(pairs) < MIN_TEXTS:
            yield replace(sizes, note=f"{len(pairs)} texts in common, fewer than {MIN_TEXTS}")
        else:
            shift = test(before, after, bound)
            texts = [f"mean {_short(fmean(side))}, deviation {_short(pstdev(side))}" for side in (before, after)]
            yield replace(sizes, distance=shift.distance, p=shift.p, note="; now ".join(texts))


def _test(trait: str, before: list[Any], after: list[Any]) -> Shift:
    """The test of a trait."""
    from rlhf import drift

    match trait:
        case "words":
            return drift.word_shift(before[-MAX_PROMPTS:], after[-MAX_PROMPTS:])
        case "length":
            return drift.value_shift(before, after)
        case "language" | "annotator":
            return drift.share_shift(Counter(before), Counter(after))
        case _:
            return drift.mean_shift(before, after)


def _outline(values: list[Any]) -> str:
    """What one side is like: the shares of its most frequent kinds, or mean and median of its numbers."""
    if isinstance(values[0], str):
        return ", ".join(f"{kind} {rows / len(values):.0%}" for kind, rows in Counter(values).most_common(SHOWN))
    return f"mean {_short(fmean(values))}, median {_short(median(values))}"


def _risen(before: list[list[int]], after: list[list[int]], names: Mapping[int, str], now: str) -> str:
    """The words whose share is higher there by most."""
    old, new = (Counter(word for text in texts for word in text) for texts in (before, after))
    gains = {word: rows / new.total() - old[word] / old.total() for word, rows in new.items()}
    risen = sorted((word for word in gains if gains[word] > 0 and word in names), key=lambda word: -gains[word])
    return f"more often {now}: {', '.join(names[word] for word in risen[:SHOWN])}" if risen else "no word more often"


def _short(value: float) -> str:
    return f"{round(value, 3):g}"
