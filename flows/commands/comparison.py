"""Two nights beside each other, in the terminal or on a page."""

from __future__ import annotations

import argparse
from pathlib import Path

from flows.commands import Add, whole_number
from tasks.params.whole import read_params
from tasks.paths import Paths

NIGHT = "a night's name or its beginning, last, champion, a version such as v3, or an MLflow run's id"


def add_commands(add: Add) -> None:
    """Adds compare."""
    compare = add("compare", _compare, "set two nights side by side: params, figures with intervals, completions")
    compare.add_argument("first", metavar="A", help=NIGHT)
    compare.add_argument("second", metavar="B", help="the same; differences are B's figure less A's")
    compare.add_argument("--rows", type=whole_number(0), default=5, metavar="N", help="prompts to show (default: 5)")
    compare.add_argument("--html", type=Path, metavar="FILE", help="also write a page, with all prompts")


def _compare(options: argparse.Namespace, root: Path) -> None:
    paths, registered = Paths(root), read_params(root / "params.yaml").register_.name
    from rich.console import Console

    from tasks import files
    from tasks.comparison import as_page, as_text, compare, results

    comparison = compare.compare(*(results.find(paths, name, registered) for name in (options.first, options.second)))
    as_text.show(comparison, options.rows, Console(highlight=False))
    if options.html:
        files.write_text(options.html, as_page.page(comparison))
        print(f"\nwritten: {options.html}")
