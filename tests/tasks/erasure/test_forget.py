"""Forgetting carried out: what is gone, what stays, what is recorded, and that a failure changes nothing."""

from __future__ import annotations

import getpass
import gzip
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flows import cli
from flows.commands import scheduling
from tasks.erasure import forget, planning, records, sources
from tasks.erasure.plan import Plan
from tasks.erasure.request import Kind, Request
from tasks.files import write_json
from tasks.params.whole import Params
from tasks.paths import Paths
from tasks.registry import decisions, lineage, rollback, versions
from tasks.reports import canaries
from tasks.reproducibility import experiments
from tasks.scheduling import lock, status
from tasks.tracking import mlflow_store
from tasks.versioning import dvc_repo

SECRET = "My flat in Elm Street 9 has no heating"


def forgotten(paths: Paths, params: Params, kind: Kind, name: str) -> Plan:
    """What was planned and carried out."""
    planned = planning.make(paths, params, Request(kind, name))
    assert forget.carry_out(paths, params, planned, "max", "a letter") == []
    return planned


def holders(read: dict[str, bytes], text: str) -> list[str]:
    """The files in which a text stands."""
    return [name for name, content in read.items() if text.encode() in content]


def test_a_row_goes_from_everywhere(
    nights: Paths, nights_params: Params, everything: Callable[[], dict[str, bytes]]
) -> None:
    """Source, stages' outputs, DVC's cache and MLflow; what others gave stays, byte for byte; the ranking of it too."""
    assert holders(everything(), "We send someone")
    forgotten(nights, nights_params, "row", "d2")
    after = everything()
    assert holders(after, "We send someone") == []
    assert after["data/source/support/train.jsonl"].decode().count("\n") == 1
    assert b'"d1"' in after["data/source/support/train.jsonl"]
    assert b'"r2"' in after["data/feedback/march.jsonl"]  # a ranking is another row
    assert not (nights.root / "data/validated/train").exists()
    assert not nights.models.joinpath("policy").exists()  # it learnt from it
    assert (nights.root / "data/validated/feedback/march.jsonl").is_file()


def test_a_prompt_goes_with_all_that_was_said_of_it(
    nights: Paths, nights_params: Params, everything: Callable[[], dict[str, bytes]]
) -> None:
    """Its text is what tells: the ranking of it has no id in common with it."""
    forgotten(nights, nights_params, "prompt", "d2")
    after = everything()
    assert holders(after, SECRET) == []
    assert after["data/feedback/march.jsonl"].count(b"\n") == 1
    assert dvc_repo.stale(nights.root)[:2] == ["ingest", "validate"]  # the next night has something to do


def test_a_person_goes_by_name_too(
    nights: Paths, nights_params: Params, everything: Callable[[], dict[str, bytes]]
) -> None:
    """Rankings, pairs made of them, and the name in the registry and its cards; demonstrations of others stay."""
    forgotten(nights, nights_params, "annotator", "ana")
    after = everything()
    assert holders(after, '"ana"') == []
    assert holders(after, "by ana") == []
    assert holders(after, '"Soon."') == []  # the pairs have no annotator here, and no id
    assert b'"d2"' in after["data/source/support/train.jsonl"]
    version = mlflow_store.open_client(nights).get_model_version("nightjar-policy", "2")
    assert "ana" not in version.description + version.tags["annotators"]
    assert version.tags["annotators"] == '{"bo": 1, "forgotten": 1}'


@pytest.mark.parametrize(("kind", "name"), [("row", "d2"), ("prompt", "d2"), ("annotator", "ana")])
def test_what_learnt_is_retired_and_what_did_not_serves_on_request(
    nights: Paths, nights_params: Params, kind: Kind, name: str
) -> None:
    """Both models lose both aliases; version 1 is free of it, and a rollback leads there and not back."""
    planned = forgotten(nights, nights_params, kind, name)
    assert (planned.champion, planned.back) == (2, 1)
    client = mlflow_store.open_client(nights)
    for model in ("nightjar-policy", "nightjar-reward"):
        assert client.get_registered_model(model).aliases == {}
        assert client.get_model_version(model, "2").tags["retired"].endswith(": a letter")
        assert "retired" not in client.get_model_version(model, "1").tags
    assert versions.champion_of(client, "nightjar") is None
    assert status.champion(nights, "nightjar").startswith("none: version 2 was, and was retired (20")
    with pytest.raises(ValueError, match=r"version 2 was retired .*a letter.*name another one"):
        rollback.roll_back(nights, "nightjar", "2", "")
    with pytest.raises(ValueError, match="version 2 was retired"):
        experiments.find(nights, nights_params, "2")
    assert "retired: " in lineage.render(lineage.trace(client, versions.get_policy(client, "nightjar", "2")))
    done = rollback.roll_back(nights, "nightjar", "1", "until tonight")
    assert (done.champion_before, done.champion_after) == (None, 1)
    assert versions.champion_of(client, "nightjar").version == 1
    assert not (nights.nights / "register.done.json").exists()  # a night decides again, whatever else is due


