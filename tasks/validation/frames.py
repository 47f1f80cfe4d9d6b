"""Records as tables: one row each, with the columns that the expectations look at."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from rlhf.blank import is_blank
from rlhf.preferences import rating_fault, tied_couples
from rlhf.records import Demonstration, Pair, Prompt, Ranking, is_blank_prompt, prompt_identity, prompt_key, prompt_text
from rlhf.tokenizers import ControlTokens
from tasks.validation.lengths import Lengths

if TYPE_CHECKING:
    import pandas as pd

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
    rows: Sequence[Demonstration], declared: Mapping[str, list[str]], twins: Mapping[str, str], lengths: Lengths
) -> pd.DataFrame:
    """A row each: columns id, prompt, response, and what the demonstrations' suites hold them to."""
    import pandas as pd

    keys, texts, prompt_tokens, refusals = _prompts(rows, lengths)
    return pd.DataFrame(
        {
            "row": range(len(rows)),
            "id": [row.id for row in rows],
            "prompt": texts,
            "response": [row.response for row in rows],
            "prompt_tokens": prompt_tokens,
            "refusal": refusals,
            "response_tokens": lengths.of_texts([row.response for row in rows]),
            "declared_in": [", ".join(declared.get(key, [])) for key in keys],
            "twins": [twins.get(key, "") for key in keys],
            "controls": [
                _controls(text, [row.response], lengths.controls) for text, row in zip(texts, rows, strict=True)
            ],
            "damage": [
                _damage({"prompt": [text], "response": [row.response]}) for text, row in zip(texts, rows, strict=True)
            ],
        }
    )


def prompt_frame(
    rows: Sequence[Prompt], declared: Mapping[str, list[str]], twins: Mapping[str, str], lengths: Lengths
) -> pd.DataFrame:
    """A row each: columns id, prompt, and what the prompts' suite holds them to."""
    import pandas as pd

    keys, texts, prompt_tokens, refusals = _prompts(rows, lengths)
    return pd.DataFrame(
        {
            "row": range(len(rows)),
            "id": [row.id for row in rows],
            "prompt": texts,
            "prompt_tokens": prompt_tokens,
            "refusal": refusals,
            "references": [len(row.references) for row in rows],
            "blank_references": [sum(map(is_blank, row.references)) for row in rows],
            "declared_in": [", ".join(declared.get(key, [])) for key in keys],
            "twins": [twins.get(key, "") for key in keys],
            "controls": [
                _controls(text, row.references, lengths.controls) for text, row in zip(texts, rows, strict=True)
            ],
            "damage": [
                _damage({"prompt": [text], "references": row.references}) for text, row in zip(texts, rows, strict=True)
            ],
        }
    )


def feedback_frame(rows: Sequence[tuple[str, Ranking]], splits: Mapping[str, str], lengths: Lengths) -> pd.DataFrame:
    """Columns row, id (with its file), prompt, annotator, and the figures that the feedback suite bounds.

    `tie_share` is each ranking's ties in units of the mean number of couples a ranking has, so that the
    column's mean is the share of tied couples in all the feedback.

    Args:
        rows: (file, ranking).
        splits: the split of each prompt of the data, by key.
        lengths: counts the tokens.
    """
    import pandas as pd

    rankings = [ranking for _, ranking in rows]
    keys, texts, prompt_tokens, refusals = _prompts(rankings, lengths)
    items = [(key, *sorted(ranking.completions)) for key, ranking in zip(keys, rankings, strict=True)]
    annotators: dict[tuple[str, ...], set[str]] = defaultdict(set)
    for item, ranking in zip(items, rankings, strict=True):
        annotators[item].add(ranking.annotator)
    couples = sum(len(ranking.ranks) * (len(ranking.ranks) - 1) / 2 for ranking in rankings) / len(rankings)
    longest = _longest(rankings, lengths)
    has_ratings = [(ranking.model_extra or {}).get("ratings") is not None for ranking in rankings]
    return pd.DataFrame(
        {
            "row": range(len(rows)),
            "id": [f"{file}: {ranking.id}" for file, ranking in rows],
            "prompt": texts,
            "annotator": [ranking.annotator for ranking in rankings],
            "prompt_tokens": prompt_tokens,
            "refusal": refusals,
            "longest_completion": longest,
            "empty_completions": [sum(map(is_blank, ranking.completions)) for ranking in rankings],
            "tie_share": [tied_couples(ranking.ranks) / couples for ranking in rankings],
            "annotators": [len(annotators[item]) for item in items],
            "rating_fault": [rating_fault(ranking) for ranking in rankings],
            "unrated": ["no ratings" if any(has_ratings) and not rated else "" for rated in has_ratings],
            "split_of_prompt": [splits.get(key, "") for key in keys],
            "controls": [
                _controls(text, ranking.completions, lengths.controls)
                for text, ranking in zip(texts, rankings, strict=True)
            ],
            "damage": [
                _damage({"prompt": [text], "completions": ranking.completions})
                for text, ranking in zip(texts, rankings, strict=True)
            ],
        }
    )


