"""DVC in this process: the same states, locks and caches as `dvc repro`."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import yaml

from tasks import digests
from tasks.stages import VERSIONED
from tasks.versioning import dvc_repo


@pytest.fixture
def ingest(toy: Path, toy_module: ModuleType) -> Callable[[], dvc_repo.Outcome]:
    """Brings the toy's first stage up to date in this process."""
    return lambda: dvc_repo.reproduce("ingest", toy, lambda: toy_module.run("ingest", toy))


def git_status(root: Path) -> str:
    done = subprocess.run(["git", "status", "--porcelain"], cwd=root, capture_output=True, text=True, check=True)
    return done.stdout


def test_the_private_door_of_dvc_is_there() -> None:
    """A DVC release without it makes every stage cost seconds more: to be noticed when it is pinned."""
    assert dvc_repo.has_private_door()


def test_a_stage_runs_once_and_is_cached_until_something_changes(
    toy: Path, ingest: Callable[[], dvc_repo.Outcome]
) -> None:
    """First ran, then cached; a changed line of code, param or input file makes it run again."""
    assert [ingest().status, ingest().status] == ["ran", "cached"]
    (toy / "tasks/ingest.py").write_text("# another line\n")
    assert [ingest().status, ingest().status] == ["ran", "cached"]
    params = toy / "params.yaml"
    params.write_text(params.read_text().replace("ingest: {seed: 1}", "ingest: {seed: 2}"))
    assert [ingest().status, ingest().status] == ["ran", "cached"]
    (toy / "data/source/demos.jsonl").write_text("{}\n")
    assert [ingest().status, ingest().status] == ["ran", "cached"]


def test_a_foreign_section_or_a_note_leaves_a_stage_alone(toy: Path, ingest: Callable[[], dvc_repo.Outcome]) -> None:
    """Another stage's params and the README of the source folder are no inputs of ingest."""
    ingest()
    params = toy / "params.yaml"
    params.write_text(params.read_text().replace("batch_size: 1\n", "batch_size: 2\n"))
    (toy / "data/source/README.md").write_text("more words\n")
    assert ingest().status == "cached"


def test_lost_or_earlier_outputs_come_back_from_the_cache(toy: Path, ingest: Callable[[], dvc_repo.Outcome]) -> None:
    """Outputs, metrics included, are restored without a run, also for params that were tried before."""
    first = ingest()
    rows = (toy / "data/raw/rows.jsonl").read_text()
    shutil.rmtree(toy / "data/raw")
    shutil.rmtree(toy / "data/metrics")
    again = ingest()
    assert (again.status, again.outputs) == ("restored", first.outputs)
    assert (toy / "data/raw/rows.jsonl").read_text() == rows
    assert json.loads((toy / "data/metrics/ingest.json").read_text())["sft.rougeL"] == 0.5
    params = toy / "params.yaml"
    text = params.read_text()
    params.write_text(text.replace("seed: 1", "seed: 2"))
    assert ingest().status == "ran"
    params.write_text(text)
    assert ingest().status == "restored"


def test_the_digests_are_those_of_dvc_lock(toy: Path, ingest: Callable[[], dvc_repo.Outcome]) -> None:
    """An outcome's digests equal dvc.lock's, and the project's own digest of the same folder."""
    outcome = ingest()
    lock = yaml.safe_load((toy / "dvc.lock").read_text())["stages"]["ingest"]
    assert outcome.inputs == {item["path"]: item["md5"] for item in lock["deps"]}
    assert outcome.outputs == {item["path"]: item["md5"] for item in lock["outs"]}
    assert outcome.outputs["data/raw"] == digests.digest(toy / "data/raw")


def test_old_outputs_are_gone_while_a_stage_runs(toy: Path, ingest: Callable[[], dvc_repo.Outcome]) -> None:
    """No stage can read what it wrote last time."""
    ingest()
    (toy / "tasks/ingest.py").write_text("# another line\n")
    seen: list[bool] = []
    with pytest.raises(KeyError):
        dvc_repo.reproduce("ingest", toy, lambda: seen.append((toy / "data/raw").exists()) or {0: 1}[2])
    assert seen == [False]


def test_a_stage_error_comes_out_as_it_was(toy: Path, ingest: Callable[[], dvc_repo.Outcome]) -> None:
    """The stage's own exception, not DVC's wrapping; and the stage can run afterwards."""

    class OwnError(ValueError):
        pass

    error = OwnError("data/source/demos.jsonl:41: not JSON")

    def fail() -> None:
        raise error

    with pytest.raises(OwnError) as caught:
        dvc_repo.reproduce("ingest", toy, fail)
    assert caught.value is error
    assert ingest().status == "ran"


def test_an_interruption_leaves_no_lock(toy: Path, ingest: Callable[[], dvc_repo.Outcome]) -> None:
    """Ctrl-C in a stage comes through, and the next run goes on."""

    def interrupted() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        dvc_repo.reproduce("ingest", toy, interrupted)
    assert ingest().status == "ran"


