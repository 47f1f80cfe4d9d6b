"""The sources' files without some rows: every format, every other byte, and all files or none."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
from collections.abc import Callable
from datetime import date
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from tasks.erasure import sources
from tasks.erasure.request import Request
from tasks.paths import Paths
from tasks.sources import files

Pack = Callable[[bytes], bytes]


def zstandard(content: bytes) -> bytes:
    sink = pyarrow.BufferOutputStream()
    with pyarrow.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(content)
    return bytes(sink.getvalue())


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    """A workspace whose sources are empty."""
    for folder in ("source", "feedback"):
        (tmp_path / "data" / folder).mkdir(parents=True)
    return Paths(tmp_path)


def without(paths: Paths, name: str, content: bytes, asked: Request) -> bytes | None:
    """A file's bytes without what was asked for."""
    (paths.source / name).write_bytes(content)
    [file] = sources.read(paths)[0]
    return file.without(file.chosen(asked))


def test_all_other_lines_stay_byte_for_byte(paths: Paths) -> None:
    """A byte order mark, spaces, other ends of lines, characters written as escapes."""
    content = b'\xef\xbb\xbf{"id": "a",  "prompt": "\\u00e9"}\r\n{"id": "b", "prompt": ""}\n{"id":"c","prompt":"x"}'
    assert without(paths, "a.jsonl", content, Request("row", "b")) == (
        b'\xef\xbb\xbf{"id": "a",  "prompt": "\\u00e9"}\r\n{"id":"c","prompt":"x"}'
    )


def test_a_row_of_a_table_may_run_over_lines(paths: Paths) -> None:
    """The header stays, and so does a quoted cell of another row."""
    content = b'id,prompt,annotator\na,"one\ntwo",ana\nb,"three\nfour",bo\nc,five,ana\n'
    assert without(paths, "a.csv", content, Request("annotator", "ana")) == (
        b'id,prompt,annotator\nb,"three\nfour",bo\n'
    )


@pytest.mark.parametrize(
    ("name", "content", "left"),
    [
        (
            "a.jsonl",
            b'{"prompt": "1"}\n{"prompt": "2"}\n{"prompt": "3"}\n',
            b'{"prompt": "1"}\n\n{"prompt": "3"}\n',
        ),
        ("a.csv", b'prompt\n"o\nne"\ntwo\n', b"prompt\n\n\ntwo\n"),
    ],
)
def test_ids_that_are_made_from_lines_stay_those_of_their_rows(
    paths: Paths, name: str, content: bytes, left: bytes
) -> None:
    """Empty lines stand for what has gone: a-3 is a-3 afterwards, or a second request would take another row."""
    assert without(paths, name, content, Request("row", "a-2")) == left
    (paths.source / name).write_bytes(left)
    [file] = sources.read(paths)[0]
    assert "a-2" not in [row.values["id"] for row in file.rows]
    assert file.rows[-1].values["id"] in ("a-3", "a-4")


@pytest.mark.parametrize(
    ("end", "pack", "unpack"),
    [
        (".gz", gzip.compress, gzip.decompress),
        (".bz2", bz2.compress, bz2.decompress),
        (".xz", lzma.compress, lzma.decompress),
        (".zst", zstandard, lambda content: pyarrow.input_stream(io.BytesIO(content), compression="zstd").read()),
    ],
)
@pytest.mark.parametrize(
    ("suffix", "content", "left"),
    [
        (".ndjson", b'{"id": "a", "prompt": "1"}\n{"id": "b",  "prompt": "2"}\n', b'{"id": "b",  "prompt": "2"}\n'),
        (".TSV", b"id\tprompt\na\t1\nb\t2, 3\n", b"id\tprompt\nb\t2, 3\n"),
    ],
)
def test_what_is_compressed_stays_so_and_is_the_same_each_time(
    paths: Paths, suffix: str, content: bytes, left: bytes, end: str, pack: Pack, unpack: Pack
) -> None:
    """No time is in it, so that DVC sees one content; the name may be in capitals."""
    packed = without(paths, f"a{suffix}{end}", pack(content), Request("row", "a"))
    assert packed is not None
    assert unpack(packed) == left
    assert packed == without(paths, f"a{suffix}{end}", pack(content), Request("row", "a"))


def test_whatever_can_be_unpacked_can_be_packed() -> None:
    """A way to compress that is added is written too, or a rewritten file would not be what its name says."""
    assert {"", *sources.PACKERS} == files.OPENERS.keys()


TABLE = pyarrow.table(
    {"prompt": ["1", "2", "3"], "annotator": [7, 8, 7], "when": [date(2026, 1, day) for day in (1, 2, 3)]}
).replace_schema_metadata({"team": "support"})


def parquet(table: pyarrow.Table) -> bytes:
    sink = io.BytesIO()
    pyarrow.parquet.write_table(table, sink, compression="zstd")
    return sink.getvalue()


def test_parquet_keeps_its_types_and_every_other_row_its_id(paths: Paths) -> None:
    """It has no empty lines, so the ids that were made are written down: a second request takes no other row."""
    content = without(paths, "a.parquet", parquet(TABLE), Request("row", "a-1"))
    assert content is not None
    table = pyarrow.parquet.read_table(io.BytesIO(content))
    assert table.drop_columns("id").equals(TABLE.slice(1))
    assert table.schema.metadata[b"team"] == b"support"
    assert table["id"].to_pylist() == ["a-2", "a-3"]
    assert pyarrow.parquet.read_metadata(io.BytesIO(content)).row_group(0).column(0).compression == "ZSTD"
    (paths.source / "a.parquet").write_bytes(content)
    [file] = sources.read(paths)[0]
    assert file.chosen(Request("row", "a-1")) == []
    assert [row.values["when"] for row in file.chosen(Request("row", "a-2"))] == ["2026-01-02"]


