"""Reads demonstrations and prompts from their source.

Reads the source that `ingest.source` names: `builtin` (generated from the seed), a file or folder below
data/source, or a data set of the Hub. Writes data/raw/demonstrations.jsonl and data/raw/prompts.jsonl; and
data/raw/general.jsonl, demonstrations of other tasks, where `ingest.general` names a source of them too.
data/raw/received holds unchanged copies of the files that people gave, feedback included: DVC keeps what a stage
writes, so that a night can be restored after its source has changed.
A row that cannot be read stops the stage; nothing is dropped and nothing half-written.

    python -m tasks ingest
"""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

from rlhf.blank import is_blank
from rlhf.records import Demonstration, Message, Prompt, prompt_identity
from tasks.files import write_records
from tasks.params.ingest import IngestParams
from tasks.sources.files import files_below, suffix_of
from tasks.sources.hub import read_hub
from tasks.sources.local import read_local
from tasks.sources.rows import Problems, as_records
from tasks.stage_files import StageFiles


def run(files: StageFiles, params: IngestParams) -> dict[str, float]:
    """Writes data/raw and returns how many demonstrations and prompts it holds.

    Raises:
        FileNotFoundError: a source is missing.
        ValueError: a source lies outside data/source, cannot be reached, or holds malformed rows.
    """
    if params.source == "builtin":
        demonstrations, prompts = _generate(params)
    else:
        demonstrations, prompts = _read(files, params.source)
    if not demonstrations:
        raise ValueError(f"{params.source}: no row has a response; give demonstrations to imitate")
    demonstrations = _limit(demonstrations, params.limit, params.seed)
    prompts = [*prompts, *derive_prompts(demonstrations, prompts)]
    general = _limit(_general(files, params), params.limit, params.seed)
    raw = files.outputs["raw"]
    write_records(raw / "demonstrations.jsonl", demonstrations)
    write_records(raw / "prompts.jsonl", prompts)
    metrics: dict[str, float] = {"demonstrations": len(demonstrations), "prompts": len(prompts)}
    if general:
        metrics["general"] = write_records(raw / "general.jsonl", general)
    else:
        (raw / "general.jsonl").unlink(missing_ok=True)
    _keep_received(files, params)
    return metrics


def _keep_received(files: StageFiles, params: IngestParams) -> None:
    """Copies the files that people gave to data/raw/received, each at its path below data/."""
    received = files.outputs["raw"] / "received"
    shutil.rmtree(received, ignore_errors=True)
    data = Path(os.path.abspath(files.inputs["source"].parent))
    for file in _received(files, data, params):
        target = received / file.relative_to(data)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, target)


def _received(files: StageFiles, data: Path, params: IngestParams) -> Iterator[Path]:
    for source in filter(None, (params.source, params.general)):
        path = Path(os.path.abspath(files.root / source))
        if path.is_relative_to(data):  # neither builtin nor of the Hub
            yield from [path] if path.is_file() else _data_files(path.iterdir())
    feedback = Path(os.path.abspath(files.inputs["feedback"]))
    if feedback.is_dir():
        yield from _data_files(files_below(feedback))


def _data_files(files: Iterable[Path]) -> Iterator[Path]:
    return (file for file in files if file.is_file() and suffix_of(file))


def _generate(params: IngestParams) -> tuple[list[Demonstration], list[Prompt]]:
    from rlhf.corpus import make_demonstrations, make_prompts

    return (
        make_demonstrations(params.demonstrations, params.seed),
        make_prompts(params.prompts, params.seed),
    )


def _general(files: StageFiles, params: IngestParams) -> list[Demonstration]:
    """Demonstrations of other tasks; none where no source of them is named."""
    if params.general is None:
        return []
    if params.general == "builtin":
        from rlhf.corpus import make_general_demonstrations

        return make_general_demonstrations(params.demonstrations, params.seed)
    demonstrations, prompts = _read(files, params.general)
    if prompts:
        raise ValueError(
            f"{params.general}: {len(prompts)} rows, such as {prompts[0].id}, have no response; ingest.general takes "
            "demonstrations alone, so give each row a response, or remove it"
        )
    return demonstrations


def _read(files: StageFiles, source: str) -> tuple[list[Demonstration], list[Prompt]]:
    problems = Problems()
    if source.startswith("hub:"):
        rows = read_hub(source.removeprefix("hub:"), problems)
    else:
        rows = read_local(files.root, source, problems)
    demonstrations = as_records(rows.demonstrations, Demonstration, problems)
    prompts = as_records(rows.prompts, Prompt, problems)
    problems.stop()
    return demonstrations, prompts


def _limit(demonstrations: list[Demonstration], limit: int | None, seed: int) -> list[Demonstration]:
    """The first `limit` demonstrations of a seeded shuffle, in their own order."""
    if limit is None or limit >= len(demonstrations):
        return demonstrations
    order = list(range(len(demonstrations)))
    random.Random(seed).shuffle(order)
    return [demonstrations[index] for index in sorted(order[:limit])]


def derive_prompts(demonstrations: list[Demonstration], prompts: list[Prompt]) -> list[Prompt]:
    """Prompts for the splits that have demonstrations but no prompts, and for demonstrations with references.

    Each distinct prompt of such demonstrations becomes one Prompt, with the rows' own references, or their responses
    where a row has none. Rows without a split count as training rows.

    Args:
        demonstrations: rows that may carry a `split`.
        prompts: the prompts that the source gives itself.

    Raises:
        ValueError: a made id is the id of another prompt.
    """
    present = {_split(prompt) or "train" for prompt in prompts}
    groups: dict[tuple[str | None, str | tuple[Message, ...]], list[Demonstration]] = {}
    for demonstration in demonstrations:
        split = _split(demonstration)
        if (split or "train") not in present or _own_references(demonstration):
            groups.setdefault((split, prompt_identity(demonstration.prompt)), []).append(demonstration)
    ids = {prompt.id for prompt in prompts}
    derived = [_derive(split, group) for (split, _), group in groups.items()]
    for prompt in derived:
        if prompt.id in ids:
            raise ValueError(f"prompt id {prompt.id!r} is also made from a demonstration's id; rename the prompt")
    return derived


def _derive(split: str | None, group: list[Demonstration]) -> Prompt:
    own = list(dict.fromkeys(text for row in group for text in _own_references(row)))
    # A blank response is the demonstration's defect, and must not cost the prompt its good references.
    references = own + [row.response for row in group if not is_blank(row.response) and not _own_references(row)]
    values = {"id": f"{group[0].id}-prompt", "prompt": group[0].prompt, "references": references}
    return Prompt.model_validate(values if split is None else {**values, "split": split})


def _own_references(row: Demonstration) -> list[str]:
    return (row.model_extra or {}).get("references") or []


def _split(record: Demonstration | Prompt) -> str | None:
    return (record.model_extra or {}).get("split")
