"""The page of completions side by side: one HTML file that needs no other, sortable by who gained most."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import NamedTuple

from rlhf.blank import is_blank
from tasks.figures import FIGURES
from tasks.files import write_text
from tasks.terminal import visible

SCORE = FIGURES["score"]


class SideBySide(NamedTuple):
    """What the models wrote for one prompt.

    Attributes:
        prompt: the prompt as text.
        references: what people wrote, if anything.
        completions: model -> text; the first model is the baseline, the second the one that is judged.
        scores: model -> the judge's score; a model without one shows none.
    """

    prompt: str
    references: Sequence[str]
    completions: Mapping[str, str]
    scores: Mapping[str, float]


def side_by_side(path: Path, rows: Sequence[SideBySide], referee: str) -> None:
    """Writes the page of what `referee` scored; raises ValueError when there is no row."""
    if not rows:
        raise ValueError(f"{path}: found no row to show; give one SideBySide per prompt")
    write_text(path, comparison_page(rows, intro=f"<p>Scored by {escape(referee)}.</p>"))


def comparison_page(rows: Sequence[SideBySide], title: str = "Completions side by side", intro: str = "") -> str:
    """The whole page as HTML; every text is escaped. `intro` is HTML that stands above the rows."""
    models = list(dict.fromkeys(model for row in rows for model in row.completions))
    head = "".join(f"<th>{escape(model)}</th>" for model in models)
    body = "\n".join(_row(index, row, models) for index, row in enumerate(rows))
    legend = f"{len(rows)} prompts. {_legend(models)}"
    return PAGE.format(theme=THEME, title=escape(title), intro=intro, legend=legend, head=head, body=body)


def shown_text(text: str) -> str:
    """A text of the data as HTML: nothing of it is markup, and control characters are shown."""
    return escape(visible(text))


def _legend(models: Sequence[str]) -> str:
    if len(models) < 2:
        return ""
    return f"gain: the score of {escape(models[1])} less that of {escape(models[0])}"


def _row(index: int, row: SideBySide, models: Sequence[str]) -> str:
    gain = _gain(row, models)
    references = "".join(f"<li>{shown_text(text)}</li>" for text in row.references)
    chip = "" if gain is None else f'<span class="{_tone(gain)}">gain {SCORE.show(gain, "+")}</span>'
    cells = "".join(_cell(row, model) for model in models)
    # A row without a gain sorts between winners and losers.
    return (
        f'<tr data-index="{index}" data-gain="{gain or 0.0:.6f}"><td class="prompt"><p>{shown_text(row.prompt)}</p>'
        f"{chip}<ul>{references}</ul></td>{cells}</tr>"
    )


def _cell(row: SideBySide, model: str) -> str:
    text, score = row.completions.get(model), row.scores.get(model)
    if text is None:
        return '<td class="none">not sampled</td>'
    shown = shown_text(text) if not is_blank(text) else '<i class="none">empty</i>'
    best = score is not None and score == max(row.scores.values())
    label = "" if score is None else f'<b class="{"best" if best else "score"}">{SCORE.show(score)}</b>'
    return f"<td>{label}<p>{shown}</p></td>"


def _gain(row: SideBySide, models: Sequence[str]) -> float | None:
    """The second model's score less the first's; None where one is missing or not finite."""
    if len(models) < 2 or not all(model in row.scores for model in models[:2]):
        return None
    gain = row.scores[models[1]] - row.scores[models[0]]
    return gain if math.isfinite(gain) else None


def _tone(gain: float) -> str:
    return "up" if gain > 0 else "down" if gain < 0 else "even"


THEME = """:root { --ink: #1d2733; --faint: #64707d; --line: #e3e7ec; --paper: #fff; --band: #f6f8fa;
  --good: #0f766e; --bad: #be123c; color-scheme: light dark; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6eaef; --faint: #9aa6b2; --line: #2c3641;
  --paper: #12171d; --band: #1a2129; --good: #5eead4; --bad: #fda4af; } }
body { margin: 0; padding: 1.5rem; background: var(--paper); color: var(--ink);
  font: 15px/1.5 system-ui, sans-serif; }"""
"""Colours and type of every page of ours, light and dark."""

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
{theme}
h1 {{ font-size: 1.3rem; margin: 0 0 .25rem; }}
header p {{ color: var(--faint); margin: 0 0 .75rem; }}
button {{ font: inherit; padding: .25rem .75rem; margin: 0 .4rem 1rem 0; border-radius: 999px; cursor: pointer;
  border: 1px solid var(--line); background: var(--band); color: var(--ink); }}
button[aria-pressed="true"] {{ border-color: var(--good); color: var(--good); }}
table {{ border-collapse: collapse; width: 100%; table-layout: fixed; }}
table.figures {{ width: auto; margin-bottom: 1rem; font-variant-numeric: tabular-nums; }}
table.figures td {{ padding: .25rem .75rem; }}
tr.best {{ font-weight: 700; }}
th {{ position: sticky; top: 0; background: var(--band); text-align: left; padding: .5rem .75rem; }}
td {{ vertical-align: top; padding: .75rem; border-top: 1px solid var(--line); overflow-wrap: anywhere; }}
td p {{ margin: 0; white-space: pre-wrap; }}
.prompt p {{ font-weight: 600; margin-bottom: .25rem; }}
ul {{ margin: .4rem 0 0; padding-left: 1.1rem; color: var(--faint); font-size: .9em; }}
b, span {{ font-variant-numeric: tabular-nums; font-size: .85em; }}
b {{ display: block; color: var(--faint); font-weight: 500; }}
b.best {{ color: var(--good); font-weight: 700; }}
.up {{ color: var(--good); }} .down {{ color: var(--bad); }} .even, .none {{ color: var(--faint); }}
</style>
</head>
<body>
<header>
<h1>{title}</h1>
{intro}
<p>{legend}</p>
<button data-by="index" data-sign="1" aria-pressed="true">as given</button>
<button data-by="gain" data-sign="-1" aria-pressed="false">largest gain first</button>
<button data-by="gain" data-sign="1" aria-pressed="false">largest loss first</button>
</header>
<table id="rows">
<thead><tr><th>prompt and references</th>{head}</tr></thead>
<tbody>
{body}
</tbody>
</table>
<script>
const body = document.querySelector("#rows tbody"), buttons = document.querySelectorAll("button");
buttons.forEach(button => button.addEventListener("click", () => {{
  const {{ by, sign }} = button.dataset;
  const rows = [...body.rows].sort((a, b) => sign * (a.dataset[by] - b.dataset[by]));
  body.append(...rows);
  buttons.forEach(other => other.setAttribute("aria-pressed", String(other === button)));
}}));
</script>
</body>
</html>
"""