def test_a_second_process_is_told_who_works_here(toy: Path, ingest: Callable[[], dvc_repo.Outcome]) -> None:
    """While a stage runs, another process that wants it gets an error with the first one's PID."""
    code = (
        "import sys; from pathlib import Path; from tasks.versioning import dvc_repo\n"
        "dvc_repo.reproduce('ingest', Path(sys.argv[1]), lambda: None)"
    )

    def compete() -> None:
        # -P, for the toy, in which this process works now, has a package called tasks too
        command = [sys.executable, "-P", "-c", code, str(toy)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert "BusyError" in done.stderr
        assert f"PID {os.getpid()}" in done.stderr
        assert "rwlock" in done.stderr
        raise InterruptedError("seen")

    with pytest.raises(InterruptedError, match="seen"):
        dvc_repo.reproduce("ingest", toy, compete)


def test_stale_names_what_a_night_would_run(toy: Path, ingest: Callable[[], dvc_repo.Outcome]) -> None:
    """All stages at first, in order; then those that never ran."""
    assert dvc_repo.stale(toy) == list(VERSIONED)
    ingest()
    assert dvc_repo.stale(toy) == list(VERSIONED)[1:]


def test_what_a_team_added_with_dvc_add_is_no_stage(toy: Path) -> None:
    """A pointer below data/source is an input; only stages are told, brought up to date and recorded."""
    (toy / "data/source/demos.jsonl").write_text("{}\n")
    subprocess.run([sys.executable, "-m", "dvc", "add", "-q", "data/source/demos.jsonl"], cwd=toy, check=True)
    assert dvc_repo.stale(toy) == list(VERSIONED)
    assert list(dvc_repo.recorded(toy)) == list(VERSIONED)


def test_what_the_cache_holds_of_a_folder_is_found_by_its_digest(
    toy: Path, ingest: Callable[[], dvc_repo.Outcome]
) -> None:
    """Every file by name, with its content; None for a digest or a file that is not there; a remote may have it."""
    digest = ingest().outputs["data/raw"]
    assert dvc_repo.recorded(toy)["ingest"].outputs["data/raw"] == digest
    found = dvc_repo.cached_folder(toy, digest)
    assert found is not None
    assert {name: file.read_text() for name, file in found.items()} == {
        path.name: path.read_text() for path in (toy / "data/raw").iterdir()
    }
    assert dvc_repo.cached_folder(toy, "0" * 32 + ".dir") is None
    found["rows.jsonl"].unlink()
    assert dvc_repo.cached_folder(toy, digest) is None
    assert not dvc_repo.fetch(toy, "data/raw", "HEAD")


def test_git_sees_the_figures_and_no_data(toy: Path, ingest: Callable[[], dvc_repo.Outcome]) -> None:
    """Metrics and dvc.lock can be committed; data stay out and no ignore file changes, also afterwards."""
    ingest()
    assert sorted(line.split()[1] for line in git_status(toy).splitlines()) == [
        "data/metrics/",
        "dvc.lock",
        "ran.txt",
    ]
    git = ["git", "-c", "user.name=toy", "-c", "user.email=toy@example.org"]
    subprocess.run([*git, "add", "-A"], cwd=toy, check=True)
    subprocess.run([*git, "commit", "-qm", "night"], cwd=toy, check=True)
    (toy / "tasks/ingest.py").write_text("# another line\n")
    assert ingest().status == "ran"
    changed = {line.split()[1] for line in git_status(toy).splitlines()}
    assert changed == {"dvc.lock", "ran.txt", "tasks/ingest.py"}


def test_it_works_without_git(toy: Path, ingest: Callable[[], dvc_repo.Outcome]) -> None:
    """An unpacked archive is a workspace too."""
    shutil.rmtree(toy / ".git")
    assert [ingest().status, ingest().status] == ["ran", "cached"]


def test_the_public_command_stands_in_for_the_private_door(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the private door the stage runs through `dvc repro`, with the same outcome."""
    monkeypatch.setattr(dvc_repo, "has_private_door", lambda: False)

    def never() -> None:
        raise AssertionError("the command runs the stage, not the action")

    first = dvc_repo.reproduce("ingest", toy, never)
    assert first.status == "ran"
    assert first.outputs["data/raw"] == digests.digest(toy / "data/raw")
    assert dvc_repo.reproduce("ingest", toy, never).status == "cached"
    shutil.rmtree(toy / "data/raw")
    assert dvc_repo.reproduce("ingest", toy, never).status == "restored"


def test_a_folder_without_dvc_is_refused(tmp_path: Path) -> None:
    """The error names the folder and the remedy."""
    with pytest.raises(FileNotFoundError, match=r"\.dvc: no such folder; .* dvc init"):
        dvc_repo.stale(tmp_path)
