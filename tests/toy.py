"""A night without learning: a stage writes one digest of what it read; `python -m tasks` of toy workspaces."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import yaml

HALF = "model.safetensors"
FIGURES = {"sft.rougeL": 0.5, "policy.rougeL": 0.625}
REGISTERED = {
    "promoted": False,
    "reason": "not promoted: it is a toy",
    "canaries": [{"prompt": "a canary", "policy": "sings well", "champion": "sings", "version": 2}],
    **{kind: {"name": f"toy-{kind}", "version": 3, "new": True, "aliases": []} for kind in ("policy", "reward")},
}


def run(stage: str, root: Path) -> dict[str, float]:
    """Writes a stage's outputs, as dvc.yaml names them, as a function of its inputs and params alone."""
    spec = yaml.safe_load((root / "dvc.yaml").read_text(encoding="utf-8"))["stages"][stage]
    params = yaml.safe_load((root / "params.yaml").read_text(encoding="utf-8"))
    found = hashlib.md5(json.dumps([params.get(section) for section in spec.get("params", [])]).encode())
    for name in spec["deps"]:
        place = root / name
        for file in sorted(place.rglob("*")) if place.is_dir() else [place]:
            if file.is_file() and file.suffix != ".pyc":
                found.update(file.read_bytes())
    text = json.dumps({"id": stage, "digest": found.hexdigest()}) + "\n"
    for name in spec["outs"]:
        for file in ("rows.jsonl", "train.jsonl", "dev.jsonl", "judge.jsonl", "tokenizer.json"):
            (root / name).mkdir(parents=True, exist_ok=True)
            (root / name / file).write_text(text, encoding="utf-8")
    if stage == "ingest":
        _keep_received(root / "data")
    metrics = root / "data" / "metrics" / f"{stage}.json"
    metrics.parent.mkdir(parents=True, exist_ok=True)
    metrics.write_text(json.dumps(FIGURES) + "\n", encoding="utf-8")
    draw(stage, root)
    with (root / "ran.txt").open("a", encoding="utf-8") as log:
        log.write(f"{stage}\n")
    return FIGURES


def draw(stage: str, root: Path) -> None:
    """Writes the tables that dvc.yaml draws plots of, a line of numbers each."""
    for plot in yaml.safe_load((root / "dvc.yaml").read_text(encoding="utf-8"))["plots"]:
        [drawn] = plot.values()
        for file, columns in drawn["y"].items():
            if (path := root / file).is_relative_to(root / "data" / "plots" / stage):
                names = [drawn["x"], *([columns] if isinstance(columns, str) else columns)]
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(f"{','.join(names)}\n{','.join(['0.5'] * len(names))}\n", encoding="utf-8")


def _keep_received(data: Path) -> None:
    """What people brought, copied as the real stage does."""
    for file in [file for folder in ("source", "feedback") for file in (data / folder).rglob("*.jsonl")]:
        target = data / "raw" / "received" / file.relative_to(data)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, target)


def hold(stage: str, root: Path) -> None:
    """Where the file `hold` names this stage, writes the half of a checkpoint and waits until the file is gone."""
    while (root / "hold").is_file() and (root / "hold").read_text(encoding="utf-8") == stage:
        half = root / "data" / "models" / stage / HALF
        half.parent.mkdir(parents=True, exist_ok=True)
        half.write_bytes(b"half")
        time.sleep(0.05)


def run_stage(stage: str, paths: Any, params: Any) -> dict[str, float]:
    """Stands in for tasks.runner.run_stage: register, which DVC does not run, decides against the toy."""
    from tasks.files import write_json
    from tasks.stages import STAGES

    if STAGES[stage].versioned:
        hold(stage, paths.root)
        return dict(run(stage, paths.root))
    with (paths.root / "ran.txt").open("a", encoding="utf-8") as log:
        log.write(f"{stage}\n")
    _register(paths, params.register_.name)
    write_json(paths.registered, REGISTERED)
    return {"promoted": 0.0}


def _register(paths: Any, name: str) -> None:
    """Has the registry hold the versions that the toy's decision names."""
    from tasks.tracking import mlflow_store

    client = mlflow_store.open_client(paths)
    for model in (f"{name}-policy", f"{name}-reward"):
        if not client.search_registered_models(f"name = '{model}'"):
            client.create_registered_model(model)
            for _ in range(3):
                client.create_model_version(model, "file:///nowhere")


if __name__ == "__main__":
    run(sys.argv[1], Path.cwd())
