"""Registered models, loaded as a stranger would: another process, another folder, over HTTP."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from rlhf.records import Sampling
from tasks.files import write_rows
from tasks.params.whole import read_params
from tasks.paths import Paths
from tasks.serving.package import package
from tasks.tracking import mlflow_store, tracker
from tests.ports import reserved_ports

PROMPT = "name = Blue House, food = Thai"
CONTROLS = {"max_new_tokens": 5, "temperature": 0.7, "top_k": 20, "top_p": 0.9, "seed": 11}


def expected(models: Path, prompts: list[str]) -> list[dict[str, str]]:
    """What the sampler itself draws from the checkpoint, row i with seed 11 + i."""
    from rlhf.generation import generate
    from rlhf.models import load_policy

    sampling = Sampling(max_new_tokens=5, temperature=0.7, top_k=20, top_p=0.9)
    seeds = [11 + row for row in range(len(prompts))]
    drawn = generate(load_policy(models / "policy"), prompts, [sampling] * len(prompts), seeds)
    return [{"completion": each.text, "finish_reason": each.finish_reason} for each in drawn]


def environment(paths: Paths) -> dict[str, str]:
    """A process that knows the registry, not the checkout, and that may unpickle nothing."""
    return {
        **{
            name: value for name, value in os.environ.items() if name != "PYTHONPATH" and not name.startswith("MLFLOW_")
        },
        "MLFLOW_TRACKING_URI": mlflow_store.database_uri(paths),
        "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    }


def test_models_load_again_in_another_process_and_folder(registered: Paths, models: Path, tmp_path: Path) -> None:
    """By alias, with the code that was logged beside them, and they answer as the checkpoints do."""
    from rlhf.reward import load_reward_model

    script = """
import json, sys
import mlflow
policy = mlflow.pyfunc.load_model("models:/nightjar-policy@champion")
reward = mlflow.pyfunc.load_model("models:/nightjar-reward@champion")
prompt, controls = sys.argv[1], json.loads(sys.argv[2])
drawn = policy.predict([{"prompt": prompt}, {"prompt": prompt}], params=controls)
scores = reward.predict([{"prompt": prompt, "completion": text} for text in ("Thai food.", "x")])
print(json.dumps([drawn.to_dict("records"), scores["score"].tolist(), sys.modules["rlhf"].__file__]))
"""
    done = subprocess.run(
        [sys.executable, "-c", script, PROMPT, json.dumps(CONTROLS)],
        cwd=tmp_path,
        env=environment(registered),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    drawn, scores, code = json.loads(done.stdout.splitlines()[-1])
    assert drawn == expected(models, [PROMPT, PROMPT])
    assert drawn[0] != drawn[1]
    direct = load_reward_model(models / "reward").score([PROMPT, PROMPT], ["Thai food.", "x"])
    assert scores == pytest.approx(direct.tolist(), abs=1e-5)
    assert Path(code).is_relative_to(registered.mlruns)


def test_a_model_answers_over_http(registered: Paths, models: Path, tmp_path: Path) -> None:
    """`mlflow models serve` on this machine alone: the same completions, and a bad control is refused."""
    command = [sys.executable, "-m", "mlflow", "models", "serve", "--env-manager", "local"]
    command += ["--host", "127.0.0.1", "-m", "models:/nightjar-policy@champion"]
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    with (tmp_path / "log").open("w") as log, reserved_ports(1) as [port]:
        server = subprocess.Popen(
            [*command, "--port", str(port)],
            cwd=tmp_path,
            env={**environment(registered), "PATH": path},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        try:
            _wait(f"http://127.0.0.1:{port}/ping", server, tmp_path / "log")
            url = f"http://127.0.0.1:{port}/invocations"
            answer = _post(url, {"dataframe_records": [{"prompt": PROMPT}], "params": CONTROLS})
            assert answer["predictions"] == expected(models, [PROMPT])
            with pytest.raises(urllib.error.HTTPError):
                _post(url, {"dataframe_records": [{"prompt": PROMPT}], "params": {"temperature": -1.0}})
        finally:
            os.killpg(server.pid, signal.SIGTERM)  # the server and its worker: the group that it leads
            server.wait(timeout=30)


def test_a_chat_policy_is_asked_with_messages(tracked: Paths, models: Path) -> None:
    """Where the held-out prompts are chats, the signature asks for role and content, and the model answers."""
    import mlflow

    from rlhf.models import load_policy, save_policy

    chat = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Where to eat?"}]
    policy = load_policy(models / "policy")
    policy.tokenizer.chat_template = "{% for turn in messages %}{{ turn['content'] }}\n{% endfor %}"
    save_policy(policy, tracked.models / "policy")
    write_rows(tracked.validated / "test" / "prompts.jsonl", [{"id": "1", "prompt": chat}])
    with tracker.stage("register", tracked, read_params(tracked.root / "params.yaml")) as run:
        _, uri = mlflow_store.log_pyfunc(tracked, run.run_id, "chat", **package("policy", tracked))
    model = mlflow.pyfunc.load_model(uri)
    answer = model.predict([{"prompt": chat}], params={"max_new_tokens": 3})
    assert answer["finish_reason"].tolist() == ["length"]
    with pytest.raises(mlflow.MlflowException, match="prompt"):
        model.predict([{"prompt": [{"role": "user"}]}])


def test_the_logged_model_says_what_it_takes(registered: Paths) -> None:
    """Signature, defaults and an input example stand in the registry, and requirements are pinned."""
    import mlflow

    client = mlflow_store.open_client(registered)
    mlflow.set_tracking_uri(mlflow_store.database_uri(registered))
    source = client.get_model_version_by_alias("nightjar-policy", "champion").source
    info = mlflow.models.get_model_info(source)
    assert info.signature.inputs.input_names() == ["prompt"]
    assert info.signature.outputs.input_names() == ["completion", "finish_reason"]
    defaults = {each.name: each.default for each in info.signature.params}
    assert defaults == {"max_new_tokens": 64, "temperature": 1.0, "top_k": 0, "top_p": 1.0, "seed": 0}
    folder = Path(mlflow.artifacts.download_artifacts(source))
    example = json.loads((folder / "input_example.json").read_text())
    assert (example["columns"], example["data"]) == (["prompt"], [[PROMPT], [PROMPT]])  # the first two held-out prompts
    pinned = (folder / "requirements.txt").read_text().split()
    assert "torch==2.13.0" in pinned
    assert all("==" in line for line in pinned)


def _wait(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(240):
        assert server.poll() is None, log.read_text()
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except OSError:
            time.sleep(0.25)
    raise AssertionError(f"the server did not answer in a minute: {log.read_text()}")


def _post(url: str, body: dict[str, Any]) -> Any:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)
