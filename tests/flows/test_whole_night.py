"""A whole night, for real and small: every stage, both doors, the registry, and a second night."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tasks import digests
from tasks.paths import Paths
from tasks.reproducibility import experiments
from tasks.stages import STAGES, VERSIONED
from tasks.tracking import mlflow_store
from tasks.versioning import dvc_repo

SMALL = """\
model:
  config:
    model_type: llama
    hidden_size: 32
    intermediate_size: 64
    num_hidden_layers: 1
    num_attention_heads: 2
    max_position_embeddings: 160
    tie_word_embeddings: true
  vocab_size: 400
  threads: 1
ingest: {demonstrations: 300, prompts: 80}
validate: {}
sft: {steps: 60, batch_size: 16, learning_rate: 1.0e-2}
rollouts: {completions: 3, sampling: [{temperature: 1.0}, {temperature: 0.7, top_p: 0.9}, {top_k: 20}]}
rank: {}
pairs: {dev_share: 0.15, test_share: 0.2}
reward: {steps: 10, batch_size: 8, learning_rate: 2.0e-3}
policy: {iterations: 3, prompts_per_iteration: 8, critic_warmup: 1, max_new_tokens: 48}
evaluate: {samples: 2, best_of: 2}
register: {}
"""
CONTRACT = [f"{name}.{key}" for name in ("sft", "policy", "best_of_n")
            for key in ("rouge1", "rouge2", "rougeL", "bleu", "reward", "gold", "length")]  # fmt: skip


def nightjar(root: Path, *arguments: str, code: int = 0) -> str:
    """Runs the command in a process of its own and returns what it printed.

    Fails when it ends with another code, and when a library's own bars or tracebacks come among our lines.
    """
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])  # dvc.yaml says just `python`
    environment = {**os.environ, "PATH": path, "PREFECT_HOME": str(root / "prefect"), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", *arguments]
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    assert not [word for word in ("Loading weights", "Writing model shards", "Traceback") if word in done.stderr]
    return done.stdout


@pytest.fixture(scope="module")
def first_night(clean_clone: Callable[[Path, str], Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A workspace after its first night, and what that printed."""
    root = clean_clone(tmp_path_factory.mktemp("night") / "workspace", SMALL)
    return root, nightjar(root, "flows", "run")


def test_a_night_writes_everything_of_the_contract(first_night: tuple[Path, str]) -> None:
    """Every stage's files and metrics are there, the models are registered, and the summary tells it."""
    root, printed = first_night
    metrics = json.loads((root / "data/metrics/evaluate.json").read_text())
    assert not [
        key for key in [*CONTRACT, "policy.kl", "win_rate", "win_rate_low", "win_rate_high"] if key not in metrics
    ]
    keys = {
        "validate": ["rows_in", "rows_kept", "rows_rejected"],
        "sft": ["eval_loss", "perplexity"],
        "pairs": ["rankings", "pairs", "ties_dropped", "duplicates_dropped"],
        "reward": ["accuracy", "auc", "spearman", "pearson", "ece"],
        "policy": ["reward_mean", "kl", "entropy", "clip_fraction", "explained_variance"],
    }
    for stage, wanted in keys.items():
        found = json.loads((root / f"data/metrics/{stage}.json").read_text())
        assert not [key for key in wanted if key not in found], stage
    for model in ("sft", "policy", "reward"):
        assert list((root / "data/models" / model).glob("*.safetensors")), model
    assert (root / "nights/data_docs/index.html").is_file()
    lines = [line.split()[:2] for line in printed.splitlines()]
    told = [words for words in lines if words[:1] and words[0] in STAGES and words[1:] == ["ran"]]  # no row of a table
    assert told == [[stage, "ran"] for stage in STAGES]
    for word in ("win rate", "challenger", "mlflow ui", "prefect server start", "index.html"):
        assert word in printed.lower(), word


def test_a_second_night_finds_everything_up_to_date_at_both_doors(first_night: tuple[Path, str]) -> None:
    """With nothing changed the flow skips every stage, and DVC agrees that nothing changed."""
    root, _ = first_night
    assert "nothing new since night-" in nightjar(root, "flows", "run")
    assert "up to date" in nightjar(root, "dvc", "status")


