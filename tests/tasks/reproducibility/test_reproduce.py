"""A night reproduced from its experiment: from scratch, on its own code and data, digest for digest."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import ModuleType

import psutil
import pytest

from tasks.paths import Paths
from tasks.registry import versions
from tasks.reproducibility import experiments, reproduce
from tasks.reproducibility.experiments import Experiment
from tasks.reproducibility.reproduce import Difference, Reproduction
from tasks.stages import VERSIONED
from tasks.tracking import mlflow_store
from tasks.versioning import dvc_repo

NIGHT = "night-2026-11-21-0200-v1"


@pytest.fixture
def made(toy: Path, toy_module: ModuleType) -> Callable[..., Experiment]:
    """Runs the toy's stages as a night on what its people brought, and keeps the experiment.

    Called with a stage and an output, it has that stage write another tokenizer than its code says.
    """
    for name in ("source/demos.jsonl", "feedback/march/ranks.jsonl"):
        (toy / "data" / name).parent.mkdir(exist_ok=True)
        (toy / "data" / name).write_text('{"id": "d1"}\n')

    def run(stage: str, odd: str | None) -> None:
        toy_module.run(stage, toy)
        if odd:
            (toy / odd / "tokenizer.json").write_text("odd\n")

    def night(odd_stage: str = "", odd: str | None = None) -> Experiment:
        for stage in VERSIONED:
            dvc_repo.reproduce(stage, toy, partial(run, stage, odd if stage == odd_stage else None))
        return experiments.save(Paths(toy), NIGHT)

    return night


def move_on(root: Path) -> None:
    """The team goes on: other data, other params, other code, and nothing of the night in the workspace."""
    (root / "data/source/demos.jsonl").write_text('{"id": "other"}\n')
    (root / "data/feedback/march/ranks.jsonl").unlink()
    (root / "params.yaml").write_text((root / "params.yaml").read_text().replace("steps: 1", "steps: 2"))
    (root / "tasks/reward.py").write_text("# another line\n")
    for name in ("raw", "models", "metrics", "plots", "champion"):
        shutil.rmtree(root / "data" / name, ignore_errors=True)


def files(root: Path) -> dict[str, bytes]:
    """All files of a workspace and their contents, git's and DVC's own aside."""
    places = [path for path in root.rglob("*") if path.is_file() and not {".git", "tmp"} & set(path.parts)]
    return {str(path): path.read_bytes() for path in places}


def test_a_night_comes_out_the_same_whatever_the_workspace_holds_by_now(
    toy: Path, made: Callable[..., Experiment], capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """All stages run again, on the data and the code of then; the workspace is only read.

    The folder that is kept holds the night, and its stages ran there from scratch.
    """
    experiment = made()
    move_on(toy)
    before, folder = files(toy), tmp_path / "new" / "kept"
    found = reproduce.reproduce(Paths(toy), experiment, keep=folder)
    assert list(found.identical) == list(VERSIONED)
    assert (found.stage, found.differences) == (None, ())
    assert files(toy) == before
    assert (folder / "ran.txt").read_text().split() == list(VERSIONED)
    assert (folder / "data/feedback/march/ranks.jsonl").read_text() == '{"id": "d1"}\n'
    assert (folder / "tasks/reward.py").read_text() == "# reward\n"
    lock = subprocess.run(["git", "show", f"{experiment.commit}:dvc.lock"], cwd=toy, capture_output=True, text=True)
    assert (folder / "dvc.lock").read_text() == lock.stdout
    said = [line.split()[:2] for line in capfd.readouterr().out.splitlines()]
    assert [line for line in said if line[:1] and line[0] in VERSIONED] == [[name, "identical"] for name in VERSIONED]


def test_what_differs_is_named_and_ends_it(toy: Path, made: Callable[..., Experiment], tmp_path: Path) -> None:
    """The stage, the output, and the file in it; what stands on it is not run, and no folder stays."""
    experiment = made("reward", "data/models/judge")
    before = set(Path(tempfile.gettempdir()).glob("nightjar-*"))
    found = reproduce.reproduce(Paths(toy), experiment)
    assert list(found.identical) == ["ingest", "validate", "sft", "rollouts", "rank", "pairs"]
    assert (found.stage, found.differences) == ("reward", [Difference("data/models/judge", ["tokenizer.json"])])
    assert set(Path(tempfile.gettempdir()).glob("nightjar-*")) <= before


def test_a_digest_that_was_tampered_with_is_found(toy: Path, made: Callable[..., Experiment]) -> None:
    """Also where the cache knows nothing of what it should be; stages after `until` are not asked."""
    made()
    lock = toy / "dvc.lock"
    digest = dvc_repo.recorded(toy)["sft"].outputs["data/models/sft"]
    lock.write_text(lock.read_text().replace(digest, "0" * 32 + ".dir"))
    experiment = experiments.save(Paths(toy), "tampered")
    found = reproduce.reproduce(Paths(toy), experiment, until="sft")
    assert (found.stage, found.differences) == ("sft", [Difference("data/models/sft", [])])
    found = reproduce.reproduce(Paths(toy), experiment, until="validate")
    assert (list(found.identical), found.stage) == (["ingest", "validate"], None)


def test_the_champion_that_it_started_from_comes_from_the_cache_or_the_registry(
    toy: Path, made: Callable[..., Experiment], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """By its digest; where neither has it, the error says so before any stage runs."""
    made()
    shutil.copytree(toy / "data/models/policy", toy / "data/champion", dirs_exist_ok=True)
    champion = dvc_repo.recorded(toy)["policy"].outputs["data/models/policy"]
    experiment = made()
    assert dvc_repo.recorded(toy)["sft"].inputs["data/champion"] == champion
    elsewhere = shutil.copytree(toy / "data/champion", tmp_path / "checkpoint")
    move_on(toy)
    assert list(reproduce.reproduce(Paths(toy), experiment, until="sft").identical)[-1] == "sft"

    (toy / ".dvc/cache/files/md5" / champion[:2] / champion[2:]).unlink()
    monkeypatch.setattr(mlflow_store, "open_client", lambda paths: None)
    asked: list[str] = []
    monkeypatch.setattr(versions, "find_version", lambda client, model, content: asked.append(content) or "1")
    monkeypatch.setattr(mlflow_store, "checkpoint_of", lambda paths, version: elsewhere)
    assert list(reproduce.reproduce(Paths(toy), experiment, until="sft").identical)[-1] == "sft"
    assert asked == [champion]
    monkeypatch.setattr(versions, "find_version", lambda *given: None)
    with pytest.raises(FileNotFoundError, match=rf"champion .*{champion}.* no version of nightjar-policy"):
        reproduce.reproduce(Paths(toy), experiment)


def test_sources_come_from_a_remote_where_the_cache_lost_them(
    toy: Path, made: Callable[..., Experiment], tmp_path: Path
) -> None:
    """Without a remote that is an error that says what is missing and what to do; nothing runs."""
    experiment = made()
    cache = toy / ".dvc/cache"
    pushed = shutil.copytree(cache, tmp_path / "pushed")
    move_on(toy)
    shutil.rmtree(cache)
    with pytest.raises(FileNotFoundError, match=r"data/raw, .*neither in DVC's cache nor in a remote; .*remote add"):
        reproduce.reproduce(Paths(toy), experiment)
    settings = f"[core]\n    remote = kept\n['remote \"kept\"']\n    url = {pushed}\n"
    (toy / ".dvc/config.local").write_text(settings)
    assert list(reproduce.reproduce(Paths(toy), experiment, until="validate").identical) == ["ingest", "validate"]


def test_what_cannot_be_reproduced_is_refused_with_the_reason(
    toy: Path, made: Callable[..., Experiment], tmp_path: Path
) -> None:
    """A commit that is not here, a folder in use, an unknown stage, a lock without stages."""
    empty = experiments.save(Paths(toy), "empty")
    with pytest.raises(ValueError, match=r"empty: its dvc\.lock has no ingest"):
        reproduce.reproduce(Paths(toy), empty)
    with pytest.raises(ValueError, match=r"empty has no such stage; its stages are ingest"):
        reproduce.reproduce(Paths(toy), empty, until="fly")
    with pytest.raises(
        ValueError, match=r"gone: its commit 00000000 is not in this checkout; .* dvc exp pull origin gone"
    ):
        reproduce.reproduce(Paths(toy), Experiment("gone", "0" * 40))
    with pytest.raises(ValueError, match="holds something already"):
        reproduce.reproduce(Paths(toy), empty, keep=toy / "data")


def test_a_stage_that_fails_is_named(toy: Path, made: Callable[..., Experiment]) -> None:
    """Its own words stand above, from its own process."""
    made()
    (toy / "tasks/__main__.py").write_text("import sys\nsys.exit('no luck')\n")
    experiment = experiments.save(Paths(toy), "broken")
    with pytest.raises(ValueError, match="ingest: failed; see its output above"):
        reproduce.reproduce(Paths(toy), experiment)


def test_who_ends_it_finds_nothing_left(toy: Path, made: Callable[..., Experiment], tmp_path: Path) -> None:
    """By SIGTERM: neither the temporary folder nor the stage that was at work in it, and no traceback."""
    (toy / "tasks/__main__.py").write_text("import time\ntime.sleep(300)\n")
    made()
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    command = [sys.executable, "-P", "-m", "flows", "reproduce", NIGHT]
    pipe, environ = subprocess.PIPE, {**os.environ, "TMPDIR": str(scratch)}
    with subprocess.Popen(command, cwd=toy, env=environ, stdout=pipe, stderr=pipe, text=True) as process:
        stages: list[psutil.Process] = []
        while not stages and process.poll() is None:
            time.sleep(0.1)
            with suppress(psutil.NoSuchProcess):  # git's come and go
                started = psutil.Process(process.pid).children()
                stages = [child for child in started if child.cmdline()[-1:] == ["ingest"]]
        assert list(scratch.glob("nightjar-*/params.yaml"))
        process.terminate()
        said = process.communicate(timeout=60)[1]
    assert process.returncode == 130, said
    assert "Traceback" not in said
    assert list(scratch.iterdir()) == []
    assert not any(stage.is_running() for stage in stages)


def test_other_libraries_than_then_are_listed() -> None:
    """By name, with both versions; those that are the same are not."""
    now = {"python": sys.version.split()[0], "torch": "1.0", "flown": "2"}
    [torch, flown] = reproduce.other_versions(now)
    assert torch.startswith("torch ")
    assert torch.endswith(" (then 1.0)")
    assert flown == "flown missing (then 2)"


def test_the_verdict_reads_as_one_or_names_the_files() -> None:
    """Identical with all stages; or those that are, and what differs in the first that is not."""
    same = Reproduction({"ingest": 2, "validate": 6})
    assert reproduce.render(same) == ["identical: ingest, validate (8 outputs, digest for digest)"]
    differing = [
        Difference("data/models/sft", ["a.json", "model.safetensors"]),
        Difference("data/metrics/sft.json", []),
    ]
    assert reproduce.render(Reproduction({"ingest": 2}, "sft", differing)) == [
        "identical: ingest (2 outputs, digest for digest)",
        "differs: sft",
        "  data/models/sft: a.json and 1 more of its files",
        "  data/metrics/sft.json",
    ]
