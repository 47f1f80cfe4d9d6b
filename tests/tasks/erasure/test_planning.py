"""The plan: what is found where, what is refused, what is left for a person, and what it says."""

from __future__ import annotations

import json
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from tasks.erasure import as_text, planning
from tasks.erasure.plan import Plan
from tasks.erasure.request import Request
from tasks.files import write_rows, write_text
from tasks.params.whole import Params, read_params
from tasks.paths import Paths
from tasks.tracking import mlflow_store
from tasks.versioning import dvc_repo

SECRET = "My flat in Elm Street 9 has no heating"

SCRATCH = ("checkpoints", "bad_batches", "data_docs", "candidates/near", "seeds/0")


def paths_of(planned: Plan) -> list[str]:
    return [path.as_posix() for path in planned.outputs]


def test_an_id_that_nothing_matches_is_an_error(nights: Paths, nights_params: Params) -> None:
    """It says where was looked, and what could not be searched."""
    (nights.source / "old.zip").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"annotator zoe: no row of .*check the id; not searched.*data/source/old.zip"):
        planning.make(nights, nights_params, Request("annotator", "zoe"))


def test_versions_whose_data_are_gone_are_no_match(nights: Paths, nights_params: Params) -> None:
    """A misspelt id would retire all of them; with one that exists they are retired, for they may have learnt."""
    shutil.rmtree(nights.root / ".dvc" / "cache")
    shutil.rmtree(nights.raw)
    with pytest.raises(ValueError, match="row d7: no row"):
        planning.make(nights, nights_params, Request("row", "d7"))
    planned = planning.make(nights, nights_params, Request("row", "d2"))
    assert [(each.model, each.version) for each in planned.versions(1)] == [
        ("nightjar-policy", 1),
        ("nightjar-reward", 1),
    ]
    assert "nightjar-policy version 1: may have: what it learnt from is no longer there" in "\n".join(
        as_text.render(planned)
    )
    assert planned.back is None
    assert "No other version is free of them" in "\n".join(as_text.render(planned))


def test_rows_that_people_removed_by_hand_are_found_in_the_cache(nights: Paths, nights_params: Params) -> None:
    """The sources are clean, the stages' outputs are gone: what learnt from them is known all the same."""
    for name in ("source/support/train.jsonl", "feedback/march.jsonl"):
        file = nights.data / name
        file.write_bytes(file.read_bytes().splitlines(keepends=True)[0])
    for name in ("raw", "validated", "rankings", "evaluation", "reports"):
        shutil.rmtree(nights.data / name)
    planned = planning.make(nights, nights_params, Request("prompt", "d2"))
    assert planned.files == []
    assert planned.cached
    assert [each.version for each in planned.versions(2)] == [2, 2]


@pytest.mark.parametrize("origin", ["builtin", "hub:team/questions"])
def test_rows_that_would_come_back_are_refused(nights: Paths, origin: str) -> None:
    """A night generates or downloads them again."""
    file = nights.root / "params.yaml"
    file.write_text(file.read_text().replace("data/source/support", origin))
    shutil.rmtree(nights.source / "support")
    with pytest.raises(ValueError, match=f"1 rows of data/raw/demonstrations.jsonl come from ingest.source {origin}"):
        planning.make(nights, read_params(file), Request("row", "d2"))


def test_a_row_without_an_id_is_told_from_others_by_what_it_holds(nights: Paths, nights_params: Params) -> None:
    """train-1 was d1's line in the nights before: those are not meant."""
    write_rows(
        nights.source / "support" / "train.jsonl", [{"prompt": "A new question, said at length", "response": "No."}]
    )
    planned = planning.make(nights, nights_params, Request("row", "train-1"))
    assert [(file.shown, len(rows)) for file, rows in planned.files] == [("data/source/support/train.jsonl", 1)]
    assert planned.cached == {}
    assert planned.descent.learners == []


