"""Errors that people can put right, each as one message: what was met, where, and what to do; imports nothing heavy."""

from __future__ import annotations

import errno
import os
from pathlib import Path

USER_ERRORS = (ValueError, OSError)
"""What may be one; `message_of` knows."""
_FULL = ("no space is left on the disk", "free some (df -h shows each disk), then run again")
_RIGHTS = ("permission denied", "give this user the right to it (ls -ld shows who has it), or run as its owner")
_TOO_MANY = ("too many files are open", "raise the limit (ulimit -n 4096), then run again")
MET = {
    errno.ENOENT: ("no such file or folder", "put it there, or name another"),
    errno.EACCES: _RIGHTS,
    errno.EPERM: _RIGHTS,
    errno.EROFS: ("a disk that can only be read", "work in a folder on another, or have it mounted for writing"),
    errno.EISDIR: ("a folder in the place of a file", "move the folder elsewhere"),
    errno.ENOTDIR: ("a file in the place of a folder", "move the file elsewhere"),
    errno.EEXIST: ("a file in the place of a folder", "move the file elsewhere"),
    errno.ELOOP: ("a link that leads back to itself", "remove the link, and put the file there"),
    errno.ENAMETOOLONG: ("a name longer than the disk can keep", "give a shorter one"),
    errno.ENOSPC: _FULL,
    errno.EDQUOT: ("the disk's quota is used up", "free some space, or have the quota raised"),
    errno.EMFILE: _TOO_MANY,
    errno.ENFILE: _TOO_MANY,
    errno.EIO: ("the disk cannot be read or written", "look for its faults (dmesg), and take another"),
}
"""By the system's number of an error, what was met and what to do."""


def message_of(error: BaseException) -> str | None:
    """What people are shown of an error without its traceback; None where that is wanted, for it is a defect of ours.

    Messages of our own are shown as they are; those of the system get what to do.
    """
    if isinstance(error, OSError) and error.errno in MET:
        what, remedy = MET[error.errno]
        return f"{_where(error)}{what}; {remedy}"
    return str(error) if isinstance(error, ValueError | FileNotFoundError | ConnectionError) else None


def _where(error: OSError) -> str:
    """The file or folder in the way, for the start of a message; empty where the system does not say."""
    name = error.filename if error.filename2 is None else error.filename2  # of two, where to
    if not isinstance(name, str | bytes | os.PathLike):
        return ""
    path = Path(os.fsdecode(name))
    if error.errno == errno.ENOTDIR:  # it names what should be below
        above = (path, *path.parents)
        path = next((each for each in above if os.path.exists(each) and not os.path.isdir(each)), path)
    return f"{path}: "
