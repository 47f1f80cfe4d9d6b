"""The command as people meet it: a process of its own, its exit code and what it says."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml


def nightjar(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs the command in a folder; -P, for the toy has a package called tasks too."""
    command = [sys.executable, "-P", "-m", "flows", *arguments]
    return subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)


def refused(root: Path, *arguments: str) -> str:
    """What the command says on stderr when it refuses: exit code 1, one message, nothing done."""
    before = sorted(path for path in root.rglob("*") if ".dvc" not in path.parts and ".git" not in path.parts)
    done = nightjar(root, *arguments)
    assert done.returncode == 1, done.stdout + done.stderr
    assert done.stderr.startswith("nightjar: ")
    assert "Traceback" not in done.stderr
    after = sorted(path for path in root.rglob("*") if ".dvc" not in path.parts and ".git" not in path.parts)
    assert after == before
    return done.stderr


@pytest.fixture
def with_presets(toy: Path) -> Path:
    """The toy with a preset that learns from people."""
    (toy / "presets").mkdir()
    text = (toy / "params.yaml").read_text().replace("rank: {}", "rank: {feedback: {train: [rankings/q.jsonl.gz]}}")
    (toy / "presets/people.yaml").write_text(text)
    return toy


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("  steps: 1\n", "  stepz: 1\n", "params.yaml: sft.steps: Field required; sft.stepz: Extra inputs"),
        (
            "  batch_size: 1\n",
            "  batch_size: 0\n",
            "sft.batch_size: Input should be greater than or equal to 1 (found 0)",
        ),
        (
            "1.0e-3\nreward",
            "fast\nreward",
            "sft.learning_rate: Input should be a valid number (found 'fast')",
        ),
        ("pairs: {}\n", "", "params.yaml lacks a section"),
        ("sft:\n", "sft: [\n", "params.yaml: not YAML"),
    ],
)
def test_wrong_params_are_refused_before_anything_starts(toy: Path, old: str, new: str, said: str) -> None:
    """A misspelt param, one out of range, of a wrong type, a missing section, and no YAML at all."""
    params = toy / "params.yaml"
    params.write_text(params.read_text().replace(old, new))
    assert said in refused(toy, "run")


def test_missing_params_name_the_remedy(toy: Path) -> None:
    """No params.yaml: take a preset."""
    (toy / "params.yaml").unlink()
    assert "params.yaml: no such file; copy a preset there with: nightjar preset" in refused(toy, "run")


def test_an_unknown_preset_lists_those_there_are(with_presets: Path) -> None:
    """And leaves the params alone."""
    assert "huge: no such preset; the presets are people" in refused(with_presets, "run", "--preset", "huge")


def test_a_missing_data_folder_or_feedback_file_is_named(with_presets: Path, tmp_path: Path) -> None:
    """The folder, then the file expected in it, then the file expected in place when no folder is given."""
    (with_presets / "params.yaml").write_text((with_presets / "presets/people.yaml").read_text())
    nowhere = tmp_path / "nowhere"
    assert f"{nowhere}: no such folder" in refused(with_presets, "run", "--data", str(nowhere))
    nowhere.mkdir()
    said = refused(with_presets, "run", "--data", str(nowhere))
    assert f"{nowhere}/rankings/q.jsonl.gz: no such file or folder" in said
    assert "data/feedback/rankings/q.jsonl.gz: no such file" in refused(with_presets, "run")


def test_what_the_system_refuses_is_one_line(toy: Path) -> None:
    """A file called nights stands where a night keeps its lock."""
    (toy / "nights").write_text("2 Nov: fine\n")
    assert refused(toy, "run") == f"nightjar: {toy}/nights: a file in the place of a folder; move the file elsewhere\n"


def test_a_stage_without_its_input_names_the_stage_before(toy: Path) -> None:
    """`nightjar stage sft` in a fresh checkout."""
    assert "data/validated/train: not there" in refused(toy, "stage", "sft")