def test_the_record_says_all_but_what_was_forgotten(nights: Paths, nights_params: Params) -> None:
    """Who, when, what and why, with digests of ids that whoever knows them can check."""
    planned = forgotten(nights, nights_params, "prompt", "d2")
    [record] = records.read(nights)
    assert (record.who, record.why, record.kind) == ("max", "a letter", "prompt")
    assert record.id_digest == hashlib.sha256(b"d2").hexdigest()
    assert record.ids == hashlib.sha256(b"d2\nr2").hexdigest()
    assert record.rows == {"data/source": 1, "data/feedback": 1}
    assert record.retired == ["nightjar-policy version 2", "nightjar-reward version 2"]
    assert (record.doubtful, record.measured, record.champion_before) == ([], [], 2)
    assert record.experiments == ["night-2"]
    assert record.data["data/raw"] == [dvc_repo.recorded(nights.root)["ingest"].outputs["data/raw"]]
    assert record.models.keys() == {f"data/models/{name}" for name in ("sft", "reward", "judge", "policy")}
    assert set(record.runs) == set(planned.descent.runs)
    text = (nights.nights / "forgotten.jsonl").read_text(encoding="utf-8")
    assert SECRET not in text
    assert '"d2"' not in text
    [*_, last] = decisions.read(nights)
    assert (last.by, last.champion_before, last.champion_after) == ("forget", 2, None)


def test_what_was_only_measured_is_named_and_serves_on(nights: Paths, nights_params: Params) -> None:
    """A test prompt teaches nothing: no version is retired, though evaluations with it are gone."""
    forgotten(nights, nights_params, "row", "p1")
    [record] = records.read(nights)
    assert record.retired == record.doubtful == []
    assert "nightjar-policy version 2" in record.measured
    assert versions.champion_of(mlflow_store.open_client(nights), "nightjar").version == 2
    assert nights.models.joinpath("policy").exists()
    assert not list((nights.mlruns / "artifacts").rglob("samples.jsonl"))
    assert not nights.reports.exists()


