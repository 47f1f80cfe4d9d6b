"""General demonstrations through the stages: what is replayed, what is measured, and what is refused without them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable

import pytest

from rlhf.corpus import make_general_demonstrations
from rlhf.demonstrations import encode_demonstrations, evaluate_loss
from rlhf.models import load_policy
from rlhf.records import Demonstration
from rlhf.settings.model import ComputeSettings, ModelSettings
from tasks import evaluate, report, sft, stages
from tasks import policy as policy_stage
from tasks.files import read_records, write_records
from tasks.params.whole import Params
from tasks.paths import Paths
from tasks.training.base import load_base

CPU = ComputeSettings(device="cpu")


@pytest.fixture
def general_night(copied_night: Callable[..., Paths]) -> Paths:
    """The small night with general demonstrations beside its own, as validate writes them."""
    paths = copied_night("evaluation", "plots/evaluate")
    rows = make_general_demonstrations(60, 0)
    for place, split in enumerate(("train", "dev", "test")):
        write_records(paths.validated / split / "general.jsonl", rows[20 * place : 20 * (place + 1)])
    return paths


def loss_of(paths: Paths, name: str) -> float:
    """Nats per token on the general demonstrations of the test split."""
    policy = load_policy(paths.models / name, CPU)
    rows = read_records(paths.validated / "test" / "general.jsonl", Demonstration)
    return evaluate_loss(policy, encode_demonstrations(policy, rows, 128, 24))


def test_replay_without_general_demonstrations_is_refused_before_a_model_loads(
    small_night: Paths, night_params: Params
) -> None:
    """The error names both params; the base model is nowhere, and was not asked for."""
    nowhere = ModelSettings(name="nobody/nothing-here")
    replay = night_params.sft.model_copy(update={"replay": 0.2})
    with pytest.raises(ValueError, match=r"sft.replay is above 0, .* in ingest.general, or set sft.replay to 0"):
        sft.run(stages.files("sft", small_night), replay, nowhere)
    ptx = night_params.policy.model_copy(update={"ptx_coefficient": 0.1})
    with pytest.raises(ValueError, match=r"policy.ptx_coefficient is above 0, .* in ingest.general"):
        policy_stage.run(stages.files("policy", small_night), ptx, nowhere)


def test_sft_learns_the_general_task_only_where_it_is_replayed(general_night: Paths, night_params: Params) -> None:
    """Present but not replayed, it changes no byte of the model; replayed, its loss is far lower."""
    short = night_params.sft.model_copy(update={"steps": 30})
    saved = {}
    for replay in (0.0, 0.25):
        sft.run(stages.files("sft", general_night), short.model_copy(update={"replay": replay}), night_params.model)
        saved[replay] = loss_of(general_night, "sft")
        shutil.copytree(general_night.models / "sft", general_night.root / str(replay))
        shutil.rmtree(general_night.models / "sft")
    assert saved[0.25] < 0.5 * saved[0.0]
    for split in ("train", "dev", "test"):
        (general_night.validated / split / "general.jsonl").unlink()
    sft.run(stages.files("sft", general_night), short, night_params.model)
    for file in (general_night.models / "sft").iterdir():
        assert file.read_bytes() == (general_night.root / "0.0" / file.name).read_bytes()


def test_evaluate_measures_sft_and_policy_and_leaves_an_untrained_base_out(
    general_night: Paths, night_params: Params
) -> None:
    """From scratch: the losses of both, counted anew, their difference, a picture, and no base."""
    figures = evaluate.run(stages.files("evaluate", general_night), night_params.evaluate, night_params.model)
    for name in ("sft", "policy"):
        assert figures[f"{name}.general_loss"] == pytest.approx(loss_of(general_night, name), abs=1e-5)
    assert figures["policy_forgetting"] == pytest.approx(figures["policy.general_loss"] - figures["sft.general_loss"])
    assert not {"base.general_loss", "forgetting", "sft_forgetting"} & figures.keys()
    report.run(stages.files("report", general_night))
    assert (general_night.reports / "evaluate" / "forgetting.png").is_file()
    scores = json.loads((general_night.evaluation / "scores.json").read_text())
    assert scores["metrics"]["policy.general_loss"] == figures["policy.general_loss"]
    assert scores["signatures"]["general_loss"].endswith("|rows:20|responses:cut at 24 tokens")


def test_evaluate_measures_from_the_base_model_where_there_is_one(general_night: Paths, night_params: Params) -> None:
    """With model.name the three losses and the three rises between them."""
    base = general_night.root / "base"
    shutil.copytree(general_night.models / "policy", base)
    model = ModelSettings(name=str(base), device="cpu")
    figures = evaluate.run(stages.files("evaluate", general_night), night_params.evaluate, model)
    assert figures["base.general_loss"] == pytest.approx(figures["policy.general_loss"], abs=1e-6)
    assert figures["forgetting"] == pytest.approx(0.0, abs=1e-6)
    assert figures["sft_forgetting"] == pytest.approx(-figures["policy_forgetting"], abs=1e-6)
    assert abs(figures["policy_forgetting"]) > 1e-4


def test_a_night_without_general_demonstrations_says_nothing_of_forgetting(small_night: Paths) -> None:
    """No metric and no picture."""
    metrics = json.loads(small_night.metrics("evaluate").read_text())
    assert not [key for key in metrics if "general" in key or "forgetting" in key]
    assert not (small_night.reports / "evaluate" / "forgetting.png").exists()


def test_the_base_model_is_loaded_by_name_and_from_scratch_there_is_none(
    small_night: Paths, night_params: Params
) -> None:
    """Untrained weights are no yardstick; those that will be trained are float32 whatever the precision."""
    import torch

    assert load_base(night_params.model) is None
    named = ModelSettings(name=str(small_night.models / "sft"), device="cpu", precision="bfloat16")
    for training, dtype in ((False, torch.bfloat16), (True, torch.float32)):
        base = load_base(named, training)
        assert base is not None
        assert next(base.model.parameters()).dtype == dtype
