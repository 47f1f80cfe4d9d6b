"""What the data must hold to: the expectations of each suite, their level, and what to do when one fails.

An `error` stops the night; a `row` sends the rows at fault to quarantine; a `warning` is reported.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from tasks.params.validate import ValidateParams


@dataclass(frozen=True)
class DataCheck:
    """One expectation of Great Expectations with its consequence."""

    kind: str
    """The class in great_expectations.expectations."""
    arguments: dict[str, Any]
    level: Literal["error", "row", "warning"]
    reason: str
    """What is wrong with what fails; opens the reason in quarantine."""
    remedy: str

    @property
    def column(self) -> str | None:
        """The column that shows what is wrong with a row, where there is one."""
        column = self.arguments.get("column")
        return str(column) if column is not None else None


def demonstration_checks(params: ValidateParams, max_prompt_tokens: int) -> list[DataCheck]:
    """The suite of data/raw/demonstrations.jsonl, and of general.jsonl beside it."""
    return [
        *_schema("id", "prompt", "response"),
        _unique_ids(),
        _one_split(),
        _not_blank("prompt"),
        _not_blank("response"),
        _not_longer("prompt_tokens", max_prompt_tokens, "row"),
        _not_longer("response_tokens", params.max_response_tokens, "row"),
        _undamaged(),
    ]


def prompt_checks(params: ValidateParams, max_prompt_tokens: int) -> list[DataCheck]:
    """The suite of data/raw/prompts.jsonl."""
    return [
        *_schema("id", "prompt"),
        _unique_ids(),
        _one_split(),
        _not_blank("prompt"),
        _not_longer("prompt_tokens", max_prompt_tokens, "row"),
        DataCheck(
            "ExpectColumnValuesToBeBetween",
            {"column": "blank_references", "max_value": 0},
            "row",
            "a reference is blank",
            "remove the blank references, or write them",
        ),
        _undamaged(),
    ]


def feedback_checks(params: ValidateParams, max_prompt_tokens: int) -> list[DataCheck]:
    """The suite of the rankings below data/feedback."""
    return [
        *_schema("id", "prompt", "annotator"),
        _unique_ids(),
        _not_blank("prompt"),
        _not_longer("prompt_tokens", max_prompt_tokens, "row"),
        _undamaged(),
        _not_longer("longest_completion", params.max_response_tokens, "warning"),
        DataCheck(
            "ExpectColumnValuesToBeBetween",
            {"column": "empty_completions", "max_value": 0},
            "warning",
            "a ranked completion is empty",
            "nothing, if the ranked system did write nothing",
        ),
        DataCheck(
            "ExpectColumnMeanToBeBetween",
            {"column": "tie_share", "max_value": params.max_tie_share},
            "warning",
            "the share of tied couples is high",
            "ask for stricter rankings: ties teach nothing (or raise validate.max_tie_share)",
        ),
        DataCheck(
            "ExpectColumnValuesToBeBetween",
            {"column": "annotators", "min_value": params.min_annotators},
            "warning",
            "an item has few annotators",
            "let more people rank it (or lower validate.min_annotators)",
        ),
        DataCheck(
            "ExpectColumnValuesToNotBeInSet",
            {"column": "split_of_prompt", "value_set": ["test"]},
            "warning",
            "the ranked prompt is one that the policy is tested on",
            "collect feedback on other prompts, or look at the test figures of prompts that nobody ranked",
        ),
    ]


def pair_checks() -> list[DataCheck]:
    """The suite of the pairs, all splits together."""
    return [
        *_schema("prompt", "chosen", "rejected", "annotator", "margin"),
        _not_blank("prompt", "error"),
        DataCheck(
            "ExpectSelectColumnValuesToBeUniqueWithinRecord",
            {"column_list": ["chosen", "rejected"]},
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
            "the ratings do not agree with the ranks",
            "check those rankings: the ranks were used",
        ),
        _not_blank("chosen", "warning"),
    ]


def _schema(*columns: str) -> list[DataCheck]:
    remedy = "this column is written by the stage before; run it again"
    exists: list[DataCheck] = [
        DataCheck(
            "ExpectTableRowCountToBeBetween",
            {"min_value": 1},
            "error",
            "there is no row",
            "give at least one row",
        )
    ]
    for column in columns:
        exists.append(DataCheck("ExpectColumnToExist", {"column": column}, "error", f"{column} is missing", remedy))
        exists.append(
            DataCheck("ExpectColumnValuesToNotBeNull", {"column": column}, "error", f"{column} is null", remedy)
        )
    return exists


def _unique_ids() -> DataCheck:
    return DataCheck(
        "ExpectColumnValuesToBeUnique",
        {"column": "id"},
        "error",
        "the id occurs more than once",
        "give every row its own id",
    )


def _one_split() -> DataCheck:
    return DataCheck(
        "ExpectColumnValuesToBeInSet",
        {"column": "declared_in", "value_set": ["", "train", "dev", "test"]},
        "error",
        "the prompt is in more than one split",
        "keep it in one split; nothing may train on test prompts",
    )


def _not_blank(column: str, level: Literal["error", "row", "warning"] = "row") -> DataCheck:
    return DataCheck(
        "ExpectColumnValuesToMatchRegex",
        {"column": column, "regex": r"\S"},
        level,
        f"{column} is blank",
        f"write the {column}, or remove the row",
    )


def _not_longer(column: str, limit: int, level: Literal["row", "warning"]) -> DataCheck:
    return DataCheck(
        "ExpectColumnValuesToBeBetween",
        {"column": column, "max_value": limit},
        level,
        f"{column.replace('_', ' ')} above {limit}",
        "shorten the text, or raise the limit in params.yaml",
    )


def _undamaged() -> DataCheck:
    return DataCheck(
        "ExpectColumnValuesToBeInSet",
        {"column": "damage", "value_set": [""]},
        "row",
        "encoding damage",
        "read the text's source as UTF-8 again",
    )