def test_the_champion_that_sft_starts_from_goes(nights: Paths, nights_params: Params) -> None:
    """By its digest, the note aside; scratch copies go with it."""
    shutil.copytree(nights.models / "policy", nights.champion, dirs_exist_ok=True)
    for name in ("candidates/near/data", "seeds/0/data", "checkpoints", "bad_batches", "data_docs"):
        (nights.nights / name).mkdir(parents=True)
    planned = planning.make(nights, nights_params, Request("row", "d2"))
    assert "data/champion" in paths_of(planned)
    scratch = [path.as_posix() for path in planned.scratch]
    assert scratch == [f"nights/{name}" for name in SCRATCH]
    assert "data/champion" not in paths_of(planning.make(nights, nights_params, Request("row", "p1")))


def test_what_only_a_person_can_do_is_named(nights: Paths, nights_params: Params) -> None:
    """Pointers, git's history, a remote, queued copies, other formats, a file that params name."""
    write_rows(
        nights.feedback / "march.jsonl", [json.loads((nights.feedback / "march.jsonl").read_text().splitlines()[1])]
    )
    write_text(nights.feedback / "march.jsonl.dvc", "outs: []\n")
    write_text(nights.source / "notes.docx", "x")
    (nights.root / ".dvc" / "tmp" / "exps").mkdir(parents=True, exist_ok=True)
    write_text(nights.source / "old.jsonl", "{}\n")
    git = ["git", "-c", "user.name=toy", "-c", "user.email=toy@example.org"]
    for command in (
        ["add", "-f", "data/source/old.jsonl"],
        ["commit", "-qm", "old"],
        ["rm", "-q", "data/source/old.jsonl"],
        ["commit", "-qm", "gone"],
        ["add", "-f", "data/feedback/march.jsonl"],
    ):
        subprocess.run([*git, *command], cwd=nights.root, check=True)
    remote = [sys.executable, "-m", "dvc", "remote", "add", "-q", "store", str(Path("elsewhere"))]
    subprocess.run(remote, cwd=nights.root, check=True)
    notes = planning.make(nights, nights_params, Request("annotator", "ana")).notes
    for words in (
        "params.yaml names data/feedback/march.jsonl, which goes",
        "data/feedback/march.jsonl.dvc names the data as they were: dvc add data/feedback/march.jsonl",
        "git has data/feedback/march.jsonl and keeps it in its history",
        "git's history has data/source/old.jsonl, and was not searched: git log --all -p -- FILE",
        "DVC's remote store may have what goes",
        "remove .dvc/tmp/exps",
        "data/source/notes.docx: not searched",
        "whatever has loaded a version that is retired answers with it until it ends",
        "the weights of retired versions stay",
    ):
        assert len([note for note in notes if words in note]) == 1, words


def test_a_version_that_was_champion_once_may_still_be_served(nights: Paths, nights_params: Params) -> None:
    """It has no alias any more, and a server of that time has its weights all the same."""
    client = mlflow_store.open_client(nights)
    for model in ("nightjar-policy", "nightjar-reward"):
        for alias in ("champion", "challenger"):
            client.set_registered_model_alias(model, alias, "1")
    planned = planning.make(nights, nights_params, Request("row", "d2"))
    assert [each.aliases for each in planned.descent.learners] == [(), ()]
    assert (
        len([note for note in planned.notes if "until it ends (mlflow models serve, nightjar chat): end it" in note])
        == 1
    )


def test_what_other_nights_have_too_stays_in_the_cache(nights: Paths, nights_params: Params) -> None:
    """The first night's data can still be restored: the empty split of pairs is in both nights."""
    planned = planning.make(nights, nights_params, Request("annotator", "ana"))
    empty = "d41d8cd98f00b204e9800998ecf8427e"  # md5 of nothing
    assert empty in dvc_repo.cached_files(nights.root)
    assert empty not in planned.cached
    assert any(b"chosen" in file.read_bytes() for file in planned.cached.values())