@pytest.mark.parametrize(
    "arguments", [[], ["fly"], ["stage", "fly"], ["seeds", "-1"], ["score"], ["explain", "a", "--top", "0"]]
)
def test_misuse_shows_the_usage_and_exits_2(toy: Path, arguments: list[str]) -> None:
    """No command, an unknown one, an unknown stage, a seed that is none, a missing argument."""
    done = nightjar(toy, *arguments)
    assert done.returncode == 2
    assert "usage: nightjar" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_stage_run_by_dvc_refuses_in_the_same_way(repository: Path, tmp_path: Path) -> None:
    """`python -m tasks sft` without params: one message, exit code 1; an unknown stage is misuse."""
    command = [sys.executable, "-P", "-m", "tasks"]
    done = subprocess.run([*command, "sft"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "params.yaml: no such file" in done.stderr
    done = subprocess.run([*command, "fly"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2


def test_debug_shows_the_traceback(toy: Path) -> None:
    """For whoever looks for a bug behind a message."""
    (toy / "params.yaml").unlink()
    done = nightjar(toy, "--debug", "run")
    assert done.returncode == 1
    assert "Traceback" in done.stderr


def test_params_prints_every_param_with_its_value(toy: Path) -> None:
    """Defaults included, under the names of params.yaml."""
    lines = nightjar(toy, "params").stdout.splitlines()
    assert {
        "sft.steps = 1",
        "validate.dev_share = 0.05",
        "policy.kl.target = null",
        "register.max_kl = 10.0",
    } <= set(lines)


def test_params_marks_what_the_algorithm_does_not_read(toy: Path) -> None:
    """The rule is the table's: a run of grpo has no use for a critic's rate, one of ppo for all."""
    marked = "policy.critic_learning_rate = 0.001    # grpo does not read it"
    assert marked not in nightjar(toy, "params").stdout.splitlines()
    file = toy / "params.yaml"
    sections = yaml.safe_load(file.read_text(encoding="utf-8"))
    sections["policy"] |= {"algorithm": "grpo", "completions": 2}
    file.write_text(yaml.safe_dump(sections), encoding="utf-8")
    lines = nightjar(toy, "params").stdout.splitlines()
    assert marked in lines
    assert {"policy.clip = 0.2", "policy.dpo.beta = 0.1    # grpo does not read it"} <= set(lines)


def test_status_says_how_the_nights_stand_from_any_folder_of_the_workspace(toy: Path) -> None:
    """In a fresh checkout: no night, no champion, the next at 02:00, all of it due; asked from inside data/."""
    done = nightjar(toy / "data", "status")
    assert done.returncode == 0, done.stderr
    champion, following, due = done.stdout.splitlines()
    assert champion.split() == ["champion:", "none", "yet"]
    assert "02:00 UTC, in" in following
    assert due.startswith("it would:   bring up to date ingest, validate, sft, ")


def test_a_preset_is_applied_with_data(with_presets: Path, tmp_path: Path) -> None:
    """`run` first says what it changed; here it then stops, for a stage's section is missing."""
    preset = with_presets / "presets/people.yaml"
    preset.write_text(preset.read_text().replace("pairs: {}\n", "").replace("ingest: {seed: 1}\n", ""))
    preset.write_text(preset.read_text().replace("evaluate: {}\n", "").replace("validate: {}\n", ""))
    for section in ("rollouts", "reward", "policy", "rank"):
        assert f"{section}: {{" in preset.read_text()
    mine = tmp_path / "mine"
    (mine / "rankings").mkdir(parents=True)
    (mine / "rankings/q.jsonl.gz").write_bytes(b"x")
    done = nightjar(with_presets, "run", "--preset", "people", "--data", str(mine))
    assert done.returncode == 1
    assert "your edited params.yaml is kept as params.yaml.bak" in done.stdout
    assert "copied data/feedback/rankings/q.jsonl.gz" in done.stdout
    assert "params.yaml lacks a section" in done.stderr


def test_explain_refuses_before_it_loads_anything(toy: Path) -> None:
    """A control out of range in Sampling's own words, an unknown model to follow, and models that were not made."""
    assert "controls: top_p: Input should be less than or equal to 1 (found 1.5)" in refused(
        toy, "explain", "a", "--top-p", "1.5"
    )
    assert "min_new_tokens is 9, above max_new_tokens 2" in refused(
        toy, "explain", "a", "--min-new-tokens", "9", "--steps", "2"
    )
    assert "found follow best; give one of the models shown: sft, policy" in refused(
        toy, "explain", "a", "--follow", "best"
    )
    assert "data/models/policy: no such model yet; make it with: nightjar stage policy" in refused(
        toy, "explain", "a", "--model", "policy"
    )


def test_explain_prints_and_writes_what_the_options_ask_for(toy: Path) -> None:
    """SFT writes, greedily, two tokens: the text on stdout, the page and the picture where they are asked for."""
    from rlhf.models import build_policy, save_policy
    from rlhf.tokenizers import train_tokenizer

    shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = {"model_type": "llama", "max_position_embeddings": 64, "initializer_range": 0.3, **shape}
    tokenizer = train_tokenizer(["the blue house serves thai food"], 300)
    for seed, name in enumerate(("sft", "policy")):
        save_policy(build_policy(config, tokenizer, seed), toy / "data" / "models" / name)
    options = ["--follow", "sft", "--temperature", "0", "--top-k", "3", "--steps", "2", "--top", "4"]
    done = nightjar(toy, "explain", "the blue house", *options, "--html", "new/a.html", "--png", "a.png")
    assert done.returncode == 0, done.stderr
    assert "sft writes, each time its likeliest token; policy reads the same text" in done.stdout
    assert [line.split()[0:2] for line in done.stdout.splitlines() if line.startswith("step")] == [
        ["step", "1"],
        ["step", "2"],
    ]
    assert "top-k 3" in done.stdout
    assert "temperature" not in done.stdout
    assert (toy / "new/a.html").read_text().startswith("<!doctype html>")
    assert (toy / "a.png").read_bytes().startswith(b"\x89PNG")


def test_what_a_file_holds_does_not_steer_the_terminal(tmp_path: Path) -> None:
    """A system's name in the table, and a value in the message of an error."""
    row = {"references": ["a"], "outputs": {"\x1b[31mred\x9b": "a"}}
    (tmp_path / "f.jsonl").write_text(json.dumps(row) + "\n")
    assert r"\x1b[31mred\x9b" in (said := nightjar(tmp_path, "score", "f.jsonl").stdout)
    assert "\x1b" not in said
    (tmp_path / "f.jsonl").write_text(json.dumps({"references": ["a"], "outputs": {"\x1b[31mred": None}}) + "\n")
    assert r"f.jsonl:1: \x1b[31mred is NoneType; give a text" in refused(tmp_path, "score", "f.jsonl")


def test_a_closed_pipe_ends_a_command_in_silence(tmp_path: Path) -> None:
    """As `nightjar score FILE | head -0` does: with the code of SIGPIPE, and nothing said."""
    (tmp_path / "f.jsonl").write_text('{"references": ["a"], "output": "a"}\n')
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-P", "-m", "flows", "score", "f.jsonl"]
    done = subprocess.run(command, cwd=tmp_path, stdout=writing, stderr=subprocess.PIPE, check=False)
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, b"")


@pytest.mark.parametrize("arguments", [["--help"], ["explain", "--help"], ["params"], ["preset"], ["status"]])
def test_light_commands_import_nothing_heavy(toy: Path, arguments: list[str]) -> None:
    """Help, params, presets and status answer without torch, transformers, MLflow or Prefect."""
    code = (
        "import sys; from flows.cli import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'transformers', 'mlflow', 'prefect', 'pandas', 'evaluate'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    command = [sys.executable, "-P", "-c", code, *arguments]
    done = subprocess.run(command, cwd=toy, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_ctrl_c_ends_with_130_and_one_line(toy: Path) -> None:
    """An interruption is no bug: no traceback."""
    code = (
        "import flows.cli, flows.commands.setup, time, sys\n"
        "flows.commands.setup.read_checked = lambda path: (print('ready', flush=True), time.sleep(30))\n"
        "sys.exit(flows.cli.main(['params']))"
    )
    command = [sys.executable, "-P", "-c", code]
    process = subprocess.Popen(command, cwd=toy, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    time.sleep(0.05)
    os.kill(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=20)
    assert (process.returncode, said.count("Traceback")) == (130, 0)
    assert "nightjar: stopped" in said
