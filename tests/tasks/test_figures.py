"""The table of figures: how keys lead to rows, and that every number shown has its title and format from there."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tasks import figures, graph, report
from tasks.comparison import compare
from tasks.evaluation import curves
from tasks.figures import FIGURES, find
from tasks.paths import Paths
from tasks.registry import card, gates, lineage
from tasks.reports import plots, summary
from tasks.roles import ROLES
from tasks.stages import VERSIONED
from tasks.trials import table


@pytest.mark.parametrize(
    ("key", "title", "label"),
    [
        ("rougeL", "ROUGE-L", "ROUGE-L"),
        ("policy.rougeL", "policy ROUGE-L", "policy ROUGE-L"),
        ("best_of_n.kl", "best of n KL", "best of n KL (nats)"),
        ("sft.eval_loss", "SFT dev loss", "SFT dev loss (nats per token)"),
        ("policy.loss", "policy loss", "policy loss"),  # of one stage alone it is nats per token
        ("reward.accuracy", "reward model accuracy", "reward model accuracy"),
        ("sft.shot2.bleu", "SFT BLEU", "SFT BLEU"),
        ("win_rate", "win rate", "win rate"),
        ("reward", "reward", "reward"),  # the score, not the model
        ("sft.reward", "SFT reward", "SFT reward"),
    ],
)
def test_a_whole_key_is_told_of_its_model(key: str, title: str, label: str) -> None:
    """The longest row that ends the key counts; the model's title goes before it, the unit after it."""
    assert (figures.title(key), figures.label(key)) == (title, label)


def test_values_are_told_in_their_figures_digits() -> None:
    """Also with a sign, and with the ends of an interval."""
    assert figures.show("sft.rougeL", 0.61237) == "0.6124"
    assert figures.show("evaluate.policy.kl", 2.604) == "2.60"
    assert find("gold").show(0.25, sign="+") == "+0.250"
    assert find("win_rate").interval(0.93, 0.9, 0.957) == "0.930 [0.900, 0.957]"
    assert find("bleu").interval(-1.0, -2.0, 0.5, sign="+") == "-1.00 [-2.00, +0.50]"


def test_an_unknown_figure_is_refused_with_the_remedy() -> None:
    """A model or a stage alone is no figure, unless a figure has the same name."""
    for key in ("roguel", "policy.roguel", "sft"):
        with pytest.raises(ValueError, match=rf"{key}: no such figure; give it a row in tasks/figures\.py"):
            find(key)


def test_every_list_of_keys_is_of_the_table(small_night: Paths) -> None:
    """Summary, card, gates, lineage, comparison, pictures, and the columns of every curve that a night writes."""
    keys = [*summary.SHOWN, *card.ON_PAIRS, *report.BARS, *report.SHOTS, *curves.ROUGE]
    keys += [
        *table.SHOWN,
        *compare.OF_TEXTS,
        *compare.OF_TRAINING,
        *(key for read in gates.READ.values() for key in read),
    ]
    keys += [
        f"{stage}.{key}" for counts in (card.COUNTS, lineage.SHOWN) for stage, row in counts.items() for key in row
    ]
    for stage in ("sft", "policy"):
        keys += [f"{stage}.{file.stem}" for file in small_night.plots(stage).glob("*.csv") if "_over_" not in file.stem]
    for key in keys:
        assert find(key).title


def test_what_a_gate_reads_is_marked_in_the_table_and_measured(small_night: Paths) -> None:
    """And nothing else is; better when higher is held by a floor, better when lower by a ceiling."""
    assert {find(read[0]).key for read in gates.READ.values()} == {row.key for row in FIGURES.values() if row.gate}
    metrics = json.loads(small_night.metrics("evaluate").read_text())
    measured = {key for read in gates.READ.values() for key in read} - {"policy_forgetting"}  # off in this night
    assert measured <= metrics.keys()
    better = [gate for gate in gates.LIMITS if find(gates.READ[gate][0]).higher_is_better]
    assert better == ["lc_win_rate", "rouge", "bleu"]


def test_no_stage_but_report_stands_on_titles(repository: Path) -> None:
    """A title that is worded anew trains and evaluates nothing again."""
    standing = {stage for stage in VERSIONED if "tasks/figures.py" in graph.code_of(repository, stage)}
    assert standing == {"report"}
    assert standing == {stage for stage in VERSIONED if "tasks/roles.py" in graph.code_of(repository, stage)}


def literals(tree: ast.Module) -> Iterator[str]:
    """The texts in code, also the fixed parts of f-strings, but no docstrings."""
    docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            yield node.value


def test_no_title_or_format_of_a_figure_stands_elsewhere(repository: Path) -> None:
    """No text of the tasks is a title, but for words that are keys too, or names a kind of ROUGE; and whoever reads the
    table formats no decimal of its own.
    """
    rows: list[Any] = [*FIGURES.values(), *ROLES.values()]
    titles = {text for row in rows for text in (row.title, row.heading)} | {row.label for row in FIGURES.values()}
    titles = {text for text in titles if not (text.islower() and text.isidentifier())}
    spelt = []
    for path in sorted((repository / "tasks").rglob("*.py")):
        name = path.relative_to(repository).as_posix()
        if name in ("tasks/figures.py", "tasks/roles.py"):
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        spelt += [(name, text) for text in literals(tree) if text.strip(" :,") in titles or "ROUGE-" in text]
        if "tasks.figures" in graph.imports(repository, name.removesuffix(".py").replace("/", ".")):
            spelt += [(name, text) for text in literals(tree) if re.fullmatch(r"[+]?[.][1-5][efg]", text)]
    assert spelt == []


def test_the_plots_of_dvc_are_labelled_by_the_table() -> None:
    """Axes that hold a figure; the others say what they count."""
    labels = {plot.name: (plot.x_label, plot.y_label) for plot in plots.PLOTS}
    assert labels["SFT: loss"] == ("step", "loss (nats per token)")
    assert labels["Policy: reward against KL"] == ("KL (nats)", "training reward")
    assert labels["Evaluation: length"][0] == "length (words)"
