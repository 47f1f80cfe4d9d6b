"""How often a night is warned of drift, simulated: where nothing drifted, and where some of what is new did.

python -m tests.tasks.drift.alarms            # the table of docs/drift.md
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tasks.drift import compare
from tasks.drift.compare import Baseline
from tasks.drift.profile import Profile, Traits
from tasks.params.register import DriftParams

NIGHTS, DRIFTED_NIGHTS = 300, 40
SIZES, SHARES = (10, 30, 100), (0.0, 0.1, 0.3)
"""How many of tonight's prompts are new, and which share of them is in another language."""
BEFORE, TEXTS = 300, 40
"""Prompts of the champion's night, and fixed texts."""


def quiet_night(
    generator: np.random.Generator, before: int, new: int, foreign: float = 0.0
) -> tuple[Profile, list[Baseline]]:
    """A night and its baselines, all rows from one distribution, and the fixed texts as three reward models see them.

    Args:
        generator: draws everything.
        before: prompts of the champion's night; a night between them adds half as many as `new`, which tonight lacks.
        new: tonight's further prompts.
        foreign: the share of tonight's new rows that are in another language.
    """
    quality = generator.normal(size=TEXTS)
    then = rows(generator, 0, before)
    between = [*then, *rows(generator, before, new // 2), *texts(generator, quality)]
    tonight = [*then, *rows(generator, 2 * before + new, new, foreign), *texts(generator, quality)]
    champion = [*then, *texts(generator, quality)]
    return tonight, [
        Baseline("champion", "champion 3", [champion]),
        Baseline("nights", "the last 2 nights", [between, champion]),
    ]


def rows(generator: np.random.Generator, start: int, count: int, foreign: float = 0.0) -> Profile:
    """A prompt, a demonstration and a ranking for each number from `start` on."""
    drawn: list[dict[str, Any]] = []
    for number in range(start, start + count):
        key = f"{number:06}"
        elsewhere = generator.random() < foreign
        for kind in ("prompts", "demonstrations", "rankings"):
            language = "Arabic" if elsewhere else str(generator.choice(["Latin", "Cyrillic"], p=[0.7, 0.3]))
            length = float(generator.poisson(12))
            drawn.append({"kind": kind, "prompt": key, "row": key, "length": length, "language": language})
        topic = 8 * int(generator.integers(6))  # words of a text go together
        drawn[-3] |= {"words": (topic + generator.integers(0, 12, 10)).tolist()}
        agreement, ties = round(float(generator.random()), 1), float(generator.random() < 0.3)
        drawn[-1] |= {"annotator": str(generator.choice(["ana", "bo", "cy"])), "ties": ties, "agreement": agreement}
    return [Traits.model_validate(row) for row in drawn]


def texts(generator: np.random.Generator, quality: np.ndarray) -> Profile:
    """The fixed texts as another reward model scores them."""
    scores = quality + generator.normal(0, 0.5, len(quality))
    keys = (f"{number:04}" for number in range(len(quality)))
    return [
        Traits(kind="fixed_texts", prompt=key, row=key, score=float(score))
        for key, score in zip(keys, scores, strict=True)
    ]


def warned(new: int, foreign: float, nights: int) -> float:
    """The share of nights, in %, with a warning under the default params."""
    generator, params = np.random.default_rng(0), DriftParams()
    found = (compare.compare(*quiet_night(generator, BEFORE, new, foreign), params) for _ in range(nights))
    return 100 * float(np.mean([any(each.drifted for each in measured) for measured in found]))


def main() -> None:
    """Prints the table."""
    print(f"| new prompts | {' | '.join(f'{share:.0%} foreign' for share in SHARES)} |")
    print(f"|---|{'---|' * len(SHARES)}")
    for new in SIZES:
        rates = (warned(new, share, NIGHTS if share == 0.0 else DRIFTED_NIGHTS) for share in SHARES)
        print(f"| {new} | {' | '.join(f'{rate:.1f}' for rate in rates)} |", flush=True)


if __name__ == "__main__":
    main()
