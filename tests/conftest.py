"""What every test shares: the checkout, a process without telemetry, a toy workspace with its own night."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import coverage
import jaxtyping
import pytest

from tasks import environment, graph, stages

environment.prepare()
if "PYTEST_XDIST_WORKER" in os.environ:
    # Lines are counted in the tests' own processes: counting them in what they start doubles the time of whole nights.
    os.environ.pop("COVERAGE_PROCESS_CONFIG", None)
# A shell's background job ignores Ctrl-C, and so would all that its tests start and interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)
# Shapes are checked while tests run. Left out are modules of pydantic models, whose `Self` beartype cannot read, and
# those whose types are transformers' own and imported for the type checker alone.
jaxtyping.install_import_hook(
    [
        f"rlhf.{module}"
        for module in (
            *(
                "masking",
                "logprobs",
                "batches",
                "generation",
                "explain",
                "optim",
                "demonstrations",
                "sft",
                "soft_prompt",
                "evaluation",
            ),
            *("heads", "fast"),
            *("reward.head", "reward.losses", "reward.metrics", "reward.scalar", "reward.training", "reward.model"),
            "reward.evaluation",
            *(
                "ppo.rewards",
                "ppo.advantages",
                "ppo.losses",
                "ppo.kl",
                "ppo.critic",
                "ppo.experience",
                "ppo.update",
            ),
        )
    ],
    "beartype.beartype",
)
HERE = Path(__file__).resolve().parent

TOY_PARAMS = """\
model: {config: {model_type: llama}}
ingest: {seed: 1}
sft:
  steps: 1
  batch_size: 1
  learning_rate: 1.0e-3
reward: {steps: 1, batch_size: 1, learning_rate: 1.0e-3}
policy: {iterations: 1, prompts_per_iteration: 1}
validate: {}
rollouts: {}
rank: {}
pairs: {}
evaluate: {}
"""


def pytest_sessionfinish() -> None:
    """Writes which lines were run: a worker that takes long to end is killed before it would."""
    if (measured := coverage.Coverage.current()) is not None:
        measured.save()


@pytest.fixture(scope="session")
def repository() -> Path:
    """The checkout that is tested."""
    return HERE.parent


@pytest.fixture(scope="session")
def toy_module() -> ModuleType:
    """tests/toy.py: the stages of toy workspaces."""
    spec = spec_from_file_location("toy", HERE / "toy.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def make_toy(repository: Path) -> Callable[[Path], Path]:
    """Makes a git checkout with this project's DVC settings and graph, over stages of one line of code each."""

    def make(root: Path) -> Path:
        notes = [f"data/{folder}/README.md" for folder in ("source", "feedback", "champion")]
        for name in (".dvc/config", ".dvc/.gitignore", ".dvcignore", "data/.gitignore", *notes):
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(repository / name, root / name)
        (root / "params.yaml").write_text(TOY_PARAMS, encoding="utf-8")
        (root / "tasks").mkdir()
        for module in ("__init__", "params", *stages.STAGES):
            (root / "tasks" / f"{module}.py").write_text(f"# {module}\n", encoding="utf-8")
        shutil.copyfile(HERE / "toy.py", root / "tasks" / "__main__.py")
        graph.write(root)
        git = ["git", "-c", "user.name=toy", "-c", "user.email=toy@example.org"]
        for command in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "toy"]):
            subprocess.run([*git, *command], cwd=root, check=True)
        return root

    return make


@pytest.fixture
def toy(tmp_path: Path, make_toy: Callable[[Path], Path]) -> Path:
    """Such a checkout."""
    return make_toy(tmp_path / "workspace")


@pytest.fixture
def toy_night(monkeypatch: pytest.MonkeyPatch, toy: Path, toy_module: ModuleType) -> Callable[[], list[str]]:
    """Puts the toy's stages in place of the real ones; called, it says which ran since it was called last."""

    from tasks import runner

    def ran() -> list[str]:
        log = toy / "ran.txt"
        names = log.read_text(encoding="utf-8").split() if log.is_file() else []
        log.unlink(missing_ok=True)
        return names

    monkeypatch.setattr(runner, "run_stage", toy_module.run_stage)
    return ran


@pytest.fixture(scope="session")
def dvc_repro() -> Callable[[Path], str]:
    """Runs `dvc repro` in a workspace, as a person would, and returns what it said."""

    def repro(root: Path) -> str:
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        command = [sys.executable, "-m", "dvc", "repro"]
        done = subprocess.run(
            command, cwd=root, env={**os.environ, "PATH": path}, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return repro
