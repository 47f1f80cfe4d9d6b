"""The account of what was forgotten: nights/forgotten.jsonl, a line each, without anything that was forgotten."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from tasks.erasure.request import Kind
from tasks.files import append_record, read_records
from tasks.paths import Paths


class Forgotten(BaseModel):
    """One request that was carried out.

    Attributes:
        when: ISO, with its time zone.
        who: who carried it out.
        why: the reason, in a person's words.
        kind: what was named: an annotator, a prompt, a row.
        id_digest: the SHA-256 of its id.
        rows: how many rows went, by folder.
        ids: the SHA-256 of the ids of these rows, sorted, a line each.
        data: the digests of the data sets that held them, by path.
        models: the digests of the models that learnt from them, or may have, by path.
        runs: the MLflow runs that read or wrote something of that.
        retired: the registered versions that learnt from them.
        doubtful: those whose data are gone, so that they may have; they were retired too.
        measured: those that were only measured on them.
        experiments: DVC experiments that name data which held them.
        objects: the MD5 of what was removed from DVC's cache.
        champion_before: the policy version that was champion and is no more.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    when: str
    who: str
    why: str
    kind: Kind
    id_digest: str
    rows: dict[str, int]
    ids: str
    data: dict[str, list[str]]
    models: dict[str, list[str]]
    runs: list[str]
    retired: list[str]
    doubtful: list[str]
    measured: list[str]
    experiments: list[str]
    objects: list[str]
    champion_before: int | None


def append(paths: Paths, record: Forgotten) -> None:
    """Adds a record."""
    append_record(paths.nights / "forgotten.jsonl", record)


def read(paths: Paths) -> list[Forgotten]:
    """All of them, the oldest first; raises ValueError that names a line which is none."""
    path = paths.nights / "forgotten.jsonl"
    return read_records(path, Forgotten) if path.is_file() else []
