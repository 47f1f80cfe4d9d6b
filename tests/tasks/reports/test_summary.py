"""The night in a few lines: figures, decision, and the commands that show more."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import pytest

from tasks.files import write_json
from tasks.paths import Paths
from tasks.reports import summary

METRICS = {
    "sft.rougeL": 0.58,
    "sft.bleu": 23.456,
    "sft.gold": 0.51,
    "sft.length": 14.24,
    "policy.rougeL": 0.60004,
    "policy.bleu": 25.0,
    "policy.gold": 0.86,
    "policy.length": 15.26,
    "policy.kl": 2.604,
    "best_of_n.rougeL": 0.61,
    "best_of_n.gold": 0.9,
    "win_rate": 0.93,
    "win_rate_low": 0.9,
    "win_rate_high": 0.957,
}
REPORT = {
    "policy": {"name": "nightjar-policy", "version": 3, "new": True, "aliases": ["challenger"]},
    "reward": {"name": "nightjar-reward", "version": 2, "new": False, "aliases": ["challenger", "champion"]},
    "promoted": False,
    "reason": "not promoted: KL 12.10 above 10 nats",
}


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    """A workspace after a night."""
    paths = Paths(tmp_path)
    write_json(paths.metrics("evaluate"), METRICS)
    write_json(paths.registered, REPORT)
    return paths


def test_the_table_sets_sft_beside_policy_and_best_of_n() -> None:
    """Each figure at its own precision; one that nobody has gets no column; SFT's KL to itself is 0."""
    assert summary.table(METRICS) == [
        ["", "ROUGE-L", "BLEU", "gold", "KL (nats)", "length (words)"],
        ["SFT", "0.5800", "23.46", "0.510", "0.00", "14.2"],
        ["policy", "0.6000", "25.00", "0.860", "2.60", "15.3"],
        ["best of n", "0.6100", "–", "0.900", "–", "–"],
    ]


def test_the_summary_says_what_was_registered_and_why(paths: Paths) -> None:
    """Below the table, in whole sentences; on a terminal of any width no line wraps."""
    lines = summary.summary(paths).splitlines()
    assert lines[0].split() == ["ROUGE-L", "BLEU", "gold", "KL", "(nats)", "length", "(words)"]
    assert lines[3].split() == ["policy", "0.6000", "25.00", "0.860", "2.60", "15.3"]
    assert lines[-4:] == [
        "win rate over SFT 0.930 [0.900, 0.957]",
        "nightjar-policy version 3 registered: challenger",
        "nightjar-reward version 2 registered before: challenger, champion",
        "not promoted: KL 12.10 above 10 nats",
    ]


def test_the_figures_of_the_references_carry_their_signatures(paths: Paths) -> None:
    """A line each below the table, in Markdown too."""
    signatures = {
        "rouge1, rouge2, rougeL, rougeLsum": "rouge_score:0|tok:a-z0-9|lang:auto=en",
        "bleu": "nrefs:1|tok:13a",
    }
    write_json(paths.evaluation / "scores.json", {"signatures": signatures})
    told = ["ROUGE rouge_score:0|tok:a-z0-9|lang:auto=en", "BLEU nrefs:1|tok:13a"]
    assert summary.summary(paths).splitlines()[-6:-4] == told
    assert [line[2:] for line in summary.markdown(paths).splitlines()[-6:-4]] == told


def test_differences_of_texts_and_the_rate_at_equal_lengths_have_lines(paths: Paths) -> None:
    """With p where it was tested; an evaluation of an earlier time has neither."""
    more = {"policy.rougeL_p": 0.001, "policy.bleu_p": 0.25, "lc_win_rate": 0.7, "lc_win_rate_low": 0.6}
    write_json(paths.metrics("evaluate"), METRICS | more | {"lc_win_rate_high": 0.8})
    lines = summary.summary(paths).splitlines()
    assert lines[-6] == "over SFT: ROUGE-L +0.0200 (p 0.001), BLEU +1.54 (p 0.250), paired bootstrap"
    assert lines[-4] == "length-controlled win rate over SFT 0.700 [0.600, 0.800]"


def test_a_match_against_the_champion_has_a_line(paths: Paths) -> None:
    """Below the win rate over SFT; a first policy, without a champion to beat, has none."""
    write_json(paths.registered, {**REPORT, "champion": {"version": 2, "rate": 0.61, "low": 0.55, "high": 0.668}})
    lines = summary.summary(paths).splitlines()
    assert lines[-5:-3] == [
        "win rate over SFT 0.930 [0.900, 0.957]",
        "win rate over the champion, version 2, 0.610 [0.550, 0.668]",
    ]
    write_json(paths.registered, {**REPORT, "champion": None})
    assert "over the champion" not in summary.summary(paths)


