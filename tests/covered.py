"""How many of each layer's lines the tests have run, held to what they must: `python -m tests.covered`.

Reads what `coverage run` left in the checkout; a layer below its floor is red and makes the exit status 1. Which lines
it was: `coverage report --show-missing`.
"""

from __future__ import annotations

import sys
from io import StringIO

from coverage import Coverage
from coverage.exceptions import NoDataError

FLOORS = {"flows": 0.0, "tasks": 90.0, "rlhf": 95.0}
"""Percent of a layer's lines."""
RED, PLAIN = "\033[31m", "\033[0m"


def line(layer: str, percent: float, floor: float, coloured: bool) -> str:
    """A layer in a line. Cut, not rounded: 94.96 is below 95 and must not look like it."""
    text = f"{layer:<7}{int(percent * 10) / 10:5.1f} % of lines run by the tests"
    if floor:
        text += f", {'below' if percent < floor else 'at least'} {floor:g} %"
    return f"{RED}{text}{PLAIN}" if percent < floor and coloured else text


def main() -> int:
    """Prints the lines; 1 when a layer is below its floor."""
    measured = Coverage()
    measured.load()
    measured.combine()  # what the processes of a run wrote, to what is there from before, if that was not erased
    measured.save()
    try:
        percents = {layer: measured.report(include=[f"{layer}/*"], file=StringIO()) for layer in FLOORS}
    except NoDataError:
        print("no lines were measured here; run the tests with: make test", file=sys.stderr)
        return 1
    for layer, percent in percents.items():
        print(line(layer, percent, FLOORS[layer], sys.stdout.isatty()))
    return int(any(percent < FLOORS[layer] for layer, percent in percents.items()))


if __name__ == "__main__":
    raise SystemExit(main())