def test_a_failure_leaves_all_as_it_was(
    nights: Paths,
    nights_params: Params,
    everything: Callable[[], dict[str, bytes]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whether the registry, the second file or the record fails: sources, aliases and tags are those of before."""
    before, planned = everything(), planning.make(nights, nights_params, Request("prompt", "d2"))
    client = mlflow_store.open_client(nights)
    aliases = client.get_registered_model("nightjar-policy").aliases

    def fail(*given: object, **named: object) -> None:
        raise OSError("the disk is full")

    def fail_on_the_second(source: Path, target: Path) -> None:
        if source.name.endswith(sources.NEW) and target == planned.files[1][0].path:
            raise OSError("the disk is full")
        real(source, target)

    real = os.replace
    for module, name, failing in (
        (os, "replace", fail_on_the_second),
        (records, "append", fail),
        (versions, "tag", fail),
    ):
        with monkeypatch.context() as patched:
            patched.setattr(module, name, failing)
            with pytest.raises(OSError, match="disk is full"):
                forget.carry_out(nights, nights_params, planned, "max", "a letter")
    assert everything() == before
    for model in ("nightjar-policy", "nightjar-reward"):
        assert client.get_registered_model(model).aliases == aliases
        assert "retired" not in client.get_model_version(model, "2").tags


def test_a_copy_that_stays_is_named_and_goes_the_next_time(
    nights: Paths, nights_params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sources are without the rows by then, and the record is there."""
    planned = planning.make(nights, nights_params, Request("row", "d2"))

    cached, unlink = next(iter(planned.cached.values())), Path.unlink

    def refuse(self: Path, missing_ok: bool = False) -> None:
        if self == cached:
            raise PermissionError("not yours")
        unlink(self, missing_ok)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "unlink", refuse)
        assert forget.carry_out(nights, nights_params, planned, "max", "x") == [f"{cached}: not yours"]
    again = planning.make(nights, nights_params, Request("row", "d2"))
    assert list(again.cached.values()) == [cached]
    assert forget.carry_out(nights, nights_params, again, "max", "x") == []
    with pytest.raises(ValueError, match=r"row d2: no row .* it was forgotten on 20"):
        planning.make(nights, nights_params, Request("row", "d2"))


def cut_off(paths: Paths, params: Params, asked: Request, module: Any, name: str, calls: int) -> None:
    """The command in a process that is killed at a call of a function, after some calls of it that went well."""
    if child := os.fork():
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
        return
    real, done = getattr(module, name), list[str]()

    def call(*given: Any, **named: Any) -> Any:
        if len(done) == calls:
            os._exit(9)
        done.append(name)
        return real(*given, **named)

    try:
        planned = planning.make(paths, params, asked)
        setattr(module, name, call)
        forget.carry_out(paths, params, planned, "max", "a letter")
    finally:
        os._exit(1)  # never back into the tests


@pytest.mark.parametrize(
    ("kind", "asked", "module", "name", "calls"),
    [
        ("prompt", "d2", os, "replace", 1),  # the first source is rewritten, the second is not
        ("annotator", "ana", records, "append", 0),  # all is retired, nothing is on record
        ("prompt", "d2", decisions, "append", 0),
        ("prompt", "d2", Path, "unlink", 6),  # some copies are gone
        ("annotator", "ana", Path, "unlink", 4),
        ("annotator", "ana", shutil, "rmtree", 3),
    ],
)
def test_killed_in_the_middle_it_can_be_given_again(
    nights: Paths,
    nights_params: Params,
    everything: Callable[[], dict[str, bytes]],
    kind: Kind,
    asked: str,
    module: Any,
    name: str,
    calls: int,
) -> None:
    """Wherever it was cut off: nothing of the rows is left then, all is retired, and some record names the versions."""
    cut_off(nights, nights_params, Request(kind, asked), module, name, calls)
    sources.recover(nights)
    forgotten(nights, nights_params, kind, asked)
    after = everything()
    for text in (SECRET,) if kind == "prompt" else ('"ana"', "by ana"):
        assert holders(after, text) == []
    assert [path for path in after if path.endswith(".partial")] == []
    named = {version for record in records.read(nights) for version in record.retired}
    assert named == {"nightjar-policy version 2", "nightjar-reward version 2"}
    assert mlflow_store.open_client(nights).get_registered_model("nightjar-policy").aliases == {}
    assert versions.champion_of(mlflow_store.open_client(nights), "nightjar") is None


def test_what_somebody_changes_while_it_asks_is_not_lost(nights: Paths, nights_params: Params) -> None:
    """A ranking that came in between: nothing is removed, and the command is to be given again."""
    planned = planning.make(nights, nights_params, Request("annotator", "ana"))
    march = nights.feedback / "march.jsonl"
    march.write_bytes(march.read_bytes() + b"\n")
    with pytest.raises(ValueError, match=r"march.jsonl: it was changed meanwhile.*give the command again"):
        forget.carry_out(nights, nights_params, planned, "max", "a letter")
    assert march.read_bytes().count(b"\n") == 3
    assert records.read(nights) == []


def test_the_canaries_of_the_last_night_go(nights: Paths, nights_params: Params) -> None:
    """From the account that register left, which says the rest as before, and from its page in MLflow."""
    rows = [{"prompt": SECRET, "policy": "Soon.", "champion": None, "version": None}]
    write_json(nights.registered, {"promoted": True, "canaries": rows})
    page = nights.mlruns / "artifacts" / "2" / "canaries.md"
    page.write_text(canaries.markdown(rows), encoding="utf-8")
    forgotten(nights, nights_params, "prompt", "d2")
    assert json.loads(nights.registered.read_text()) == {"promoted": True, "canaries": []}
    assert not page.exists()


def test_a_name_goes_from_versions_that_were_retired_before(nights: Paths, nights_params: Params) -> None:
    """For a row of somebody else's: the tag of that version names the annotator all the same."""
    forgotten(nights, nights_params, "row", "d2")
    forgotten(nights, nights_params, "annotator", "ana")
    version = mlflow_store.open_client(nights).get_model_version("nightjar-policy", "2")
    assert json.loads(version.tags["annotators"]) == {"bo": 1, "forgotten": 1}


def test_the_reason_names_nobody(nights: Paths, nights_params: Params, everything: Callable[[], object]) -> None:
    """It is kept for good."""
    before, planned = everything(), planning.make(nights, nights_params, Request("annotator", "ana"))
    with pytest.raises(ValueError, match="without the id"):
        forget.carry_out(nights, nights_params, planned, "max", "Ana asked")
    planned = planning.make(nights, nights_params, Request("prompt", "d2"))
    with pytest.raises(ValueError, match="or the text"):
        forget.carry_out(nights, nights_params, planned, "max", f"whose row is {SECRET!r}")
    assert everything() == before


def command(root: Path, *arguments: str) -> int:
    """The command in this process."""
    options = cli.parser().parse_args(["forget", *arguments])
    return int(options.command(options, root))


def test_without_a_terminal_it_shows_its_plan_alone(two_nights: Paths) -> None:
    """In a process of its own: the exit code is 1, and nothing has changed."""
    before = (two_nights.feedback / "march.jsonl").read_bytes()
    command = [sys.executable, "-P", "-m", "flows", "forget", "--annotator", "ana"]
    done = subprocess.run(command, cwd=two_nights.root, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert (done.returncode, done.stderr) == (1, "nightjar: nothing was changed; to go on, answer y, or give --yes\n")
    assert "  data/feedback/march.jsonl: 1 of 2 rows\n" in done.stdout
    assert "  nightjar-policy version 2 (challenger, champion): learnt from them\n" in done.stdout
    assert "nightjar rollback --to 1\n" in done.stdout
    assert (two_nights.feedback / "march.jsonl").read_bytes() == before


def test_the_command_asks_signs_and_retrains(
    nights: Paths, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`n` changes nothing; --yes asks nobody; a night runs at once only where that was wanted."""
    nights_run: list[Paths] = []
    monkeypatch.setattr(scheduling, "run_night", nights_run.append)
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    monkeypatch.setattr("builtins.input", lambda question: "n")
    with pytest.raises(ValueError, match="nothing was changed"):
        command(nights.root, "--row", "r2")
    assert records.read(nights) == []
    assert command(nights.root, "--row", "r2", "--yes", "--by", "max", "--why", "a letter") == 0
    assert "the next night trains without them" in capsys.readouterr().out
    monkeypatch.setattr("builtins.input", lambda question: "y")
    assert command(nights.root, "--row", "p1", "--retrain") == 0
    assert nights_run == [nights]
    assert [record.who for record in records.read(nights)] == ["max", getpass.getuser()]


def test_while_a_night_works_it_is_refused(nights: Paths) -> None:
    """The night's process holds the lock."""
    with lock.held(nights):
        code = "from flows import cli; cli.main(['forget', '--row', 'r2', '--yes'])"
        done = subprocess.run(
            [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(Path(cli.__file__).parents[1])!r}); {code}"],
            cwd=nights.root, capture_output=True, text=True,
        )  # fmt: skip
    assert "another night is at work" in done.stderr
    assert records.read(nights) == []


def test_gzip_stays_gzip(nights: Paths, nights_params: Params) -> None:
    """And a file whose rows all go, goes; the plan says what then has to be changed."""
    plain = nights.feedback / "march.jsonl"
    packed = nights.feedback / "april.jsonl.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    plain.write_bytes(plain.read_bytes().splitlines(keepends=True)[1])
    planned = forgotten(nights, nights_params, "annotator", "ana")
    assert not plain.exists()
    assert [note for note in planned.notes if "params.yaml names data/feedback/march.jsonl" in note]
    assert gzip.decompress(packed.read_bytes()).count(b"\n") == 1
    assert sources.read(nights)[0][0].shown == "data/feedback/april.jsonl.gz"
