"""Few shots as a part of evaluate: the figures are those of its own table, and models are asked alike."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from statistics import fmean

import pytest

from rlhf.records import Demonstration
from tasks import evaluate, report, stages
from tasks.files import read_records, write_records
from tasks.params.whole import Params
from tasks.paths import Paths

KEYS = ("rougeL", "bleu", "gold")


def asked(params: Params, shots: list[int]) -> Params:
    """The small night's params with so many shots."""
    return params.model_copy(update={"evaluate": params.evaluate.model_copy(update={"shots": shots})})


def test_evaluate_measures_each_model_with_each_number_of_shots(
    copied_night: Callable[..., Paths], night_params: Params
) -> None:
    """Zero shots are the plain figures; the table bears the others out; a picture and a signature say the rest."""
    from rlhf.annotator import gold_score
    from rlhf.evaluation.rouge import rouge

    paths, params = copied_night("evaluation"), asked(night_params, [1, 0])
    figures = evaluate.run(stages.files("evaluate", paths), params.evaluate, params.model)
    expected = {f"{name}.shot{count}.{key}" for name in ("sft", "policy") for count in (0, 1) for key in KEYS}
    assert {key for key in figures if "shot" in key} == expected | {"shots_dropped"}
    assert all(math.isfinite(figures[key]) for key in expected)
    rows = [json.loads(line) for line in (paths.evaluation / "few_shot.jsonl").read_text().splitlines()]
    plain = [json.loads(line) for line in (paths.evaluation / "completions.jsonl").read_text().splitlines()]
    train = {row.id: row for row in read_records(paths.validated / "train" / "demonstrations.jsonl", Demonstration)}
    assert len(rows) == 2 * len(plain)
    for name in ("sft", "policy"):
        assert figures[f"{name}.shot0.rougeL"] == pytest.approx(figures[f"{name}.rougeL"], abs=1e-6)
        assert figures[f"{name}.shot0.bleu"] == pytest.approx(figures[f"{name}.bleu"], abs=1e-6)
        assert [row[name] for row in rows if row["shots"] == 0] == [row[name] for row in plain]
        one = [row for row in rows if row["shots"] == 1]
        texts, references = [row[name] for row in one], [row["references"] for row in one]
        assert figures[f"{name}.shot1.rougeL"] == pytest.approx(rouge(texts, references)["rougeL"], abs=1e-6)
        golds = [gold_score(row["prompt"], row[name]) for row in one]
        assert figures[f"{name}.shot1.gold"] == pytest.approx(fmean(golds), abs=1e-6)
    assert [len(row["demonstrations"]) for row in rows] == [row["shots"] for row in rows]
    for row in rows:
        assert all(train[shown].prompt != row["prompt"] for shown in row["demonstrations"])
    report.run(stages.files("report", paths))
    assert (paths.reports / "evaluate" / "few_shot.png").read_bytes().startswith(b"\x89PNG")
    signature = json.loads((paths.evaluation / "scores.json").read_text())["signatures"]["few_shot"]
    assert signature.startswith("shots:0,1|decoding:greedy|")
    assert signature.endswith("|base:none, built from model.config")


def test_a_base_model_by_name_is_measured_too_and_what_did_not_fit_is_counted(
    copied_night: Callable[..., Paths], night_params: Params
) -> None:
    """SFT's folder as the base answers as SFT does; of 20 demonstrations in a context of 160 most are dropped."""
    paths, params = copied_night("evaluation"), asked(night_params, [20])
    limited = params.evaluate.model_copy(update={"max_prompts": 2})
    model = params.model.model_copy(update={"name": str(paths.models / "sft"), "config": {}})
    figures = evaluate.run(stages.files("evaluate", paths), limited, model)
    for key in KEYS:
        assert figures[f"base.shot20.{key}"] == figures[f"sft.shot20.{key}"]
    # Three models, two prompts: each drops the same, and at least half of 20.
    assert 60 <= figures["shots_dropped"] < 120
    assert figures["shots_dropped"] % 3 == 0
    rows = [json.loads(line) for line in (paths.evaluation / "few_shot.jsonl").read_text().splitlines()]
    assert [row["base"] for row in rows] == [row["sft"] for row in rows]


def test_too_few_demonstrations_are_refused_before_any_model_loads(
    copied_night: Callable[..., Paths], night_params: Params
) -> None:
    """The models' folders are not even there; nothing is written."""
    paths, params = copied_night("evaluation", "models/sft", "models/policy", "models/reward"), night_params
    file = paths.validated / "train" / "demonstrations.jsonl"
    write_records(file, read_records(file, Demonstration)[:3])
    with pytest.raises(ValueError, match=r"evaluate\.shots asks for 4; lower it"):
        evaluate.run(stages.files("evaluate", paths), asked(params, [0, 4]).evaluate, params.model)
    assert not paths.evaluation.exists()


def test_without_shots_nothing_is_added(small_night: Paths) -> None:
    """The default: no figure, no file, no picture of it."""
    figures = json.loads(small_night.metrics("evaluate").read_text())
    assert not [key for key in figures if "shot" in key]
    assert not (small_night.evaluation / "few_shot.jsonl").exists()
    assert not (small_night.reports / "evaluate" / "few_shot.png").exists()
