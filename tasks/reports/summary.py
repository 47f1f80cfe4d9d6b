"""The night in a few lines: SFT beside the policy and best-of-n, what was registered and why, where to look.

Reads data/metrics and nights/register.json; imports nothing heavy.
"""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Mapping
from io import StringIO
from pathlib import Path
from typing import Any

from tasks.figures import FIGURES, find, show
from tasks.paths import Paths
from tasks.roles import CONTESTANTS, ROLES

SIGNED = {"ROUGE": "rouge1, rouge2, rougeL, rougeLsum", **{FIGURES[key].title: key for key in ("bleu", "chrf")}}
"""The signatures that are told below the table, by what they are called there."""
SHOWN = ("rouge1", "rouge2", "rougeL", "bleu", "chrf", "reward", "gold", "kl", "length")
TESTED = ("rougeL", "bleu", "chrf")
"""The figures of the table, in its order, and those whose differences are tested."""
Table = list[list[str]]


def summary(paths: Paths) -> str:
    """The night's table, win rate and registration as text for a terminal.

    Raises:
        FileNotFoundError: nothing was evaluated yet.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table as RichTable

    metrics = _metrics(paths)
    header, *rows = table(metrics)
    drawn = RichTable(box=box.SIMPLE_HEAD, pad_edge=False)
    for index, column in enumerate(header):
        drawn.add_column(column, justify="right" if index else "left")
    for row in rows:
        drawn.add_row(*row)
    screen = Console(file=StringIO(), width=120, color_system=None, highlight=False, markup=False)
    with screen.capture() as text:
        screen.print(drawn)
    lines = [line.rstrip() for line in text.get().splitlines() if line.strip()]
    return "\n".join([*lines, "", *_sentences(paths, metrics)])


def markdown(paths: Paths) -> str:
    """The same as Markdown; raises FileNotFoundError when nothing was evaluated yet."""
    metrics = _metrics(paths)
    header, *rows = table(metrics)
    rule = ["---", *["---:"] * (len(header) - 1)]
    lines = [f"| {' | '.join(row)} |" for row in (header, rule, *rows)]
    return "\n".join([*lines, "", *[f"- {sentence}" for sentence in _sentences(paths, metrics)], ""])


def table(metrics: dict[str, float]) -> Table:
    """A header and one row per model; a figure that no model has gets no column, a missing one a dash."""
    figures = [key for key in SHOWN if any(f"{model}.{key}" in metrics for model in CONTESTANTS)]
    models = [model for model in CONTESTANTS if any(key.startswith(f"{model}.") for key in metrics)]
    return [
        ["", *[FIGURES[key].label for key in figures]],
        *[[ROLES[model].title, *[_cell(metrics, model, key) for key in figures]] for model in models],
    ]


def _cell(metrics: dict[str, float], model: str, key: str) -> str:
    value = metrics.get(f"{model}.{key}")
    if value is None and (model, key) == ("sft", "kl"):
        value = 0.0  # SFT is the reference itself
    return "–" if value is None else FIGURES[key].show(value)


def interval(metrics: Mapping[str, float], key: str) -> str:
    """A figure with the ends of its interval: `0.833 [0.811, 0.855]`."""
    return find(key).interval(metrics[key], metrics[f"{key}_low"], metrics[f"{key}_high"])


def differences(metrics: Mapping[str, float]) -> list[str]:
    """By how much the policy's answers are nearer to the references than SFT's, and p, in one line; or none."""
    rows = [
        f"{find(key).title} {find(key).show(metrics[f'policy.{key}'] - metrics[f'sft.{key}'], '+')} "
        f"(p {show(f'{key}_p', metrics[f'policy.{key}_p'])})"
        for key in TESTED
        if f"policy.{key}_p" in metrics
    ]
    return [f"over {ROLES['sft'].title}: {', '.join(rows)}, paired bootstrap"] if rows else []


def signatures(paths: Paths) -> list[str]:
    """How the figures of the references were computed, a line each; none where an evaluation left no scores.json."""
    path = paths.evaluation / "scores.json"
    if not path.is_file():
        return []
    known: dict[str, str] = json.loads(path.read_text(encoding="utf-8"))["signatures"]
    return [f"{title} {known[name]}" for title, name in SIGNED.items() if name in known]


def _sentences(paths: Paths, metrics: dict[str, float]) -> list[str]:
    """What was amiss with the data, how ROUGE and BLEU were computed, the win rates, and what was registered."""
    lines, rate = _data(paths) + signatures(paths) + differences(metrics), FIGURES["win_rate"]
    if "win_rate" in metrics:
        lines.append(f"{rate.title} over {ROLES['sft'].title} {interval(metrics, 'win_rate')}")
    if "lc_win_rate" in metrics:
        controlled = FIGURES["lc_win_rate"].title
        lines.append(f"{controlled} over {ROLES['sft'].title} {interval(metrics, 'lc_win_rate')}")
    if "win_rate_power" in metrics:
        from rlhf.evaluation.power import warning

        known = int(metrics["prompts"]), metrics["win_rate_power"], metrics["win_rate_detectable"]
        lines += [f"WARNING {text}" for text in [warning(*known)] if text]
    if not paths.registered.is_file():
        return [*lines, "nothing registered yet: python -m tasks register"]
    report = json.loads(paths.registered.read_text(encoding="utf-8"))
    if played := report.get("champion"):
        shown = rate.interval(played["rate"], played["low"], played["high"])
        lines.append(f"{rate.title} over the champion, version {played['version']}, {shown}")
    if "drift" in report:
        lines.append(f"WARNING {report['drift']}" if report["drifted"] else report["drift"])
    return [*lines, *[_registered(report[kind]) for kind in ("policy", "reward")], report["reason"]]


def _data(paths: Paths) -> list[str]:
    """How many rows were quarantined, and what was warned of; no line where validate has not run."""
    metrics = {
        stage: json.loads(path.read_text(encoding="utf-8"))
        for stage in ("validate", "pairs")
        if (path := paths.metrics(stage)).is_file()
    }
    if "rows_in" not in metrics.get("validate", {}):
        return []
    rejected, rows = (FIGURES[key].show(metrics["validate"][key]) for key in ("rows_rejected", "rows_in"))
    line = f"data: {rejected} of {rows} rows quarantined{' (data/quarantine says why)' * (rejected != '0')}"
    warned = [f"{stage} {figures['warnings']}" for stage, figures in metrics.items() if figures.get("warnings")]
    return [f"{line}; warnings: {', '.join(warned)} (named in the log and the Data Docs)" if warned else line]


def _registered(model: dict[str, Any]) -> str:
    how = "registered" if model["new"] else "registered before"
    return f"{model['name']} version {model['version']} {how}: {', '.join(model['aliases']) or 'no alias'}"


def commands(paths: Paths) -> str:
    """The commands that open the MLflow UI and the Prefect UI, and where the Data Docs lie; one a line.

    They are written for a shell in the workspace, and for elsewhere when the process is not there.
    """
    paths = Paths(paths.home or paths.root)
    here = Path.cwd() == paths.root.resolve()
    database = "mlruns/mlflow.db" if here else (paths.mlruns / "mlflow.db").resolve().as_posix()
    rows = [
        (
            "MLflow UI",
            f"{_program(paths, 'mlflow', here)} ui --host 127.0.0.1 "
            f"--backend-store-uri {shlex.quote(f'sqlite:///{database}')}",
        ),
        ("Prefect UI", f"{_prefect_home()}{_program(paths, 'prefect', here)} server start --host 127.0.0.1"),
    ]
    if (docs := paths.data_docs / "index.html").is_file():
        rows.append(("Data Docs", str(docs.relative_to(paths.root) if here else docs.resolve())))
    if (drift := paths.nights / "drift.html").is_file():
        rows.append(("Drift", str(drift.relative_to(paths.root) if here else drift.resolve())))
    return "\n".join(f"{title:<11} {line}" for title, line in rows)


def _program(paths: Paths, name: str, here: bool) -> str:
    """A program of this Python's environment, which the reader's shell may not have activated."""
    program = Path(sys.executable).with_name(name)
    if not program.is_file():
        return name
    inside = here and program.is_relative_to(paths.root.resolve())
    return shlex.quote(str(program.relative_to(paths.root.resolve()) if inside else program))


def _prefect_home() -> str:
    home = os.environ.get("PREFECT_HOME")
    return f"PREFECT_HOME={shlex.quote(home)} " if home else ""


def _metrics(paths: Paths) -> dict[str, float]:
    path = paths.metrics("evaluate")
    if not path.is_file():
        raise FileNotFoundError(f"{path}: nothing was evaluated yet; run the night with: nightjar run")
    metrics: dict[str, float] = json.loads(path.read_text(encoding="utf-8"))
    return metrics
