"""What the system refuses is told in a line: what was met, where, and what to do."""

from __future__ import annotations

import errno
import os
import resource
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tasks.files import append_row, read_records, write_text
from tasks.params.whole import read_params
from tasks.user_errors import MET, message_of


@contextmanager
def without_rights(folder: Path) -> Iterator[None]:
    """As a user who may not read or write the folder: root, whom no right stops, is somebody else for a while."""
    root, mode = os.geteuid() == 0, folder.stat().st_mode
    folder.chmod(0)
    os.seteuid(65534 if root else os.geteuid())
    try:
        yield
    finally:
        os.seteuid(0 if root else os.geteuid())
        folder.chmod(mode)


@contextmanager
def few_files() -> Iterator[None]:
    """With as many files open as this process may have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    opened: list[int] = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))
    try:
        with suppress(OSError):
            while True:
                opened.append(os.open(os.devnull, os.O_RDONLY))
        yield
    finally:
        for file in opened:
            os.close(file)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def denied(root: Path) -> None:
    (root / "data").mkdir()
    (root / "data/x.jsonl").write_text("{}\n")
    with without_rights(root / "data"):
        (root / "data/x.jsonl").read_text()


def unwritable(root: Path) -> None:
    with without_rights(root):
        write_text(root / "x.jsonl", "a")


def full(root: Path) -> None:
    (root / "x.jsonl.partial").symlink_to("/dev/full")
    write_text(root / "x.jsonl", "a")


def folder_for_file(root: Path) -> None:
    (root / "x.jsonl").mkdir()
    write_text(root / "x.jsonl", "a")


def appended_to_folder(root: Path) -> None:
    (root / "x.jsonl").mkdir()
    append_row(root / "x.jsonl", {})


def file_for_folder(root: Path) -> None:
    (root / "data").write_text("a")
    write_text(root / "data/x.jsonl", "a")


def file_far_above(root: Path) -> None:
    (root / "data").write_text("a")
    (root / "data/raw/x.jsonl").read_text()


def circle(root: Path) -> None:
    (root / "x.jsonl").symlink_to("x.jsonl")
    (root / "x.jsonl").read_text()


def too_many(root: Path) -> None:
    with few_files():
        (root / "x.jsonl").write_text("a")


CASES: dict[str, tuple[Callable[[Path], object], str]] = {
    "no right to read": (denied, "{}/data/x.jsonl: permission denied; give this user the right to it (ls -ld shows"),
    "no right to write": (unwritable, ": permission denied; give this user the right to it (ls -ld"),
    "a full disk": (
        full,
        "{}/x.jsonl: no space is left on the disk; free some (df -h shows each disk), then",
    ),
    "a folder for a file": (folder_for_file, "{}/x.jsonl: a folder in the place of a file; move the folder elsewhere"),
    "a folder to add to": (appended_to_folder, "{}/x.jsonl: a folder in the place of a file; move the folder"),
    "a file for a folder": (file_for_folder, "{}/data: a file in the place of a folder; move the file elsewhere"),
    "a file for a folder above": (file_far_above, "{}/data: a file in the place of a folder; move the file elsewhere"),
    "a link to itself": (
        circle,
        "{}/x.jsonl: a link that leads back to itself; remove the link, and put the file",
    ),
    "too many open files": (
        too_many,
        "{}/x.jsonl: too many files are open; raise the limit (ulimit -n 4096), then",
    ),
    "a long name": (lambda root: write_text(root / ("x" * 300), "a"), ": a name longer than the disk can keep; give a"),
    "no such file": (lambda root: (root / "x").read_text(), "{}/x: no such file or folder; put it there, or name"),
    "a folder that is gone": (lambda root: shutil.copytree(root / "y", root / "z"), "{}/y: no such file or folder"),
    "a message of our own": (
        lambda root: read_params(root / "p.yaml"),
        "{}/p.yaml: no such file; copy",
    ),
}


@pytest.mark.parametrize(("act", "message"), CASES.values(), ids=CASES)
def test_what_the_system_refuses_is_one_line_with_the_remedy(
    tmp_path: Path, act: Callable[[Path], object], message: str
) -> None:
    """Raised by the system itself; without its number, and with the file or folder that is in the way."""
    with pytest.raises(OSError) as caught:  # noqa: PT011 - the message is looked at below
        act(tmp_path)
    shown = message_of(caught.value)
    assert shown is not None
    assert message.format(tmp_path) in shown
    assert shown.count("\n") == 0
    assert "Errno" not in shown


@pytest.mark.parametrize("number", sorted(MET))
def test_every_number_is_told_also_where_the_system_names_no_file(number: int) -> None:
    """The message then opens with what was met; of a file given by its number nothing is told."""
    for error in (OSError(number, os.strerror(number)), OSError(number, os.strerror(number), 3)):
        assert message_of(error) == "; ".join(MET[number])


def test_what_is_no_user_s_error_keeps_its_traceback() -> None:
    """A child that is gone, a library's error without a number, a defect; ours are shown as they stand."""
    defects = (ChildProcessError(errno.ECHILD, "x"), OSError("not a model"), KeyError("x"), RuntimeError("x"))
    assert [*map(message_of, defects)] == [None] * 4
    for error in (ValueError("a: b; do c"), FileNotFoundError("a: b; do c"), ConnectionError("a: b; do c")):
        assert message_of(error) == "a: b; do c"


def test_a_record_s_file_that_is_a_folder_is_told_as_before(tmp_path: Path) -> None:
    """By the reader's own message."""
    from rlhf.records import Prompt

    with pytest.raises(FileNotFoundError) as caught:
        read_records(tmp_path, Prompt)
    assert message_of(caught.value) == str(caught.value)