def pair_frame(pairs: Sequence[tuple[str, Pair]]) -> pd.DataFrame:
    """A row per pair: its own fields, and what the suite looks at.

    Columns row, split, prompt, chosen, rejected, annotator, margin, same_text, splits_of_prompt (judge is train there).
    """
    import pandas as pd

    keys = [prompt_key(pair.prompt) for _, pair in pairs]
    splits: dict[str, set[str]] = defaultdict(set)
    for key, (split, _) in zip(keys, pairs, strict=True):
        # The judge may share a prompt with train, never with dev or test.
        splits[key].add("train" if split == "judge" else split)
    return pd.DataFrame(
        {
            "row": range(len(pairs)),
            "split": [split for split, _ in pairs],
            "prompt": [prompt_text(pair.prompt) for _, pair in pairs],
            "chosen": [pair.chosen for _, pair in pairs],
            "rejected": [pair.rejected for _, pair in pairs],
            "annotator": [pair.annotator for _, pair in pairs],
            "margin": [pair.margin for _, pair in pairs],
            # Compared here: the expectation that compares two columns goes through them row by row.
            "same_text": [pair.chosen == pair.rejected for _, pair in pairs],
            "splits_of_prompt": [len(splits[key]) for key in keys],
        }
    )


class _PromptColumns(NamedTuple):
    """What the rows' prompts are held to; each distinct prompt is counted once."""

    keys: list[str]
    texts: list[str]
    """As people are shown them; empty where nothing is asked."""
    tokens: list[int]
    refusals: list[str]
    """Why the model cannot be shown the prompt; empty where it can."""


def _prompts(rows: Sequence[Demonstration | Prompt | Ranking], lengths: Lengths) -> _PromptColumns:
    identities = [prompt_identity(row.prompt) for row in rows]
    distinct = dict.fromkeys(identities)
    keys = {prompt: prompt_key(prompt) for prompt in distinct}
    texts = {prompt: "" if is_blank_prompt(prompt) else prompt_text(prompt) for prompt in distinct}
    counted, refusals = dict.fromkeys(distinct, 0), dict.fromkeys(distinct, "")
    for prompt in distinct:
        try:
            counted[prompt] = lengths.of_prompt(prompt)
        except ValueError as error:
            refusals[prompt] = str(error)
    return _PromptColumns(
        [keys[prompt] for prompt in identities],
        [texts[prompt] for prompt in identities],
        [counted[prompt] for prompt in identities],
        [refusals[prompt] for prompt in identities],
    )


def _longest(rankings: Sequence[Ranking], lengths: Lengths) -> list[int]:
    texts = list(dict.fromkeys(text for ranking in rankings for text in ranking.completions))
    counted = dict(zip(texts, lengths.of_texts(texts), strict=True))
    return [max(counted[text] for text in ranking.completions) for ranking in rankings]
