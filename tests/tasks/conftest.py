"""Workspaces: for the tracker and the registry with models as small as they get, for the stages a real small night."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tasks.files import write_json, write_rows
from tasks.params.whole import Params, read_params
from tasks.paths import Paths
from tasks.tracking import mlflow_store
from tests.small import MODEL

PARAMS = """\
model: {config: {model_type: llama}}
sft: {steps: 3, batch_size: 2, learning_rate: 1.0e-3}
rollouts: {completions: 2, sampling: [{temperature: 1.0}, {temperature: 0.0}]}
reward: {steps: 1, batch_size: 1, learning_rate: 1.0e-3}
policy: {iterations: 1, prompts_per_iteration: 1}
"""
PASSING = {
    "win_rate": 0.93,
    "win_rate_low": 0.90,
    "win_rate_high": 0.96,
    "policy.rougeL": 0.60,
    "sft.rougeL": 0.58,
    "policy.kl": 2.6,
}
PROMPT = "name = Blue House, food = Thai"
STAGES = """\
ingest: {demonstrations: 240, prompts: 60}
sft: {steps: 150, batch_size: 16, learning_rate: 1.5e-2, eval_every: 50}
rollouts: {completions: 3, sampling: [{max_new_tokens: 24}, {temperature: 0.7, top_p: 0.9, max_new_tokens: 24}]}
pairs: {dev_share: 0.15, test_share: 0.2}
reward: {steps: 8, batch_size: 8, learning_rate: 2.0e-3}
policy: {iterations: 3, prompts_per_iteration: 8, critic_warmup: 1, learning_rate: 2.0e-3, max_new_tokens: 24}
evaluate: {samples: 2, best_of: 2, max_new_tokens: 24}
"""
NIGHT = MODEL + STAGES


@pytest.fixture
def passing() -> dict[str, float]:
    """Figures of an evaluation that passes every gate that is on by default."""
    return dict(PASSING)


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty MLflow database, migrated once: copying it takes a fiftieth of the time."""
    paths = Paths(tmp_path_factory.mktemp("migrated"))
    mlflow_store.open_client(paths).search_experiments()
    return paths.mlruns / "mlflow.db"


@pytest.fixture
def tracked(tmp_path: Path, migrated: Path) -> Paths:
    """A workspace with params and an empty database."""
    return _workspace(tmp_path, migrated)


@pytest.fixture
def tracked_params(tracked: Paths) -> Params:
    """The params of that workspace."""
    return read_params(tracked.root / "params.yaml")


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders `policy` and `reward` with real checkpoints of one layer, untrained."""
    import torch

    from rlhf.models import build_policy, save_policy
    from rlhf.reward import RewardModel
    from rlhf.reward.scalar import ScalarReward
    from rlhf.tokenizers import train_tokenizer

    folder = tmp_path_factory.mktemp("models")
    tokenizer = train_tokenizer([PROMPT, "The Blue House serves Thai food."], 300)
    shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    policy = build_policy({"model_type": "llama", "max_position_embeddings": 128, **shape}, tokenizer, seed=0)
    save_policy(policy, folder / "policy")
    torch.manual_seed(1)
    RewardModel(ScalarReward(policy, loglikelihood=True, max_completion_tokens=32), 0.5, 2.0).save(folder / "reward")
    return folder


@pytest.fixture
def evaluated(tracked: Paths, models: Path) -> Paths:
    """A workspace at the point where register runs: models, a held-out prompt, an evaluation that passes."""
    return _evaluated(tracked, models)


@pytest.fixture(scope="session")
def registered(tmp_path_factory: pytest.TempPathFactory, migrated: Path, models: Path) -> Paths:
    """A workspace in which register has run; tests only read it."""
    from tasks import register
    from tasks.tracking import tracker

    paths = _evaluated(_workspace(tmp_path_factory.mktemp("registered"), migrated), models)
    params = read_params(paths.root / "params.yaml")
    with tracker.stage("register", paths, params):
        register.run(paths, params.register_, params.model)
    return paths


@pytest.fixture(scope="session")
def night_params(tmp_path_factory: pytest.TempPathFactory) -> Params:
    """The params of the small night."""
    file = tmp_path_factory.mktemp("params") / "params.yaml"
    file.write_text(NIGHT, encoding="utf-8")
    return read_params(file)


@pytest.fixture(scope="session")
def small_night(tmp_path_factory: pytest.TempPathFactory, night_params: Params) -> Paths:
    """A workspace after all versioned stages, for real; tests only read it."""
    from tasks.runner import run_stage
    from tasks.stages import VERSIONED

    paths = Paths(tmp_path_factory.mktemp("night"))
    for stage in VERSIONED:
        run_stage(stage, paths, night_params)
    return paths


@pytest.fixture
def copied_night(small_night: Paths, tmp_path: Path) -> Callable[..., Paths]:
    """Copies the small night up to some stage: called with the outputs (below data/) that are to be missing."""

    def copy(*without: str) -> Paths:
        paths = Paths(tmp_path / "copy")
        shutil.copytree(small_night.data, paths.data, dirs_exist_ok=True)
        for name in without:
            shutil.rmtree(paths.data / name)
        return paths

    return copy


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """No Hub can be reached, whatever the machine."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


def _workspace(root: Path, database: Path) -> Paths:
    paths = Paths(root)
    paths.mlruns.mkdir()
    shutil.copyfile(database, paths.mlruns / "mlflow.db")
    (root / "params.yaml").write_text(PARAMS, encoding="utf-8")
    return paths


def _evaluated(paths: Paths, models: Path) -> Paths:
    shutil.copytree(models, paths.models)
    shutil.copytree(models / "reward", paths.models / "judge")
    prompt = {"id": "1", "prompt": PROMPT, "references": ["The Blue House serves Thai food."]}
    prompts = [{**prompt, "id": str(number)} for number in range(1, 9)]  # fewer than 6 prove nothing
    write_rows(paths.validated / "test" / "prompts.jsonl", prompts)
    ranking = {"id": "1-r", "prompt": PROMPT, "completions": ["a", "b"], "ranks": [1, 2]}
    write_rows(paths.rankings, [{**ranking, "annotator": who} for who in ("ana", "bo", "ana")])
    drawn = {"texts": ["a", "b"], "scores": {"judge": [100.0, 100.0]}}  # above whatever the judge says of a champion
    write_rows(paths.evaluation / "samples.jsonl", [{**row, "sft": drawn, "policy": drawn} for row in prompts])
    sampling = {"referee": "judge", "samples": 2, "max_new_tokens": 5, "batch_size": 2, "seed": 0}
    write_json(paths.evaluation / "scores.json", {"metrics": PASSING, "signatures": {}, "sampling": sampling})
    write_json(paths.metrics("evaluate"), PASSING)
    judged = {"judge.accuracy": 0.7, "judge.accuracy_low": 0.6, "judge.accuracy_high": 0.8}
    write_json(paths.metrics("reward"), judged)
    return paths
