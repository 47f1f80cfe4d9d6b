"""A workspace after two nights on people's data: real files, DVC's cache, experiments, and MLflow's store."""

from __future__ import annotations

import html
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tasks import digests, ingest, rank, stages
from tasks.files import append_record, read_rows, write_json, write_rows, write_text
from tasks.params.whole import Params, read_params
from tasks.paths import Paths
from tasks.registry import versions
from tasks.registry.decisions import Decision
from tasks.reproducibility import experiments
from tasks.stages import STAGES, VERSIONED
from tasks.tracking import mlflow_store
from tasks.versioning import provenance

PARAMS = """\
model: {config: {model_type: llama}}
ingest: {source: data/source/support}
validate: {}
sft: {steps: 1, batch_size: 1, learning_rate: 1.0e-3}
rollouts: {}
rank: {annotator: people, feedback: {any: [march.jsonl]}}
pairs: {judge_share: 0.3}
reward: {steps: 1, batch_size: 1, learning_rate: 1.0e-3}
policy: {iterations: 1, prompts_per_iteration: 1}
evaluate: {}
"""
SECRET = "My flat in Elm Street 9 has no heating"
DEMONSTRATIONS = [
    {"id": "d1", "prompt": "How do I pay my bill?", "response": "Open Bills, then choose Pay."},
    {"id": "d2", "prompt": SECRET, "response": "We send someone to Elm Street 9 today."},
]
QUESTIONS = [{"id": "p1", "prompt": "Where is the office?", "references": ["In the town hall of Oldtown."]}]
RANKINGS = [
    {"id": "r1", "prompt": "How do I pay my bill?", "completions": ["Pay.", "No."], "ranks": [1, 2], "annotator": "bo"},
    {"id": "r2", "prompt": SECRET, "completions": ["Soon.", "Never."], "ranks": [2, 1], "annotator": "ana"},
]


def stage_work(name: str, paths: Paths, params: Params, toy: ModuleType) -> None:
    """A stage of the night, on real rows: what learns writes a digest of what it read."""
    files = stages.files(name, paths)
    read = "".join(digests.digest(path) for path in files.inputs.values() if path.exists())
    match name:
        case "ingest":
            ingest.run(files, params.ingest)
        case "validate":
            raw = files.inputs["raw"]
            shutil.copytree(raw, files.outputs["train"], ignore=shutil.ignore_patterns("received", "prompts.jsonl"))
            for split in ("dev", "test"):
                files.outputs[split].mkdir(parents=True)
            shutil.copyfile(raw / "prompts.jsonl", files.outputs["test"] / "prompts.jsonl")
            shutil.copytree(files.inputs["feedback"], files.outputs["rankings"], ignore=shutil.ignore_patterns("*.md"))
            write_rows(files.outputs["quarantine"] / "feedback.jsonl", [])
        case "rank":
            rank.run(files, params.rank)
        case "rollouts":
            write_rows(paths.rollouts, [{"prompt_id": "x", "completions": [], "by": read}])
        case "pairs":
            rows = [row for _, row in read_rows(paths.rankings)]
            pairs = [{"chosen": row["completions"][0], "rejected": row["completions"][1]} for row in rows]
            for split in ("train", "dev", "test", "judge"):
                write_rows(paths.pairs / f"{split}.jsonl", pairs if split == "train" else [])
        case "evaluate":
            rows = [row for _, row in read_rows(files.inputs["test"] / "prompts.jsonl")]
            write_rows(paths.evaluation / "samples.jsonl", [{**row, "by": read} for row in rows])
        case "report":
            rows = [row for _, row in read_rows(paths.evaluation / "samples.jsonl")]
            write_text(paths.reports / "page.html", "".join(f"<p>{html.escape(row['prompt'])}</p>" for row in rows))
        case _:
            for folder in STAGES[name].writes:
                write_text(paths.root / folder / "tokenizer.json", json.dumps({"by": read}))
    write_json(paths.metrics(name), {"rows": 1})
    toy.draw(name, paths.root)


