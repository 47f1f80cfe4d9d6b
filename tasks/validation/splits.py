"""The split of each prompt, and the rows of each split."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, TypeVar

from rlhf.preferences import SPLITS, splits_of_prompts
from rlhf.records import Demonstration, Message, Prompt, Record, prompt_identity, prompt_key, prompt_text
from tasks.validation.lengths import Lengths

RowT = TypeVar("RowT", Demonstration, Prompt)


class SplitRows(NamedTuple):
    """What one split holds; every row carries its split."""

    demonstrations: list[Demonstration]
    prompts: list[Prompt]
    general: list[Demonstration]
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
    forms: dict[str, set[str | tuple[Message, ...]]] = defaultdict(set)
    for row in rows:
        forms[prompt_key(row.prompt)].add(prompt_identity(row.prompt))
    shown = {key: sorted(map(repr, map(_shown, several)))[:2] for key, several in forms.items() if len(several) > 1}
    return {key: " and ".join(two) for key, two in shown.items()}


def _shown(form: str | tuple[Message, ...]) -> str:
    return form if isinstance(form, str) else f"chat: {prompt_text(form)}"


def divide(
    demonstrations: Sequence[Demonstration],
    prompts: Sequence[Prompt],
    general: Sequence[Demonstration],
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
    for split in SPLITS:
        split_demonstrations = _of_split(demonstrations, split, splits)
        split_prompts = _of_split(prompts, split, splits)
        split_general = _of_split(general, split, splits)
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


def _of_split(rows: Iterable[RowT], split: str, splits: Mapping[str, str]) -> list[RowT]:
    return [row.model_copy(update={"split": split}) for row in rows if splits[prompt_key(row.prompt)] == split]


def _demonstrate(prompts: Iterable[Prompt], lengths: Lengths, max_response_tokens: int) -> list[Demonstration]:
    made = [
        Demonstration.model_validate(
            {"id": f"{prompt.id}-{number}", "prompt": prompt.prompt, "response": reference, "split": split}
        )
        for prompt in prompts
        for split in [(prompt.model_extra or {})["split"]]
        for number, reference in enumerate(prompt.references, 1)
    ]
    counted = lengths.of_texts([row.response for row in made])
    return [row for row, tokens in zip(made, counted, strict=True) if tokens <= max_response_tokens]
