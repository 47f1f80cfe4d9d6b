"""The page of what drifted: one HTML file that needs no other, a table for each baseline."""

from __future__ import annotations

from collections.abc import Sequence

from tasks.drift.compare import Baseline, Measured, describe
from tasks.figures import find
from tasks.params.register import DriftParams
from tasks.reports.page import THEME, shown_text

HEAD = ("figure", "distance", "p of all", "p alone", "rows", "what they are like")


def render(measured: Sequence[Measured], baselines: Sequence[Baseline], params: DriftParams) -> str:
    """The whole page as HTML; every text is escaped."""
    known = [baseline for baseline in baselines if baseline.profiles is not None]
    tables = "\n".join(_table(baseline, measured) for baseline in known)
    legend = LEGEND.format(alpha=params.alpha, distance=params.min_distance) if known else ""
    return PAGE.format(theme=THEME, summary=shown_text(describe(measured, baselines)), legend=legend, tables=tables)


def _table(baseline: Baseline, measured: Sequence[Measured]) -> str:
    every = [each for each in measured if each.baseline == baseline.key]
    # What drifted stands first, then by how likely it is.
    rows = sorted((each for each in every if each.p is not None), key=lambda each: (not each.drifted, each.p))
    head = "".join(f'<th scope="col">{title}</th>' for title in HEAD)
    body = "\n".join(map(_row, rows))
    parts = [f"<h2>Beside {shown_text(baseline.title)}</h2>"]
    parts += [f"<table><thead><tr>{head}</tr></thead><tbody>\n{body}\n</tbody></table>"] * bool(rows)
    for note in dict.fromkeys(each.note for each in every if each.p is None):
        titles = ", ".join(find(each.figure).title for each in every if each.p is None and each.note == note)
        parts.append(f'<p class="none">Not tested ({shown_text(note)}): {titles}</p>')
    return "\n".join(parts)


def _row(each: Measured) -> str:
    assert each.distance is not None
    figure, show = find(each.figure), find("drift.p").show
    chip = ' <span class="chip">drifted</span>' * each.drifted
    bar = f'<i><u style="width: {min(each.distance, 1.0) * 100:.0f}%"></u></i>'
    likely = ["–" if p is None else show(p) for p in (each.adjusted, each.p)]
    notes = "".join(f"<p>{shown_text(part)}</p>" for part in each.note.split("; "))
    cells = [f"{shown_text(figure.label)}{chip}", f"{figure.show(each.distance)}{bar}", *likely, _sizes(each), notes]
    drawn = "".join(f'<td data-head="{title}">{cell}</td>' for title, cell in zip(HEAD, cells, strict=True))
    return f'<tr class="{"drifted" if each.drifted else "even"}">{drawn}</tr>'


def _sizes(each: Measured) -> str:
    """How many rows stand against how many."""
    if each.change == "gone":
        return f"{each.after} gone of {each.before + each.after}"
    if each.change == "new":
        return f"{each.after} new, {each.before} before"
    return f"{each.after} in both, {each.before} before"


LEGEND = """<p>What is new tonight beside what was there before, one row of each prompt; where rows only went, what is
gone beside what stayed. A distance of 0 is no difference. "p alone" is the chance of such a distance without drift,
"p of all" the same over all figures of this page together. Drifted is what differs by {distance:g} or more with a p of
all of {alpha:g} or less.</p>"""

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Drift</title>
<style>
{theme}
body > * {{ max-width: 75rem; }}
h1 {{ font-size: 1.3rem; margin: 0 0 .25rem; }}
h2 {{ font-size: 1.05rem; margin: 1.5rem 0 .5rem; }}
p {{ margin: 0 0 .5rem; }} td p {{ margin: 0; }}
h1 + p {{ font-weight: 600; }} h1 + p + p, .none {{ color: var(--faint); }} .none {{ margin: .75rem; }}
table {{ border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }}
th {{ background: var(--band); text-align: left; padding: .4rem .75rem; font-size: .9em; }}
td {{ padding: .4rem .75rem; border-top: 1px solid var(--line); vertical-align: top; overflow-wrap: anywhere; }}
td:first-child {{ font-weight: 600; min-width: 12rem; }} td:nth-child(5) {{ color: var(--faint); }}
th, td:nth-child(3), td:nth-child(4), td:nth-child(5) {{ white-space: nowrap; }}
i {{ display: block; width: 6rem; height: .4rem; border-radius: 3px; background: var(--line); }}
u {{ display: block; height: 100%; border-radius: 3px; background: var(--faint); }}
.drifted td:first-child, .drifted td:nth-child(2) {{ color: var(--bad); }} .drifted u {{ background: var(--bad); }}
.chip {{ border: 1px solid; border-radius: 999px; padding: 0 .5rem; font-size: .8em; white-space: nowrap; }}
@media (max-width: 50rem) {{
  body {{ padding: 1rem; }} table, tbody, tr, td {{ display: block; }} thead {{ display: none; }}
  tr {{ border-top: 1px solid var(--line); padding: .5rem 0; }} td {{ border: 0; padding: .1rem 0 .1rem 9rem; }}
  td:first-child {{ padding-left: 0; }}
  td:not(:first-child)::before {{ content: attr(data-head); float: left; width: 8.5rem; margin-left: -9rem;
    color: var(--faint); font-weight: 400; }}
}}
</style>
</head>
<body>
<h1>Drift</h1>
<p>{summary}</p>
{legend}
{tables}
</body>
</html>
"""