def run_night(paths: Paths, toy: ModuleType, number: int, promoted: bool) -> None:
    """A night that leaves what nights leave: cached data, runs with digests, versions, an experiment."""
    params, client = read_params(paths.root / "params.yaml"), mlflow_store.open_client(paths)
    for name in VERSIONED:
        for output in STAGES[name].writes:
            shutil.rmtree(paths.root / output, ignore_errors=True)
        stage_work(name, paths, params, toy)
        outputs = provenance.digests(paths, STAGES[name].writes)
        run_id = mlflow_store.create_run(client, paths, name, {"stage": name})
        mlflow_store.log_data_sets(client, run_id, provenance.digests(paths, STAGES[name].reads), name)
        mlflow_store.log(client, run_id, tags={f"output.{path}": digest for path, digest in outputs.items()})
    commit = [sys.executable, "-m", "dvc", "commit", "--force", "--quiet"]
    subprocess.run(commit, cwd=paths.root, check=True)
    data = provenance.digests(paths, {path for stage in STAGES.values() for path in (*stage.reads, *stage.writes)})
    who: dict[str, int] = {}
    for _, row in read_rows(paths.rankings):
        who[row["annotator"]] = who.get(row["annotator"], 0) + 1
    for kind in ("policy", "reward"):
        if not client.search_registered_models(f"name = 'nightjar-{kind}'"):
            client.create_registered_model(f"nightjar-{kind}")
        card = "".join(f"| rankings by {name} | {count} |\n" for name, count in who.items())
        tags = {f"data.{path}": digest for path, digest in data.items()} | {"annotators": json.dumps(who)}
        tags |= {"content": data[f"data/models/{kind}"], "promoted": "yes" if promoted else "no"}
        tags["reward_version"] = str(number)
        client.create_model_version(f"nightjar-{kind}", "file:///nowhere", tags=tags, description=card)
    versions.move(client, "nightjar", dict.fromkeys(["challenger"] + ["champion"] * promoted, number))
    artifacts = paths.mlruns / "artifacts" / str(number)
    shutil.copytree(paths.evaluation, artifacts / "evaluation")
    write_text(artifacts / "model_card.md", card)
    write_text(paths.nights / "register.done.json", "{}")
    experiments.save(paths, f"night-{number}")
    common: dict[str, Any] = {"by": "gates", "reason": "better", "findings": [], "figures": {}}
    after = number if promoted else None
    append_record(
        paths.nights / "decisions.jsonl",
        Decision(when="2026", version=number, promoted=promoted, champion_before=None, champion_after=after, **common),
    )


@pytest.fixture(scope="session")
def two_nights(
    tmp_path_factory: pytest.TempPathFactory,
    make_toy: Callable[[Path], Path],
    toy_module: ModuleType,
    migrated: Path,
) -> Paths:
    """Version 1 learnt from d1, p1 and bo's ranking; version 2, the champion, from d2 and ana's too."""
    paths = Paths(make_toy(tmp_path_factory.mktemp("erasure") / "made"))
    write_text(paths.root / "params.yaml", PARAMS)
    paths.mlruns.mkdir()
    shutil.copyfile(migrated, paths.mlruns / "mlflow.db")
    for number in (1, 2):
        write_rows(paths.source / "support" / "train.jsonl", DEMONSTRATIONS[:number])
        write_rows(paths.source / "support" / "test.jsonl", QUESTIONS)
        write_rows(paths.feedback / "march.jsonl", RANKINGS[:number])
        run_night(paths, toy_module, number, promoted=True)
    return paths


@pytest.fixture
def nights(two_nights: Paths, tmp_path: Path) -> Paths:
    """A copy of that workspace, to forget in."""
    shutil.copytree(two_nights.root, tmp_path / "copy", symlinks=True)
    return Paths(tmp_path / "copy")


@pytest.fixture
def nights_params(nights: Paths) -> Params:
    """The params of that workspace."""
    return read_params(nights.root / "params.yaml")


@pytest.fixture
def everything(nights: Paths) -> Callable[[], dict[str, bytes]]:
    """Called, it returns every file of the workspace with its bytes, but git's, DVC's own notes and the database."""

    def read() -> dict[str, bytes]:
        skipped = {".git", "tmp", "mlflow.db", "night.lock", "night.lock.json"}
        files = {path.relative_to(nights.root): path for path in nights.root.rglob("*") if path.is_file()}
        return {name.as_posix(): path.read_bytes() for name, path in files.items() if not skipped & set(name.parts)}

    return read
