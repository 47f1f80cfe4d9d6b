"""An explanation as a page: one HTML file that needs no other, light and dark, a section for each token."""

from __future__ import annotations

from tasks.inspection.explain import Bar, ExplainedToken, Explanation, Prediction
from tasks.inspection.explain_text import percent
from tasks.reports.page import THEME, shown_text


def explanation_page(explanation: Explanation) -> str:
    """The whole page as HTML; every text is escaped."""
    steps = explanation.steps
    chips = "".join(f'<a href="#step-{number}">{shown_text(step.chosen)}</a>' for number, step in enumerate(steps, 1))
    sections = "\n".join(_section(number, step) for number, step in enumerate(steps, 1))
    return PAGE.format(
        theme=THEME,
        prompt=shown_text(explanation.prompt),
        how=shown_text(explanation.how),
        chips=chips,
        sections=sections,
    )


def _section(number: int, step: ExplainedToken) -> str:
    predictions = "".join(_prediction(prediction) for prediction in step.predictions)
    return (
        f'<section id="step-{number}"><h2><small>{number}</small> <span>{shown_text(step.before)}</span>'
        f"<mark>{shown_text(step.chosen)}</mark></h2><div>{predictions}</div></section>"
    )


def _prediction(prediction: Prediction) -> str:
    head = "".join(f"<th>{shown_text(stage)}</th>" for stage in prediction.stages)
    rows = "".join(_row(bar) for bar in prediction.bars)
    entropies = "".join(f"<td>{entropy:.2f}</td>" for entropy in prediction.entropies)
    cuts = "".join(f"<td>{shown_text(percent(cut))}</td>" for cut in prediction.cuts)
    return (
        f"<table><caption>{shown_text(prediction.model)}</caption><thead><tr><th>token</th>{head}</tr></thead>"
        f"<tbody>{rows}</tbody><tfoot><tr><th>entropy, nats</th>{entropies}</tr>"
        f"<tr><th>mass cut</th>{cuts}</tr></tfoot></table>"
    )


def _row(bar: Bar) -> str:
    cells = "".join(
        f'<td><i style="width:{100 * probability:.1f}%"></i><b>{shown_text(percent(probability))}</b></td>'
        for probability in bar.probabilities
    )
    mark = ' class="chosen"' if bar.chosen else ""
    return f"<tr{mark}><th>{shown_text(bar.token)}</th>{cells}</tr>"


PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Generation explained</title>
<style>
{theme}
h1 {{ font-size: 1.3rem; margin: 0 0 .25rem; }}
header p {{ margin: 0 0 .4rem; white-space: pre-wrap; overflow-wrap: anywhere; }}
header .how {{ color: var(--faint); }}
nav {{ position: sticky; top: 0; padding: .6rem 0; margin-bottom: 1rem; background: var(--paper); z-index: 1;
  border-bottom: 1px solid var(--line); font-family: ui-monospace, monospace; max-height: 30vh; overflow: auto; }}
nav a {{ display: inline-block; padding: .1rem .3rem; margin: .1rem; border-radius: 4px; background: var(--band);
  color: inherit; text-decoration: none; white-space: pre; }}
nav a:hover, nav a:focus {{ background: var(--good); color: var(--paper); }}
section {{ margin: 0 0 2rem; scroll-margin-top: 5rem; }}
h2 {{ font: 1rem/1.5 ui-monospace, monospace; overflow-wrap: anywhere; margin: 0 0 .5rem; }}
h2 small, h2 span {{ color: var(--faint); font-weight: 400; }}
mark {{ background: var(--good); color: var(--paper); border-radius: 4px; padding: 0 .25rem; white-space: pre; }}
section div {{ display: flex; flex-wrap: wrap; gap: 1rem 2.5rem; align-items: flex-start; overflow-x: auto; }}
table {{ border-collapse: collapse; font-variant-numeric: tabular-nums; }}
caption {{ text-align: left; font-weight: 600; padding-bottom: .25rem; }}
th, td {{ padding: .15rem .6rem; text-align: left; font-weight: 400; }}
thead th, tfoot th, tfoot td {{ color: var(--faint); font-size: .85em; }}
thead th {{ border-bottom: 1px solid var(--line); }}
tfoot tr:first-child > * {{ border-top: 1px solid var(--line); }}
tbody th {{ font-family: ui-monospace, monospace; white-space: pre; }}
tbody td {{ position: relative; min-width: 7.5rem; text-align: right; }}
tfoot td {{ text-align: right; }}
tbody i {{ position: absolute; left: .3rem; top: 20%; bottom: 20%; max-width: calc(100% - .6rem); border-radius: 2px;
  background: var(--faint); opacity: .35; }}
tbody b {{ position: relative; font-weight: 400; }}
.chosen th, .chosen b {{ font-weight: 700; color: var(--good); }}
.chosen th::before {{ content: "▸ "; }}
.chosen i {{ background: var(--good); }}
</style>
</head>
<body>
<header>
<h1>Generation explained</h1>
<p>{prompt}</p>
<p class="how">{how}</p>
</header>
<nav aria-label="the continuation, token by token">{chips}</nav>
{sections}
</body>
</html>
"""
