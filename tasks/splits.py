"""Which split each prompt falls in, and what each split then holds."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, TypeVar

from rlhf.preferences import SPLITS, split_of
from rlhf.records import Demonstration, Prompt, prompt_key
from tasks.lengths import Lengths

RowT = TypeVar("RowT", Demonstration, Prompt)


class SplitRows(NamedTuple):
    """What one split holds; every row carries its split."""

    demonstrations: list[Demonstration]
    prompts: list[Prompt]


def declared_splits(rows: Iterable[Demonstration | Prompt]) -> dict[str, list[str]]:
    """For each prompt of rows with a `split` of their own: those splits, sorted."""
    found: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        split = (row.model_extra or {}).get("split")
        if split is not None:
            found[prompt_key(row.prompt)].add(split)
    return {key: sorted(splits) for key, splits in found.items()}


def assign_splits(
    rows: Iterable[Demonstration | Prompt],
    declared: Mapping[str, list[str]],
    dev_share: float,
    test_share: float,
    seed: int,
) -> dict[str, str]:
    """The split of every prompt: the one that some row of it declares, else by the prompt's hash."""
    keys = dict.fromkeys(prompt_key(row.prompt) for row in rows)
    return {key: declared[key][0] if key in declared else split_of(key, dev_share, test_share, seed) for key in keys}


def divide(
    demonstrations: Sequence[Demonstration],
    prompts: Sequence[Prompt],
    splits: Mapping[str, str],
    lengths: Lengths,
    max_response_tokens: int,
) -> dict[str, SplitRows]:
    """Rows by split. A held-out split that has prompts alone is demonstrated by their references.

    Args:
        demonstrations: rows that passed.
        prompts: rows that passed.
        splits: the split of each prompt, by key.
        lengths: counts the references' tokens.
        max_response_tokens: longer references demonstrate nothing.

    Raises:
        ValueError: a split that a later stage reads would be empty.
    """
    parts = {}
    for split in SPLITS:
        chosen, asked = _of_split(demonstrations, split, splits), _of_split(prompts, split, splits)
        if not chosen and split != "train":
            chosen = _demonstrate(asked, lengths, max_response_tokens)
        # Nothing learns from demonstrations of test, so prompts without references are enough there.
        missing = "prompts" if not asked else "demonstrations" if not chosen and split != "test" else None
        if missing:
            raise ValueError(
                f"{split} would hold no {missing}, of {len(demonstrations)} demonstrations and "
                f"{len(prompts)} prompts that passed; bring more data, {_remedy(split)}, or "
                f'give rows a split of their own ("split": "{split}")'
            )
        parts[split] = SplitRows(chosen, asked)
    return parts


def _remedy(split: str) -> str:
    return "lower validate.dev_share and test_share" if split == "train" else f"raise validate.{split}_share"


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
