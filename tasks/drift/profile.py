"""The profile of a night's data: a line of traits per row, without its text, so that later nights can compare.

Reads data/validated (prompts, demonstrations), data/rankings and the fixed texts of data/evaluation. A row is known
again by its digest. Of a kind with more rows, those with the smallest digests are kept: the same ones every night.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import unicodedata
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import starmap
from pathlib import Path
from statistics import fmean
from typing import TypeVar

from pydantic import BaseModel, ConfigDict

from rlhf.evaluation.language import SCRIPTS, find_language, unicode_words
from rlhf.evaluation.text import split_words
from rlhf.preferences import SPLITS, verdicts
from rlhf.records import Demonstration, Prompt, Ranking, Record, prompt_key
from tasks.files import read_records, read_rows
from tasks.paths import Paths

MAX_ROWS = 10_000
"""Of each kind."""
BUCKETS = 4096
"""A word is kept as one of so many numbers."""
LETTERS = 200
"""So many letters tell a text's script."""

RecordT = TypeVar("RecordT", Demonstration, Prompt)
RowT = TypeVar("RowT")


class Traits(BaseModel):
    """One row as it is compared; what its kind does not have is None.

    Attributes:
        kind: prompts, demonstrations, rankings or fixed_texts.
        prompt: its prompt's digest; rows of one prompt are not independent.
        row: its own digest.
        length: words of the prompt, of the response, or of a completion on average.
        language: the row's own field `language`, else as `language_of` finds it.
        words: of a prompt with words, each as a number below BUCKETS.
        annotator: who ranked.
        ties: the share of couples of completions that share a rank.
        agreement: of what others say of these couples, the share that this annotator says too.
        score: what the night's reward model says of a fixed text.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: str
    prompt: str
    row: str
    length: float | None = None
    language: str | None = None
    words: list[int] | None = None
    annotator: str | None = None
    ties: float | None = None
    agreement: float | None = None
    score: float | None = None


Profile = list[Traits]


def profile(paths: Paths) -> Profile:
    """The profile of the data in a workspace whose night was evaluated, in a fixed order."""
    return [
        *starmap(_of_prompt, _smallest(_validated(paths, "prompts", Prompt), _id_of_prompt)),
        *starmap(_of_demonstration, _smallest(_validated(paths, "demonstrations", Demonstration), _id_of_answer)),
        *of_rankings(read_records(paths.rankings, Ranking)),
        *_of_fixed_texts(paths.evaluation / "fixed_texts.jsonl"),
    ]


def write(path: Path, rows: Profile) -> None:
    """Writes a profile as JSONL, packed; the same rows give the same bytes."""
    text = "".join(f"{row.model_dump_json(exclude_none=True)}\n" for row in rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(text.encode(), mtime=0))


def read(path: Path) -> Profile:
    """A profile as it was written; raises ValueError for a line that is none."""
    return read_records(path, Traits)


def digest_of(rows: Profile) -> str:
    """What tells two nights' data apart."""
    return _digest([f"{row.kind} {row.row} {row.score}" for row in rows])


def bucket_of(word: str) -> int:
    """The number of a word."""
    return zlib.crc32(word.encode()) % BUCKETS


def language_of(text: str) -> str:
    """The language that evaluate finds by its script (`rlhf.evaluation.language`); where it finds none, the script.

    The script of most letters, as Unicode names it (Latin, Cyrillic, Arabic); `none` without letters. English is known
    by its function words, which a list of facts lacks, so that in one text it counts as Latin.
    """
    if (code := find_language([[text]])) in SCRIPTS:
        return code
    letters = [char for char in text if char.isalpha()][:LETTERS]
    names = Counter(unicodedata.name(char, "Unknown").partition(" ")[0].capitalize() for char in letters)
    return names.most_common(1)[0][0] if names else "none"


def prompts_of(paths: Paths) -> list[str]:
    """Tonight's prompts as text: a profile knows its words by number alone."""
    return [prompt_key(row.prompt) for row in _validated(paths, "prompts", Prompt)]


def _validated(paths: Paths, name: str, record: type[RecordT]) -> list[RecordT]:
    files = [paths.validated / split / f"{name}.jsonl" for split in SPLITS]
    return [row for file in files if file.is_file() for row in read_records(file, record, may_be_empty=True)]


def _smallest(rows: Iterable[RowT], digest: Callable[[RowT], str]) -> list[tuple[str, RowT]]:
    """The rows with the smallest digests, in their order, each after its digest; the same row twice is one."""
    distinct = {digest(row): row for row in rows}
    return [(key, distinct[key]) for key in sorted(distinct)[:MAX_ROWS]]


def _id_of_prompt(row: Prompt) -> str:
    return _digest(prompt_key(row.prompt))


def _of_prompt(digest: str, row: Prompt) -> Traits:
    key = prompt_key(row.prompt)
    words = [bucket_of(word) for word in unicode_words(key)]
    language, length = _language(row, key), float(len(split_words(key)))
    return Traits(kind="prompts", prompt=digest, row=digest, length=length, language=language, words=words or None)


def _id_of_answer(row: Demonstration) -> str:
    return _digest([prompt_key(row.prompt), row.response])


def _of_demonstration(digest: str, row: Demonstration) -> Traits:
    prompt = _digest(prompt_key(row.prompt))
    language, length = _language(row, row.response), float(len(split_words(row.response)))
    return Traits(kind="demonstrations", prompt=prompt, row=digest, length=length, language=language)


def _id_of_ranking(row: Ranking) -> str:
    return _digest([prompt_key(row.prompt), row.completions, row.ranks, row.annotator])


def of_rankings(rows: Sequence[Ranking]) -> Iterator[Traits]:
    """Rankings, with how far those of others, as far as they rank the same texts of the prompt, agree."""
    verdicts_of: dict[tuple[str, str, str], Counter[int]] = defaultdict(Counter)
    own: dict[tuple[str, tuple[str, str, str]], Counter[int]] = defaultdict(Counter)
    for row in rows:
        for couple, verdict in verdicts(row):
            verdicts_of[couple][verdict] += 1
            own[row.annotator, couple][verdict] += 1
    for digest, row in _smallest(rows, _id_of_ranking):
        ranked = verdicts(row)
        mine = [(verdicts_of[couple], own[row.annotator, couple], verdict) for couple, verdict in ranked]
        others = sum(every.total() - same.total() for every, same, _ in mine)
        alike = sum(every[verdict] - same[verdict] for every, same, verdict in mine)
        yield Traits(
            kind="rankings",
            prompt=_digest(prompt_key(row.prompt)),
            row=digest,
            length=fmean(len(split_words(text)) for text in row.completions),
            language=_language(row, " ".join(row.completions)),
            annotator=row.annotator,
            ties=fmean(verdict == 0 for _, verdict in ranked),
            agreement=alike / others if others else None,
        )


def _of_fixed_texts(path: Path) -> Iterator[Traits]:
    """An evaluation of an earlier time left none."""
    rows = [row for _, row in read_rows(path)] if path.is_file() else []
    for digest, row in _smallest(rows, lambda row: _digest([row["prompt"], row["text"]])):
        yield Traits(kind="fixed_texts", prompt=_digest(prompt_key(row["prompt"])), row=digest, score=row["reward"])


def _language(row: Record, text: str) -> str:
    declared = (row.model_extra or {}).get("language")
    return declared if isinstance(declared, str) and declared else language_of(text)


def _digest(value: str | Sequence[object]) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:16]