def test_a_version_whose_reward_model_was_deleted_is_not_gone_back_to(nights: Paths, nights_params: Params) -> None:
    """Both would have to move; the registry is asked, as people left it."""
    assert planning.make(nights, nights_params, Request("row", "d2")).back == 1
    mlflow_store.open_client(nights).delete_model_version("nightjar-reward", "1")
    assert planning.make(nights, nights_params, Request("row", "d2")).back is None


def test_what_quotes_them_is_named(nights: Paths, nights_params: Params) -> None:
    """Params, accounts and logs of nights, Prefect's database and MLflow's; each with what to do."""
    text = (nights.root / "params.yaml").read_text(encoding="utf-8")
    write_text(nights.root / "params.yaml", f"{text}register: {{canaries: ['{SECRET}']}}\n")
    write_text(nights.nights / "history.jsonl", json.dumps({"why": f"row d2: {SECRET!r}"}) + "\n")
    write_text(nights.nights / "logs" / "schedule.log", f"warning: {SECRET}\n")
    write_text(nights.nights / "logs" / "mlflow.log", "nothing\n")
    (nights.nights / "prefect").mkdir()
    with closing(sqlite3.connect(nights.nights / "prefect" / "prefect.db")) as connection, connection:
        connection.execute("CREATE TABLE artifact (data TEXT)")
        connection.execute("INSERT INTO artifact VALUES (?)", [json.dumps(f"### {SECRET}")])
    client = mlflow_store.open_client(nights)
    mlflow_store.log(client, mlflow_store.all_runs(client, nights)[0].info.run_id, tags={"why": SECRET})
    notes = planning.make(nights, nights_params, Request("prompt", "d2")).notes
    for words in (
        "params.yaml quotes them (register.canaries may): take that out",
        "nights/history.jsonl quotes them: take those lines out",
        "nights/logs/schedule.log quotes them",
        "Prefect's database quotes them (artifact.data: 1 rows): end nightjar up or serve, and remove nights/prefect",
        "MLflow's database quotes them (tags.value: 1 rows): delete those runs",
    ):
        assert len([note for note in notes if words in note]) == 1, words
    assert len([note for note in notes if "quotes them" in note]) == 5


def test_the_simulated_annotator_is_nobody(nights: Paths) -> None:
    """A night has it rank anew, so there is nothing to forget."""
    file = nights.root / "params.yaml"
    file.write_text(file.read_text().replace("annotator: people", "annotator: simulated"))
    with pytest.raises(ValueError, match=r"annotator simulated: nobody's data.*Set rank.annotator to people"):
        planning.make(nights, read_params(file), Request("annotator", "simulated"))


def test_without_dvc_and_mlflow_the_sources_are_searched_all_the_same(tmp_path: Path, nights_params: Params) -> None:
    """A workspace in which no night ever ran."""
    paths = Paths(tmp_path / "fresh")
    write_rows(paths.feedback / "march.jsonl", [{"id": "r1", "annotator": "ana"}, {"id": "r2", "annotator": "bo"}])
    planned = planning.make(paths, nights_params, Request("annotator", "ana"))
    assert (dict(planned.rows), planned.champion, planned.descent.runs) == ({"data/feedback": 1}, None, [])
    assert "  no registered version" in as_text.render(planned)
    assert not paths.mlruns.exists()


def test_an_id_of_several_rows_needs_its_file(nights: Paths, nights_params: Params) -> None:
    """Ids are unique in a file alone: a demonstration and a ranking may share one."""
    write_rows(nights.feedback / "april.jsonl", [{"id": "d2", "prompt": "Another", "annotator": "bo"}])
    with pytest.raises(ValueError, match=r"one of: data/feedback/april\.jsonl:d2, data/source/support/train\.jsonl:d2"):
        planning.make(nights, nights_params, Request("row", "d2"))
    planned = planning.make(nights, nights_params, Request("row", "data/source/support/train.jsonl:d2"))
    assert [file.shown for file, _ in planned.files] == ["data/source/support/train.jsonl"]
    assert [each.version for each in planned.versions(2)] == [2, 2]
    planned = planning.make(nights, nights_params, Request("row", "data/feedback/april.jsonl:d2"))
    assert planned.descent.learners == []