def test_parquet_with_ids_of_its_own_gets_none(paths: Paths) -> None:
    """Numbers are taken for ids and annotators, as everywhere; a column with gaps is filled with made ones."""
    content = without(paths, "a.parquet", parquet(TABLE.append_column("id", [[5, 6, 9]])), Request("annotator", "7"))
    assert content is not None
    assert pyarrow.parquet.read_table(io.BytesIO(content)).equals(TABLE.append_column("id", [[5, 6, 9]]).slice(1, 1))
    content = without(paths, "a.parquet", parquet(TABLE.append_column("id", [[5, None, 9]])), Request("row", "5"))
    assert content is not None
    assert pyarrow.parquet.read_table(io.BytesIO(content))["id"].to_pylist() == ["a-2", "9"]


def test_a_file_without_a_row_left_goes(paths: Paths) -> None:
    """An empty one would stop the night."""
    assert without(paths, "a.jsonl", b'{"id": "a"}\n', Request("row", "a")) is None


def test_what_cannot_be_read_is_refused_by_file_and_line(paths: Paths) -> None:
    """Nobody can say whose such a row is; all of them are named."""
    (paths.source / "a.jsonl").write_bytes(b'{"id": "a"}\nnot JSON\n')
    (paths.feedback / "b.jsonl.gz").write_bytes(b"no gzip")
    (paths.source / "c.csv").write_bytes(b"prompt\n\xff\n")
    with pytest.raises(ValueError, match=r"(?s)3 malformed rows.*a.jsonl:2: not JSON.*c.csv:2: not UTF-8.*b.jsonl.gz"):
        sources.read(paths)


def test_other_formats_are_named(paths: Paths) -> None:
    """Notes and DVC's pointers are none."""
    for name in ("old.zip", "README.md", "a.jsonl.dvc", ".hidden"):
        (paths.source / name).write_text("x")
    assert sources.read(paths) == ([], ["data/source/old.zip"])


def test_a_link_to_elsewhere_is_refused(paths: Paths, tmp_path: Path) -> None:
    """A file, and a folder of files: what lies outside is for its owner to change."""
    (tmp_path / "lake").mkdir()
    (tmp_path / "lake" / "a.jsonl").write_text('{"id": "a"}\n')
    (paths.source / "a.jsonl").symlink_to(tmp_path / "lake" / "a.jsonl")
    (paths.source / "linked").symlink_to(tmp_path / "lake")
    files = sources.read(paths)[0]
    assert [file.shown for file in files] == ["data/source/a.jsonl", "data/source/linked/a.jsonl"]
    for file in files:
        with pytest.raises(ValueError, match=f"{file.shown}: a link to .*lake/a.jsonl; put the file itself there"):
            sources.check(paths, [file])


def test_a_link_to_the_folder_that_it_is_in_is_refused(paths: Paths) -> None:
    """As validate refuses it; following it would find the same rows again and again."""
    (paths.feedback / "again").symlink_to(paths.feedback)
    for search in (sources.read, sources.recover):
        with pytest.raises(ValueError, match=r"again: a link to .*, a folder that it is in; remove the link"):
            search(paths)


def test_all_files_change_or_none(paths: Paths) -> None:
    """An error within sets them back: also the one that was removed; nothing else is left in the folder."""
    first, second = paths.source / "a.jsonl", paths.source / "b.jsonl"
    first.write_text('{"id": "a"}\n{"id": "b"}\n')
    first.chmod(0o640)
    second.write_text('{"id": "a"}\n')
    before = first.read_text(), second.read_text()
    chosen = [(file, file.chosen(Request("row", "a"))) for file in sources.read(paths)[0]]

    def fail() -> None:
        with sources.rewritten(chosen):
            assert (first.read_text(), second.exists()) == ('{"id": "b"}\n', False)
            raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        fail()
    assert (first.read_text(), second.read_text()) == before
    with sources.rewritten(chosen):
        pass
    assert [path.name for path in paths.source.iterdir()] == ["a.jsonl"]
    assert (first.read_text(), first.stat().st_mode & 0o777) == ('{"id": "b"}\n', 0o640)


def test_what_a_killed_process_left_is_set_back(paths: Paths) -> None:
    """Killed before the file was replaced (two names of one file), after it, after its removal; halves go."""
    for name, now in (("a", "old"), ("b", "new"), ("c", None)):
        file = paths.feedback / f"{name}.jsonl"
        file.write_text("old")
        (paths.feedback / f"{name}.jsonl{sources.OLD}").hardlink_to(file)
        if now != "old":
            file.unlink()
        if now == "new":
            file.write_text(now)
    (paths.source / f"d.jsonl{sources.NEW}").write_text("half")
    assert sources.recover(paths) == [f"data/feedback/{name}.jsonl" for name in "abc"]
    assert {path.name: path.read_text() for path in paths.feedback.iterdir()} == dict.fromkeys(
        ["a.jsonl", "b.jsonl", "c.jsonl"], "old"
    )
    assert list(paths.source.iterdir()) == []
