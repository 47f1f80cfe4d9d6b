"""Records as tables: one row each, with the columns that the expectations look at."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from rlhf.blank import is_blank
from rlhf.preferences import SPLITS, rating_fault, tied_couples
from rlhf.records import (
    Demonstration,
    Message,
    Pair,
    Prompt,
    PromptText,
    Ranking,
    digest,
    is_blank_prompt,
    prompt_identity,
    prompt_key,
    prompt_text,
)
from rlhf.tokenizers import ControlTokens
from tasks.validation.lengths import Lengths
from tasks.validation.record_lines import AT_ONCE, batches

if TYPE_CHECKING:
    import pandas as pd

RowT = TypeVar("RowT")

# The characters that the bytes 0x80 to 0xBF become when UTF-8 is read as Windows-1252 or Latin-1.
_CONTINUATION = "\u0080-\u00bf€‚ƒ„…†‡ˆ‰Š‹ŒŽ‘’“”•–—˜™š›œžŸ"
# A closing quote or an ellipsis may well follow a word that ends in Ã.
_INNER = re.sub("[’”…»]", "", _CONTINUATION.replace("\u0080-\u00bf", "\u0080-\u00ba\u00bc-\u00bf"))
DAMAGE = (
    ("the replacement character U+FFFD", re.compile("\ufffd")),
    (
        "UTF-8 read as another encoding",
        re.compile(f"[ÂÃ][{_INNER}]|â[{_CONTINUATION}]{{2}}|ð[Ÿ\u009f][{_CONTINUATION}]"),
    ),
    ("a control character", re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")),
)
_SUSPECT = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ufffdÂÃâð]")


def damage_in(text: str) -> str:
    """Signs of an encoding accident in a text, in words; empty when there are none."""
    if not _SUSPECT.search(text):
        return ""
    return "; ".join(name for name, pattern in DAMAGE if pattern.search(text))


def _damage(fields: Mapping[str, Iterable[str]]) -> str:
    """The damage of a row's fields, as `field: what`; empty when there is none."""
    damage = {name: next(filter(None, map(damage_in, texts)), "") for name, texts in fields.items()}
    return "; ".join(f"{name}: {what}" for name, what in damage.items() if what)


def _controls(prompt: str, responses: Iterable[str], controls: ControlTokens) -> str:
    """The control tokens in the texts of a row; the end tokens that close a response are none."""
    texts = [prompt, *(controls.at_end.sub("", text) for text in responses)]
    return ", ".join(dict.fromkeys(token for text in texts for token in controls.anywhere.findall(text)))


def demonstration_frame(
    rows: Iterable[Demonstration], declared: Mapping[str, list[str]], twins: Mapping[str, str], lengths: Lengths
) -> pd.DataFrame:
    """A row each: columns id, prompt, response, and what the demonstrations' suites hold them to."""
    look = _looking_by(lengths)

    def columns(rows: Sequence[Demonstration]) -> dict[str, list[Any]]:
        prompts, responses = [look(row.prompt) for row in rows], [row.response for row in rows]
        both = list(zip(prompts, responses, strict=True))
        return {
            "id": [row.id for row in rows],
            "prompt": [prompt.text for prompt in prompts],
            "response": responses,
            "prompt_tokens": [prompt.tokens for prompt in prompts],
            "refusal": [prompt.refusal for prompt in prompts],
            "response_tokens": lengths.of_texts(responses),
            "declared_in": [", ".join(declared.get(prompt.key, [])) for prompt in prompts],
            "twins": [twins.get(prompt.key, "") for prompt in prompts],
            "controls": [_controls(prompt.text, [response], lengths.controls) for prompt, response in both],
            "damage": [_damage({"prompt": [prompt.text], "response": [response]}) for prompt, response in both],
        }

    return _frame(rows, columns)


def prompt_frame(
    rows: Iterable[Prompt], declared: Mapping[str, list[str]], twins: Mapping[str, str], lengths: Lengths
) -> pd.DataFrame:
    """A row each: columns id, prompt, and what the prompts' suite holds them to."""
    look = _looking_by(lengths)

    def columns(rows: Sequence[Prompt]) -> dict[str, list[Any]]:
        prompts = [look(row.prompt) for row in rows]
        both = [(prompt.text, row.references) for prompt, row in zip(prompts, rows, strict=True)]
        return {
            "id": [row.id for row in rows],
            "prompt": [prompt.text for prompt in prompts],
            "prompt_tokens": [prompt.tokens for prompt in prompts],
            "refusal": [prompt.refusal for prompt in prompts],
            "references": [len(row.references) for row in rows],
            "blank_references": [sum(map(is_blank, row.references)) for row in rows],
            "declared_in": [", ".join(declared.get(prompt.key, [])) for prompt in prompts],
            "twins": [twins.get(prompt.key, "") for prompt in prompts],
            "controls": [_controls(text, references, lengths.controls) for text, references in both],
            "damage": [_damage({"prompt": [text], "references": references}) for text, references in both],
        }

    return _frame(rows, columns)


