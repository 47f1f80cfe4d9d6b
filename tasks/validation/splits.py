"""The split of each prompt, and the rows of each split."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, TypeVar

from rlhf.preferences import SPLITS, splits_of_prompts
from rlhf.records import Demonstration, Message, Prompt, Record, prompt_identity, prompt_key, prompt_text
from tasks.validation.lengths import Lengths
from tasks.validation.record_lines import RecordLines, batches

RowT = TypeVar("RowT", Demonstration, Prompt)


class SplitRows(NamedTuple):
    """What one split holds; every row carries its split."""

    demonstrations: RecordLines[Demonstration]
    prompts: RecordLines[Prompt]
    general: RecordLines[Demonstration]
    """Demonstrations of other tasks; none where the night has no such data."""


def declared_splits(rows: Iterable[Demonstration | Prompt]) -> dict[str, list[str]]:
    """For each prompt of rows with a `split` of their own: those splits, sorted."""
    declared: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        split = (row.model_extra or {}).get("split")
        if split is not None:
            declared[prompt_key(row.prompt)].add(split)
    return {key: sorted(splits) for key, splits in declared.items()}


def assign_splits(
    rows: Iterable[Demonstration | Prompt],
    declared: Mapping[str, list[str]],
    dev_share: float,
    test_share: float,
    seed: int,
) -> dict[str, str]:
    """The split of every prompt, by key: the one that some row of it declares, else by the prompt's hash."""
    splits = splits_of_prompts((row.prompt for row in rows), dev_share, test_share, seed)
    return {key: declared[key][0] if key in declared else split for key, split in splits.items()}


def twins(rows: Iterable[Demonstration | Prompt]) -> dict[str, str]:
    """Prompts that come in several forms (case, spaces, Unicode forms, text and chat): by key, two of the forms."""
    first: dict[str, str | tuple[Message, ...]] = {}
    forms: dict[str, set[str | tuple[Message, ...]]] = defaultdict(set)
    for row in rows:
        key, form = prompt_key(row.prompt), prompt_identity(row.prompt)
        if first.setdefault(key, form) != form:
            forms[key] |= {first[key], form}
    shown = {key: sorted(map(repr, map(_shown, several)))[:2] for key, several in forms.items()}
    return {key: " and ".join(two) for key, two in shown.items()}


def _shown(form: str | tuple[Message, ...]) -> str:
    return form if isinstance(form, str) else f"chat: {prompt_text(form)}"


def divide(
    demonstrations: RecordLines[Demonstration],
    prompts: RecordLines[Prompt],
    general: RecordLines[Demonstration],
    splits: Mapping[str, str],
    lengths: Lengths,
    max_response_tokens: int,
) -> dict[str, SplitRows]:
    """Rows by split. A held-out split that has prompts alone is demonstrated by their references.

    Args:
        demonstrations: rows that passed.
        prompts: rows that passed.
        general: rows that passed.
        splits: the split of each prompt, by key.
        lengths: counts the references' tokens.
        max_response_tokens: longer references demonstrate nothing.

    Raises:
        ValueError: a split that a later stage reads would be empty.
    """
    parts = {}
    by_split = [_by_split(rows, splits) for rows in (demonstrations, prompts, general)]
    for split in SPLITS:
        split_demonstrations, split_prompts, split_general = (rows[split] for rows in by_split)
        if not split_demonstrations and split != "train":
            split_demonstrations = _demonstrate(split_prompts, lengths, max_response_tokens)
        _need(split_prompts, split, "prompts", prompts)
        if split != "test":  # nothing learns from its demonstrations, so prompts without references are enough there
            _need(split_demonstrations, split, "demonstrations", demonstrations)
        if general:
            _need(split_general, split, "general demonstrations", general)
        parts[split] = SplitRows(split_demonstrations, split_prompts, split_general)
    return parts


def _need(rows: Sequence[Record], split: str, kind: str, passed: Sequence[Record]) -> None:
    if not rows:
        share = "lower validate.dev_share and test_share" if split == "train" else f"raise validate.{split}_share"
        raise ValueError(
            f"{split} would hold no {kind}, of {len(passed)} that passed; add more data, {share}, or give rows a "
            f'split of their own ("split": "{split}")'
        )


def _by_split(rows: RecordLines[RowT], splits: Mapping[str, str]) -> dict[str, RecordLines[RowT]]:
    numbers: dict[str, list[int]] = {split: [] for split in SPLITS}
    for number, row in enumerate(rows):
        numbers[splits[prompt_key(row.prompt)]].append(number)
    return {split: rows.chosen(numbers[split], split=split) for split in SPLITS}


def _demonstrate(prompts: Iterable[Prompt], lengths: Lengths, max_response_tokens: int) -> RecordLines[Demonstration]:
    made = RecordLines(
        Demonstration,
        (
            Demonstration.model_validate(
                {"id": f"{prompt.id}-{number}", "prompt": prompt.prompt, "response": reference, "split": split}
            )
            for prompt in prompts
            for split in [(prompt.model_extra or {})["split"]]
            for number, reference in enumerate(prompt.references, 1)
        ),
    )
    counted = (tokens for rows in batches(made) for tokens in lengths.of_texts([row.response for row in rows]))
    return made.chosen(number for number, tokens in enumerate(counted) if tokens <= max_response_tokens)