@pytest.mark.parametrize(
    ("validate", "pairs", "line"),
    [
        (
            {"rows_in": 332, "rows_rejected": 5, "warnings": 2},
            {"warnings": 1},
            (
                "data: 5 of 332 rows quarantined (data/quarantine says why); warnings: validate 2, pairs 1 "
                "(named in the log and the Data Docs)"
            ),
        ),
        (
            {"rows_in": 332, "rows_rejected": 0, "warnings": 0},
            {"warnings": 3},
            ("data: 0 of 332 rows quarantined; warnings: pairs 3 (named in the log and the Data Docs)"),
        ),
        ({"rows_in": 332, "rows_rejected": 0, "warnings": 0}, None, "data: 0 of 332 rows quarantined"),
    ],
)
def test_what_was_amiss_with_the_data_stands_above_the_rest(
    paths: Paths, validate: dict[str, float], pairs: dict[str, float] | None, line: str
) -> None:
    """Rows quarantined of all rows, and the warnings by stage, where there were any."""
    for stage, figures in (("validate", validate), ("pairs", pairs)):
        if figures is not None:
            write_json(paths.metrics(stage), figures)
    assert summary.summary(paths).splitlines()[-5] == line
    assert f"- {line}" in summary.markdown(paths).splitlines()


def test_what_drifted_has_a_line(paths: Paths) -> None:
    """Before what was registered, as a warning where it is one; of earlier times is none. Its page has the rest."""
    text = "drift from champion 2: annotators by 0.400"
    write_json(paths.registered, {**REPORT, "drift": text, "drifted": True})
    (paths.nights / "drift.html").write_text("<html></html>")
    assert summary.summary(paths).splitlines()[-4] == f"WARNING {text}"
    assert f"- WARNING {text}" in summary.markdown(paths).splitlines()
    write_json(paths.registered, {**REPORT, "drift": "drift from champion 2: none in 9 figures", "drifted": False})
    assert summary.summary(paths).splitlines()[-4] == "drift from champion 2: none in 9 figures"
    assert summary.commands(paths).splitlines()[-1].split() == ["Drift", str((paths.nights / "drift.html").resolve())]


def test_the_markdown_holds_the_same(paths: Paths) -> None:
    """A table that Prefect's UI draws, and a list."""
    lines = summary.markdown(paths).splitlines()
    assert lines[1] == "| --- | ---: | ---: | ---: | ---: | ---: |"
    assert lines[3] == "| policy | 0.6000 | 25.00 | 0.860 | 2.60 | 15.3 |"
    assert lines[-1] == "- not promoted: KL 12.10 above 10 nats"


def test_before_register_ran_it_says_so(paths: Paths) -> None:
    """And before evaluate ran there is nothing to sum up."""
    paths.registered.unlink()
    assert summary.summary(paths).endswith("nothing registered yet: python -m tasks register")
    paths.metrics("evaluate").unlink()
    with pytest.raises(FileNotFoundError, match=r"nothing was evaluated yet; run the night with: nightjar run"):
        summary.summary(paths)


def test_the_commands_open_what_is_there(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    """Short in the workspace, whole elsewhere; servers listen on this machine only; no docs, no line."""
    monkeypatch.delenv("PREFECT_HOME", raising=False)
    monkeypatch.chdir(paths.root)
    mlflow, prefect = summary.commands(paths).splitlines()
    assert mlflow.endswith("ui --host 127.0.0.1 --backend-store-uri sqlite:///mlruns/mlflow.db")
    assert prefect.endswith("server start --host 127.0.0.1")
    program = shlex.split(mlflow.removeprefix("MLflow UI"))[0]
    assert Path(program) == Path(sys.executable).with_name("mlflow")

    docs = paths.data_docs / "index.html"
    docs.parent.mkdir(parents=True)
    docs.write_text("<html></html>")
    assert summary.commands(paths).splitlines()[2].split() == ["Data", "Docs", "nights/data_docs/index.html"]

    monkeypatch.chdir("/")
    mlflow, _, shown = summary.commands(paths).splitlines()
    assert mlflow.endswith(f"sqlite:///{(paths.mlruns / 'mlflow.db').resolve()}")
    assert shown.endswith(str(docs.resolve()))


def test_prefect_is_shown_where_the_nights_wrote(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    """A home other than the usual one is part of the command."""
    monkeypatch.setenv("PREFECT_HOME", "/somewhere/with space")
    assert "PREFECT_HOME='/somewhere/with space' " in summary.commands(paths).splitlines()[1]
