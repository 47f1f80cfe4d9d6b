"""An explanation as text for a terminal: a step after another, bars beside percentages, readable without colour."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.columns import Columns
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tasks.inspection.explain import Bar, ExplainedToken, Explanation, Prediction
from tasks.terminal import visible

EIGHTHS = " ▏▎▍▌▋▊▉"
WIDTH = 8
"""Characters of a bar that stands for a probability of 1."""


def show(explanation: Explanation, console: Console) -> None:
    """Prints the steps; models stand side by side where the console is wide enough."""
    console.print(Text.assemble(("prompt  ", "bold"), visible(explanation.prompt)))
    console.print(Text(visible(explanation.how)))
    for number, step in enumerate(explanation.steps, 1):
        console.print()
        before, chosen = visible(step.before), visible(step.chosen)
        console.print(Text.assemble((f"step {number}  ", "bold"), before, (f"▸{chosen}", "bold")))
        console.print(Columns([_table(prediction) for prediction in step.predictions], padding=(0, 3)))
    console.print()
    console.print(Text.assemble(("written  ", "bold"), visible(written(explanation.steps))))


def written(steps: Sequence[ExplainedToken]) -> str:
    """The whole continuation in readable tokens."""
    return "".join(step.chosen for step in steps)


def percent(probability: float) -> str:
    """A probability in %, with a dash for none at all."""
    if probability == 0.0:
        return "–"
    return "<.1 %" if probability < 0.0005 else f"{100 * probability:.1f} %"


def _table(prediction: Prediction) -> Table:
    table = Table(
        title=Text(visible(prediction.model)),
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
    )
    table.add_column("token", no_wrap=True, max_width=20)
    for stage in prediction.stages:
        table.add_column(stage, width=WIDTH + 8)
    for bar in prediction.bars:
        table.add_row(*_row(bar), style="bold" if bar.chosen else "")
    table.add_section()
    table.add_row("entropy, nats", *[f"{'':{WIDTH}} {entropy:>7.2f}" for entropy in prediction.entropies])
    table.add_row("mass cut", *[f"{'':{WIDTH}} {percent(cut):>7}" for cut in prediction.cuts])
    return table


def _row(bar: Bar) -> list[Text]:
    # Text objects, for a token may look like rich's markup.
    cells = [Text(f"{drawn(probability)} {percent(probability):>7}") for probability in bar.probabilities]
    return [Text(f"{'▸' if bar.chosen else ' '} {visible(bar.token)}"), *cells]


def drawn(probability: float) -> str:
    """A bar of WIDTH characters for a probability of 1, to an eighth of a character."""
    eighths = round(probability * WIDTH * 8)
    return ("█" * (eighths // 8) + EIGHTHS[eighths % 8].strip()).ljust(WIDTH)
