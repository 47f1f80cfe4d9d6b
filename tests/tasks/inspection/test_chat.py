"""Talking to a registered policy: in this process, and with the real command on a real registry."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rlhf.generation import generate
from rlhf.models import Policy, load_policy
from rlhf.records import Message, PromptText, Sampling
from rlhf.settings.model import ComputeSettings
from tasks.inspection.chat import Chat
from tasks.paths import Paths
from tasks.terminal import visible

PROMPT = "name = Blue House, food = Thai"
TEMPLATE = "{% for turn in messages %}{{ turn['role'] }}: {{ turn['content'] }}\n{% endfor %}"
SAMPLING = Sampling(max_new_tokens=5, temperature=0.7, top_p=0.9)


@pytest.fixture
def policy(models: Path) -> Policy:
    """The untrained policy of one layer, without a chat template, with a context of 128 tokens."""
    return load_policy(models / "policy", ComputeSettings(device="cpu"))


def drawn(policy: Policy, prompt: PromptText, seed: int) -> str:
    """What the sampler itself answers."""
    return generate(policy, [prompt], [SAMPLING], [seed])[0].text


def turns(*texts: str) -> list[Message]:
    """A user and an assistant in turn."""
    return [Message(role=("user", "assistant")[place % 2], content=text) for place, text in enumerate(texts)]


def test_without_a_chat_template_each_line_is_a_prompt(policy: Policy) -> None:
    """The n-th answer is drawn with seed + n, so that the same line gets another answer, and nothing is remembered."""
    chat = Chat(policy, SAMPLING, seed=11)
    assert [chat.answer(PROMPT) for _ in range(3)] == [drawn(policy, PROMPT, 11 + place) for place in range(3)]
    assert chat.turns == []


def test_a_chat_model_hears_what_was_said_before(policy: Policy) -> None:
    """Questions and answers alike, in the model's own template."""
    policy.tokenizer.chat_template = TEMPLATE
    chat = Chat(policy, SAMPLING, seed=3)
    first = chat.answer("a")
    assert first == drawn(policy, turns("a"), 3)
    second = chat.answer("b")
    assert second == drawn(policy, turns("a", first, "b"), 4)
    assert second != drawn(policy, turns("b"), 4)
    assert chat.turns == turns("a", first, "b", second)


def test_what_no_longer_fits_is_forgotten_from_the_front(policy: Policy) -> None:
    """Question and answer together; a line that is too long by itself is refused, and what was said stays."""
    policy.tokenizer.chat_template = TEMPLATE
    long = "x " * 20
    chat = Chat(policy, SAMPLING, seed=0, turns=turns("old " * 25, "older", long, "yes"))
    chat.answer("b")
    assert chat.turns[:3] == turns(long, "yes", "b")
    before = list(chat.turns)
    with pytest.raises(ValueError, match="the model's context is 128"):
        chat.answer("x " * 200)
    assert chat.turns == before


def nightjar(root: Path, *arguments: str, said: str) -> subprocess.CompletedProcess[str]:
    """`nightjar chat` with lines piped in, in a shell whose MLflow variables name another database."""
    command = [sys.executable, "-P", "-m", "flows", "chat", *arguments]
    elsewhere = dict.fromkeys(("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI"), f"sqlite:///{root}/elsewhere.db")
    environment = {**os.environ, **elsewhere}
    return subprocess.run(command, cwd=root, env=environment, input=said, capture_output=True, text=True, check=False)


def test_the_command_answers_what_is_piped_in(registered: Paths, policy: Policy) -> None:
    """One line each, nothing else; blank lines are passed over, a last line may lack its end; the controls hold."""
    options = ["--max-new-tokens", "5", "--temperature", "0.7", "--top-p", "0.9", "--seed", "11"]
    done = nightjar(registered.root, *options, said=f"{PROMPT}\n\n{PROMPT}")
    assert done.returncode == 0, done.stderr
    expected = [visible(drawn(policy, PROMPT, seed)) for seed in (11, 12)]
    assert done.stdout == "".join(f"{text}\n" for text in expected)


@pytest.mark.parametrize(
    ("arguments", "said", "error"),
    [
        (["--temperature", "-1"], "a\n", "controls: temperature: Input should be greater than or equal to 0"),
        (["--model", "9"], "a\n", "9: no such version of nightjar-policy; give one of 1"),
        ([], "x " * 300 + "\n", "the model's context is 128"),
    ],
)
def test_what_cannot_be_answered_is_one_message(registered: Paths, arguments: list[str], said: str, error: str) -> None:
    """A control out of range, a version that is not there, and a line longer than the context."""
    done = nightjar(registered.root, *arguments, said=said)
    assert (done.returncode, done.stdout) == (1, "")
    assert error in done.stderr
    assert "Traceback" not in done.stderr


def test_in_a_terminal_it_asks_and_ends_on_ctrl_d(registered: Paths, policy: Policy) -> None:
    """It says who answers, marks where to type, goes on after a line that is too long, and leaves in good order."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-P", "-m", "flows", "chat", "--temperature", "0", "--model", "v1"]
    process = subprocess.Popen(
        command, cwd=registered.root, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True
    )
    os.close(theirs)
    greedy = generate(policy, [PROMPT], [Sampling(temperature=0.0)], [0])[0].text
    try:
        assert "nightjar-policy version 1; Ctrl-D ends" in _read_until(ours, "> ")
        os.write(ours, b"x " * 300 + b"\n")
        assert "the model's context is 128" in _read_until(ours, "prompts\r\n> ")
        os.write(ours, f"{PROMPT}\n".encode())
        assert greedy in " ".join(_read_until(ours, "\r\n> ").split())
        os.write(ours, b"\x04")
        assert process.wait(timeout=60) == 0
    finally:
        process.kill()
        process.wait()
        os.close(ours)


def _read_until(terminal: int, mark: str) -> str:
    """What the terminal shows up to this mark."""
    text, give_up = "", time.monotonic() + 300
    while mark not in text:
        assert time.monotonic() < give_up, text
        text += os.read(terminal, 4096).decode()
    return text
