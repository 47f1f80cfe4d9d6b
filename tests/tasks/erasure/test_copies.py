"""Files that hold a row or its texts, whatever their format."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import sqlite3
from contextlib import closing
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from tasks.erasure import copies
from tasks.erasure.request import Request, key_of_text
from tasks.reports import canaries
from tasks.reports.page import SideBySide, comparison_page

TEXT = 'Where is "Elm" & Co.? <b>'
ASKED = Request("row", "d1", texts=frozenset({key_of_text(TEXT)}))
ROWS = b'{"id": "d1"}\n{}'
CANARY = {"prompt": TEXT, "policy": "No.", "champion": None, "version": None}


def parquet(ids: list[str]) -> bytes:
    sink = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table({"id": ids, "at": [1.5] * len(ids)}), sink)
    return sink.getvalue()


TABLE = {"columns": ["id", "text"], "data": [["x", TEXT]]}


@pytest.mark.parametrize(
    ("name", "content", "held"),
    [
        ("a.jsonl", b'{"id": "d2"}\n{"id": "d1"}\n', True),
        ("a.jsonl", b'{"id": "d2"}\n{"id": "d10"}\n', False),
        ("object", b'{"id": "d1"}\nbroken\n', True),
        ("a.jsonl.gz", gzip.compress(ROWS, mtime=0), True),
        ("packed", bz2.compress(ROWS), True),
        ("packed", lzma.compress(ROWS), True),
        ("packed", pyarrow.compress(ROWS, codec="zstd", asbytes=True), True),
        ("table", parquet(["d0", "d1"]), True),
        ("table", parquet(["d0", "d2"]), False),
        ("canaries.md", canaries.markdown([CANARY]).encode(), True),
        ("table.json", json.dumps(TABLE).encode(), True),
        ("example.json", json.dumps({"dataframe_split": {"columns": ["prompt"], "data": [[TEXT]]}}).encode(), True),
        ("cells.json", json.dumps({"columns": ["r"], "data": [[json.dumps([TEXT])]]}).encode(), True),
        ("part.json", json.dumps({"text": f"{TEXT} and more"}).encode(), False),
        ("a.csv", b'id,prompt\nd1,"two\nlines"\n', True),
        ("a.csv", b"id,prompt\nd2,one\n", False),
        ("page.html", b"<p>Where is &quot;Elm&quot; &amp; Co.? &lt;b&gt;</p>", True),
        ("weights", b'\x00\x01{"id": "d1"}', False),
        *(("broken", sign + b"and nothing of the kind", False) for sign in copies.COMPRESSED),
        ("broken", b"PAR1 and nothing of the kind", False),
        ("latin", b"caf\xe9", False),
        ("empty", b"", False),
    ],
)
def test_a_file_is_read_as_what_it_is(tmp_path: Path, name: str, content: bytes, held: bool) -> None:
    """A name says nothing: DVC's cache has none."""
    (tmp_path / name).write_bytes(content)
    assert copies.holds(tmp_path / name, ASKED) is held


def test_links_are_no_copies(tmp_path: Path) -> None:
    """What they lead to is looked at where it lies, or is not this workspace's."""
    (tmp_path / "a").write_text('{"id": "d1"}')
    (tmp_path / "b").symlink_to(tmp_path / "a")
    assert copies.holding(copies.files_below(tmp_path, tmp_path / "none"), ASKED) == [tmp_path / "a"]


def test_a_prompt_is_found_by_its_id_in_a_copy(tmp_path: Path) -> None:
    """Where the sources have it no more."""
    (tmp_path / "a").write_text('{"id": "p1", "prompt": "Who?"}\n{"id": "p2", "prompt": "What?"}\n')
    assert copies.prompts([tmp_path / "a"], Request("prompt", "p1")).prompts == {"who?"}
    assert [row["id"] for row in copies.matching(tmp_path / "a", Request("row", "p2"))] == ["p2"]


def test_the_page_of_completions_is_read(tmp_path: Path) -> None:
    """As it really is written: prompt, references and completions in cells."""
    row = SideBySide("Who?", [TEXT], {"sft": "a", "policy": "b"}, {})
    (tmp_path / "page.html").write_text(comparison_page([row]), encoding="utf-8")
    assert copies.holds(tmp_path / "page.html", ASKED)
    assert not copies.holds(tmp_path / "page.html", Request("row", "d1", texts=frozenset({"where is elm & co.?"})))


def test_what_a_database_quotes_is_counted_by_column(tmp_path: Path) -> None:
    """Texts, and texts in JSON; other tables and numbers are left out."""
    with closing(sqlite3.connect(tmp_path / "a.db")) as connection, connection:
        connection.execute("CREATE TABLE log (id INTEGER, message TEXT)")
        connection.execute("CREATE TABLE metrics (key TEXT)")
        connection.executemany("INSERT INTO log VALUES (?, ?)", [(1, f"row: {TEXT}"), (2, json.dumps({"a": TEXT}))])
        connection.executemany("INSERT INTO log VALUES (?, ?)", [(3, "nothing"), (4, None)])
        connection.execute("INSERT INTO metrics VALUES (?)", [TEXT])
    assert copies.quoting(tmp_path / "a.db", ASKED) == ["log.message: 2 rows", "metrics.key: 1 rows"]
    assert copies.quoting(tmp_path / "a.db", ASKED, ["metrics"]) == ["log.message: 2 rows"]
    assert copies.quoting(tmp_path / "none.db", ASKED) == []
