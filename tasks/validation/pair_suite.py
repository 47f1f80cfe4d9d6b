"""What the pairs must hold to: the expectations of their suite."""

from __future__ import annotations

from tasks.validation.checks import DataCheck, has_columns, is_not_blank


def pair_checks() -> list[DataCheck]:
    """The suite of the pairs, all splits together."""
    return [
        *has_columns("prompt", "chosen", "rejected", "annotator", "margin"),
        is_not_blank("prompt", "error"),
        DataCheck(
            "ExpectColumnValuesToBeInSet",
            {"column": "same_text", "value_set": [False]},
            "error",
            "chosen and rejected are the same text",
            "drop such pairs: they teach nothing",
        ),
        DataCheck(
            "ExpectColumnValuesToBeBetween",
            {"column": "splits_of_prompt", "max_value": 1},
            "error",
            "a prompt is in a held-out split and in another",
            "give every prompt one split",
        ),
        DataCheck(
            "ExpectColumnValuesToBeBetween",
            {"column": "margin", "min_value": 0, "strict_min": True},
            "warning",
            "the ratings are equal where the ranks are not, so that the margin is 0",
            "nothing, if the ranks say more than the ratings",
        ),
        is_not_blank("chosen", "warning"),
    ]