def test_the_night_is_an_experiment_that_is_shown_and_brought_back(first_night: tuple[Path, str]) -> None:
    """Named after its time and its policy version, in the history, the registry and `dvc exp show`.

    After an experiment on other params, run in a copy whose MLflow run stays, and their adoption: `dvc exp apply` and
    `dvc repro` bring the night back, with nothing left to run.
    """
    root, _ = first_night
    [night] = [json.loads(line) for line in (root / "nights/history.jsonl").read_text().splitlines()][:1]
    assert re.fullmatch(r"night-\d{4}-\d\d-\d\d-\d{4}-v1", night["experiment"])
    lock = (root / "dvc.lock").read_text()
    nightjar(root, "dvc", "exp", "run", "--temp", "-n", "mine", "-S", "evaluate.best_of=3")
    [_, baseline] = json.loads(nightjar(root, "dvc", "exp", "show", "--json"))
    shown = {each["name"]: each["revs"][0]["data"] for each in baseline["experiments"]}
    assert set(shown) == {night["experiment"], "mine"}
    kept = json.loads((root / "data/metrics/evaluate.json").read_text())
    assert shown[night["experiment"]]["metrics"]["data/metrics/evaluate.json"]["data"] == kept
    client = mlflow_store.open_client(Paths(root))
    ran = client.search_runs([mlflow_store.experiment_id(client, Paths(root))], "tags.experiment = 'mine'")
    assert sorted(run.data.tags["stage"] for run in ran) == ["evaluate", "report"]
    version = client.get_model_version("nightjar-policy", "1")
    assert version.tags["experiment"] == night["experiment"]

    nightjar(root, "dvc", "exp", "apply", "mine")
    assert (root / "dvc.lock").read_text() != lock
    nightjar(root, "dvc", "exp", "apply", night["experiment"])
    assert "Data and pipelines are up to date." in nightjar(root, "dvc", "repro")
    assert (root / "dvc.lock").read_text() == lock


def test_the_registered_policy_is_reproduced_bit_for_bit(first_night: tuple[Path, str], tmp_path: Path) -> None:
    """From nothing but the experiment's commit and what people brought: every output, weights included, is identical.

    Where dvc.lock says otherwise, the stage is named that does not come out so, and the exit code is 1.
    """
    root, _ = first_night
    printed = nightjar(root, "flows", "reproduce", "1", "--keep", str(tmp_path / "kept"))
    assert f"identical: {', '.join(VERSIONED)} (" in printed
    ours, theirs = (digests.digest(place / "data/models/policy") for place in (root, tmp_path / "kept"))
    assert ours == theirs
    assert "kept in" in printed

    lock = root / "dvc.lock"
    text = lock.read_text()
    lock.write_text(
        text.replace(dvc_repo.recorded(root)["validate"].outputs["data/validated/train"], "0" * 32 + ".dir")
    )
    experiments.save(Paths(root), "tampered")
    lock.write_text(text)
    said = nightjar(root, "flows", "reproduce", "tampered", "--until", "validate", code=1)
    assert said.splitlines()[-3:] == [
        f"identical: ingest ({len(dvc_repo.recorded(root)['ingest'].outputs)} outputs, digest for digest)",
        "differs: validate",
        "  data/validated/train",
    ]


def test_a_policy_that_went_on_from_the_champion_is_reproduced(
    clean_clone: Callable[[Path, str], Path], tmp_path: Path
) -> None:
    """Two nights, the second from the first's champion, which DVC's cache still has; once it has not, the registry."""
    gates = "register: {min_win_rate_low: 0.0, max_rouge_drop: null, max_kl: null}"
    root = clean_clone(tmp_path / "workspace", SMALL.replace("register: {}", gates).replace("steps: 60", "steps: 40"))
    nightjar(root, "flows", "run")
    params = root / "params.yaml"
    params.write_text(params.read_text().replace("sft: {", "sft: {start: champion, "))
    printed = nightjar(root, "flows", "run")
    assert "sft starts from the champion: nightjar-policy version 1" in printed
    recorded = dvc_repo.recorded(root)
    champion = mlflow_store.open_client(Paths(root)).get_model_version("nightjar-policy", "1").tags["content"]
    assert recorded["sft"].inputs["data/champion"] == champion
    assert recorded["policy"].outputs["data/models/policy"] != champion

    assert f"identical: {', '.join(VERSIONED)} (" in nightjar(root, "flows", "reproduce", "2")
    (root / ".dvc/cache/files/md5" / champion[:2] / champion[2:]).unlink()
    said = nightjar(root, "flows", "reproduce", "2", "--until", "sft")
    assert "identical: ingest, validate, sft (" in said


def test_the_other_door_gives_the_same_outputs(
    first_night: tuple[Path, str], clean_clone: Callable[[Path, str], Path], tmp_path: Path
) -> None:
    """`dvc repro` in another clean clone writes the same dvc.lock, digest for digest; the flow has nothing to add.

    What is left for it is register, which changes the world outside and so is no stage of DVC's.
    """
    root = clean_clone(tmp_path / "other", SMALL)
    nightjar(root, "dvc", "repro", "--quiet")
    ours, theirs = ((folder / "dvc.lock").read_text() for folder in (first_night[0], root))
    assert yaml.safe_load(theirs) == yaml.safe_load(ours)
    assert "bring up to date register\n" in nightjar(root, "flows", "status")
