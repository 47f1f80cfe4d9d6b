"""A comparison as a page: one HTML file that needs no other."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from tasks.comparison import as_text
from tasks.comparison.compare import Comparison
from tasks.reports.page import SideBySide, comparison_page, shown_text


def page(comparison: Comparison) -> str:
    """The whole page: what differs and the figures above, all prompts whose completions differ below."""
    first, second = as_text.SIDES
    settings = [
        [name, *["–" if value is None else value for value in values]] for name, values in comparison.params.items()
    ]
    figures = [[row.name, *as_text.cells(row)] for row in comparison.figures]
    bold = {index for index, row in enumerate(comparison.figures) if as_text.is_clear(row)}
    intro = [
        *(f"<p>{shown_text(line)}</p>" for line in as_text.describe(comparison)),
        _table(["param", first, second], settings) if settings else "<p>params: the same</p>",
        f"<p>data: {shown_text(', '.join(comparison.data) + ' differ' if comparison.data else 'the same')}</p>",
        _table(["figure", first, second, "B − A"], figures, bold),
        *(f"<p>{shown_text(line)}</p>" for line in as_text.sentences(comparison)),
    ]
    rows = [
        SideBySide(
            prompt=texts.prompt,
            references=texts.references,
            completions={first: texts.first, second: texts.second},
            scores={first: texts.first_score, second: texts.second_score},
        )
        for texts in comparison.texts
    ]
    return comparison_page(rows, f"{comparison.first.name} and {comparison.second.name}", "\n".join(intro))


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], bold: Iterable[int] = ()) -> str:
    marked = set(bold)
    titles = "".join(f"<th>{shown_text(title)}</th>" for title in head)
    body = "".join(_row(row, index in marked) for index, row in enumerate(rows))
    return f'<table class="figures"><thead><tr>{titles}</tr></thead><tbody>{body}</tbody></table>'


def _row(cells: Sequence[str], bold: bool) -> str:
    style = ' class="best"' if bold else ""
    return f"<tr{style}>{''.join(f'<td>{shown_text(cell)}</td>' for cell in cells)}</tr>"