def feedback_frame(
    rankings: Sequence[Ranking], files: Sequence[str], splits: Mapping[str, str], lengths: Lengths
) -> pd.DataFrame:
    """Columns row, id (with its file), prompt, annotator, and the figures that the feedback suite bounds.

    `tie_share` is each ranking's ties in units of the mean number of couples a ranking has, so that the
    column's mean is the share of tied couples in all the feedback.

    Args:
        rankings: at least one.
        files: of each ranking.
        splits: the split of each prompt of the data, by key.
        lengths: counts the tokens.
    """
    look, couples, any_rated = _looking_by(lengths), 0, False
    items, annotators, known = [], Counter[bytes](), set[bytes]()
    for ranking in rankings:
        items.append(digest(prompt_key(ranking.prompt), *sorted(ranking.completions)))
        if (by_whom := digest(ranking.annotator, base=items[-1])) not in known:
            known.add(by_whom)
            annotators[items[-1]] += 1
        couples += len(ranking.ranks) * (len(ranking.ranks) - 1) // 2
        any_rated |= _is_rated(ranking)
    mean, numbers = couples / len(rankings), [annotators[item] for item in items]

    def columns(rows: Sequence[tuple[Ranking, str, int]]) -> dict[str, list[Any]]:
        prompts, rankings = [look(ranking.prompt) for ranking, _, _ in rows], [ranking for ranking, _, _ in rows]
        both = [(prompt.text, ranking.completions) for prompt, ranking in zip(prompts, rankings, strict=True)]
        return {
            "id": [f"{file}: {ranking.id}" for ranking, file, _ in rows],
            "prompt": [prompt.text for prompt in prompts],
            "annotator": [ranking.annotator for ranking in rankings],
            "prompt_tokens": [prompt.tokens for prompt in prompts],
            "refusal": [prompt.refusal for prompt in prompts],
            "longest_completion": _longest(rankings, lengths),
            "empty_completions": [sum(map(is_blank, ranking.completions)) for ranking in rankings],
            "tie_share": [tied_couples(ranking.ranks) / mean for ranking in rankings],
            "annotators": [number for _, _, number in rows],
            "rating_fault": [rating_fault(ranking) for ranking in rankings],
            "unrated": ["no ratings" if any_rated and not _is_rated(ranking) else "" for ranking in rankings],
            "split_of_prompt": [splits.get(prompt.key, "") for prompt in prompts],
            "controls": [_controls(text, completions, lengths.controls) for text, completions in both],
            "damage": [_damage({"prompt": [text], "completions": completions}) for text, completions in both],
        }

    return _frame(zip(rankings, files, numbers, strict=True), columns)


def pair_frame(pairs: Iterable[tuple[str, Pair]]) -> pd.DataFrame:
    """A row per pair: its own fields, and what the suite looks at.

    Columns row, split, prompt, chosen, rejected, annotator, margin, same_text, splits_of_prompt (judge is train there).
    """
    import numpy as np

    keys = list[bytes]()
    splits: dict[bytes, int] = defaultdict(int)
    """A bit for each split that holds a prompt."""

    def columns(rows: Sequence[tuple[str, Pair]]) -> dict[str, Any]:
        for split, pair in rows:
            keys.append(digest(prompt_key(pair.prompt)))
            # The judge may share a prompt with train, never with dev or test.
            splits[keys[-1]] |= 1 << SPLITS.index("train" if split == "judge" else split)
        return {
            "split": [split for split, _ in rows],
            "prompt": [prompt_text(pair.prompt) for _, pair in rows],
            "chosen": [pair.chosen for _, pair in rows],
            "rejected": [pair.rejected for _, pair in rows],
            "annotator": [pair.annotator for _, pair in rows],
            "margin": np.array([pair.margin for _, pair in rows], dtype=float),
            # Compared here: the expectation that compares two columns goes through them row by row.
            "same_text": [pair.chosen == pair.rejected for _, pair in rows],
        }

    return _frame(pairs, columns).assign(splits_of_prompt=[splits[key].bit_count() for key in keys])


def _frame(rows: Iterable[RowT], columns: Callable[[Sequence[RowT]], dict[str, Any]]) -> pd.DataFrame:
    """The columns of all rows, made of so many rows at a time, with their numbers as column `row` before them."""
    import pandas as pd

    parts = [pd.DataFrame(columns(some)) for some in batches(rows)] or [pd.DataFrame(columns([]))]
    frame = pd.concat(parts, ignore_index=True)
    frame.insert(0, "row", range(len(frame)))
    return frame


class _PromptCells(NamedTuple):
    """What a prompt is held to."""

    key: str
    text: str
    """As people are shown it; empty where nothing is asked."""
    tokens: int
    refusal: str
    """Why the model cannot be shown the prompt; empty where it can."""


def _looking_by(lengths: Lengths) -> Callable[[PromptText], _PromptCells]:
    """Looks at a prompt; those of the latest rows are remembered."""

    @lru_cache(2 * AT_ONCE)
    def cells(prompt: str | tuple[Message, ...]) -> _PromptCells:
        tokens, refusal = 0, ""
        try:
            tokens = lengths.of_prompt(prompt)
        except ValueError as error:
            refusal = str(error)
        return _PromptCells(prompt_key(prompt), "" if is_blank_prompt(prompt) else prompt_text(prompt), tokens, refusal)

    return lambda prompt: cells(prompt_identity(prompt))


def _longest(rankings: Sequence[Ranking], lengths: Lengths) -> list[int]:
    texts = list(dict.fromkeys(text for ranking in rankings for text in ranking.completions))
    counted = dict(zip(texts, lengths.of_texts(texts), strict=True))
    return [max(counted[text] for text in ranking.completions) for ranking in rankings]


def _is_rated(ranking: Ranking) -> bool:
    return (ranking.model_extra or {}).get("ratings") is not None
