"""What people are shown steers no terminal, and ends in good order where nobody reads it."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tasks.terminal import visible


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[2J\x1b]0;title\x07", r"\x1b[2J\x1b]0;title\x07"),
        ("\x9b31m", r"\x9b31m"),  # CSI as one character of C1
        ("all well\rFAILED  ", r"all well\rFAILED  "),  # a carriage return writes over what stands there
        ("a\x08b\x7f\x00", r"a\x08b\x7f\x00"),
        ("abc\u202egnp.exe\u2066", r"abc\u202egnp.exe\u2066"),  # shown as abcexe.png
        ("half \ud83d", r"half \ud83d"),  # which no stream can encode
        ("tab\tand\nline, é 😀 \u200b\\x1b", "tab\tand\nline, é 😀 \u200b\\x1b"),
    ],
)
def test_control_characters_are_shown_and_all_else_is_as_it_is(text: str, shown: str) -> None:
    """C0, C1 and DEL by their escapes; twice is once."""
    assert visible(text) == shown
    assert visible(shown) == shown


def test_a_traceback_does_not_steer_the_terminal() -> None:
    """Its message may quote the data."""
    code = "from tasks import environment; environment.prepare(); raise RuntimeError('\\x1b[2J of a row')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.endswith("RuntimeError: \\x1b[2J of a row\n")
