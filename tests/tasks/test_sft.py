"""sft as a stage: what it saves is what it measured, a refusal writes nothing, and the command says it in a line."""

from __future__ import annotations

import csv
import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from rlhf.records import Demonstration
from rlhf.settings.model import ComputeSettings
from tasks import sft, stages
from tasks.files import read_records, write_rows
from tasks.params.whole import Params
from tasks.paths import Paths

CPU = ComputeSettings(device="cpu")
UNREACHABLE = "nobody/nothing-here"


def curve(paths: Paths, name: str) -> list[dict[str, float]]:
    """A curve's points."""
    with (paths.plots("sft") / name).open(encoding="utf-8") as file:
        return [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]


def test_the_saved_model_has_the_loss_that_was_reported(small_night: Paths, night_params: Params) -> None:
    """Loaded again and asked row by row, it gives the dev loss of the metrics; perplexity is its exponential."""
    import torch

    from rlhf.models import load_policy

    metrics = json.loads(small_night.metrics("sft").read_text())
    policy = load_policy(small_night.models / "sft", CPU)
    total = tokens = 0.0
    for row in read_records(small_night.validated / "dev" / "demonstrations.jsonl", Demonstration):
        prompt, response = policy.encode_prompt(row.prompt), policy.encode_response(row.response, 96)
        labels = torch.tensor([[-100] * len(prompt) + response])
        with torch.no_grad():
            loss = policy.model(torch.tensor([prompt + response]), labels=labels).loss
        total, tokens = total + loss.item() * len(response), tokens + len(response)
    assert metrics["eval_loss"] == pytest.approx(total / tokens, abs=1e-4)
    assert metrics["perplexity"] == pytest.approx(math.exp(metrics["eval_loss"]))
    assert metrics["parameters"] == sum(weight.numel() for weight in policy.model.parameters())


def test_the_curves_show_that_it_learns(small_night: Paths, night_params: Params) -> None:
    """A loss per step, an evaluation every 50 steps and at the end; both fall, and the last one is the metric."""
    losses, evaluations = curve(small_night, "loss.csv"), curve(small_night, "eval_loss.csv")
    assert [row["step"] for row in losses] == list(range(1, night_params.sft.steps + 1))
    assert [row["step"] for row in evaluations] == [50, 100, 150]
    assert losses[-1]["loss"] < losses[0]["loss"] / 2
    assert evaluations[-1]["eval_loss"] < evaluations[0]["eval_loss"]
    metrics = json.loads(small_night.metrics("sft").read_text())
    assert metrics["eval_loss"] == pytest.approx(evaluations[-1]["eval_loss"], rel=1e-5)


def test_a_model_that_got_no_better_is_not_saved(copied_night: Callable[..., Paths], night_params: Params) -> None:
    """A rate that wrecks the model is an error with the remedy, and no model is left for the next stage."""
    paths = copied_night("models/sft", "plots/sft")
    wrecking = night_params.sft.model_copy(update={"steps": 5, "learning_rate": 0.7})
    with pytest.raises(ValueError, match=r"made the dev loss no better: .* lower sft.learning_rate"):
        sft.run(stages.files("sft", paths), wrecking, night_params.model)
    assert not (paths.models / "sft").exists()
    assert not paths.plots("sft").exists()


def test_a_tokenizer_learns_from_what_chats_say(copied_night: Callable[..., Paths], night_params: Params) -> None:
    """Prompts that are messages give it their contents, so that a word of theirs becomes one token."""
    from transformers import AutoTokenizer

    paths = copied_night("models/sft")
    for split in ("train", "dev"):
        messages = [{"role": "user", "content": "zyzzyva zyzzyva zyzzyva?"}]
        rows = [{"id": f"{split}{place}", "prompt": messages, "response": "Yes."} for place in range(20)]
        write_rows(paths.validated / split / "demonstrations.jsonl", rows)
    sft.run(
        stages.files("sft", paths),
        night_params.sft.model_copy(update={"steps": 10, "batch_size": 4}),
        night_params.model,
    )
    tokenizer = AutoTokenizer.from_pretrained(paths.models / "sft")
    assert len(tokenizer.encode("zyzzyva", add_special_tokens=False)) == 1
    assert len(tokenizer.encode("Message(role=", add_special_tokens=False)) > 5


@pytest.fixture
def checkout(small_night: Paths, migrated: Path, repository: Path, tmp_path: Path) -> Path:
    """A workspace up to sft, with the project's code and graph, whose params name a model that is nowhere."""
    root = tmp_path / "checkout"
    root.mkdir()
    settings = (".dvc/config", ".dvc/.gitignore", ".dvcignore", "dvc.yaml", "data/champion/README.md")
    for name in ("tasks", "rlhf", "flows", *settings):
        source, target = repository / name, root / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copyfile(source, target)
    for name in ("raw", "validated"):
        shutil.copytree(small_night.data / name, root / "data" / name)
    Paths(root).mlruns.mkdir()
    shutil.copyfile(migrated, Paths(root).mlruns / "mlflow.db")
    params = yaml.safe_load((repository / "params.yaml").read_text()) | {"model": {"name": UNREACHABLE}}
    (root / "params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")
    return root


def test_the_command_says_in_one_line_that_a_model_cannot_be_had(checkout: Path) -> None:
    """Exit code 1, the name and the remedy on standard error, no traceback, and no model half-written."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(checkout / "no-cache")}
    done = subprocess.run(
        [sys.executable, "-m", "flows", "stage", "sft"],
        cwd=checkout, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1, done.stdout + done.stderr
    [line] = done.stderr.strip().splitlines()
    assert line.startswith(f"nightjar: {UNREACHABLE}: the model could not be loaded")
    assert "give a folder with config.json and safetensors, or a Hub id" in line
    assert done.stdout == ""
    assert not (checkout / "data/models").exists() or not list((checkout / "data/models").rglob("*"))
    assert not (checkout / "data/metrics/sft.json").exists()
