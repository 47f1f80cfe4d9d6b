"""A comparison as text for a terminal."""

from __future__ import annotations

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from rlhf.evaluation.intervals import Interval
from tasks.comparison.compare import Comparison, Contrast, Texts
from tasks.figures import FIGURES
from tasks.terminal import visible

SIDES = ("A", "B")


def show(comparison: Comparison, rows: int, console: Console) -> None:
    """Prints what differs, the figures and the `rows` prompts whose completions differ most."""
    console.print(_text("\n".join(describe(comparison))), style="bold")
    _show_settings(comparison, console)
    table = _table("", *SIDES, "B − A")
    for row in comparison.figures:
        table.add_row(row.name, *cells(row), style="bold" if is_clear(row) else "")
    console.print(table)
    console.print(_text("\n".join(sentences(comparison))))
    if rows and comparison.texts:
        console.print(Text(f"\nCompletions that {comparison.referee} tells apart most", "bold"))
    for texts in comparison.texts[:rows]:
        console.print(_side_by_side(texts))


def describe(comparison: Comparison) -> list[str]:
    """What A and B are, a line each."""
    lines = []
    for letter, side in zip(SIDES, (comparison.first, comparison.second), strict=True):
        about = (side.outcome, f"{len(side.completions)} test prompts", side.commit and f"code {side.commit}")
        lines.append(f"{letter}  {side.name}: {', '.join(part for part in about if part)}")
    return lines


def sentences(comparison: Comparison) -> list[str]:
    """What the figures rest on, and who wins."""
    lines = [
        "[ ]: 95 % interval, bootstrap over prompts. Bold: the interval of B − A leaves out 0.",
        "ROUGE, BLEU and length: the policy's likeliest completions; scores and win rates: sampled ones.",
    ]
    if comparison.shared:
        lines.append(f"Differences of means are paired on the {comparison.shared} test prompts that both have.")
    else:
        lines.append("No test prompt is in both, so differences are not paired.")
    if comparison.wins is not None:
        rate = FIGURES["win_rate"]
        shown = f"{rate.title} {rate.interval(*comparison.wins)}, judged by {comparison.referee}"
        lines.append(f"Policy B over policy A: {shown}.")
    if any(row.difference is None and None not in (row.first, row.second) for row in comparison.figures):
        lines.append("–: each night was scored by a model of its own, so the scores do not compare.")
    return lines


def cells(row: Contrast) -> list[str]:
    """Both values and the difference, with its sign, as texts."""
    return [_shown(row, row.first), _shown(row, row.second), _shown(row, row.difference, sign="+")]


def _shown(row: Contrast, value: Interval | float | None, sign: str = "") -> str:
    """A value with its interval, where it has one; a dash for none."""
    if value is None:
        return "–"
    return row.figure.interval(*value, sign) if isinstance(value, Interval) else row.figure.show(value, sign)


def is_clear(row: Contrast) -> bool:
    """Whether the difference's interval leaves out 0."""
    return isinstance(row.difference, Interval) and not row.difference.low <= 0.0 <= row.difference.high


def _show_settings(comparison: Comparison, console: Console) -> None:
    if comparison.params:
        table = _table("param", *SIDES)
        for name, values in comparison.params.items():
            table.add_row(_text(name), *[_text("–" if value is None else value) for value in values])
        console.print(table)
    else:
        console.print(Text("params: the same"))
    console.print(_text(f"data: {', '.join(comparison.data) + ' differ' if comparison.data else 'the same'}\n"))


def _side_by_side(texts: Texts) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, expand=True, title=_text(texts.prompt), title_justify="left")
    for letter, score in zip(SIDES, (texts.first_score, texts.second_score), strict=True):
        table.add_column(Text(f"{letter}: {FIGURES['score'].show(score)}"), ratio=1)
    table.add_row(_text(texts.first), _text(texts.second))
    return table


def _text(text: str) -> Text:
    """A text as it is: neither markup nor control characters in it do anything."""
    return Text(visible(text))


def _table(*columns: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for index, column in enumerate(columns):
        table.add_column(Text(column), justify="right" if index else "left")
    return table
