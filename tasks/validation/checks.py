"""Expectations with their consequence, and those that several suites share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from rlhf.blank import WRITTEN


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


def has_columns(*columns: str) -> list[DataCheck]:
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


def has_unique_ids() -> DataCheck:
    return DataCheck(
        "ExpectColumnValuesToBeUnique",
        {"column": "id"},
        "error",
        "the id occurs more than once",
        "give every row its own id",
    )


def has_one_split() -> DataCheck:
    return DataCheck(
        "ExpectColumnValuesToBeInSet",
        {"column": "declared_in", "value_set": ["", "train", "dev", "test"]},
        "error",
        "the prompt is in more than one split",
        "keep it in one split, in whatever case, spaces and Unicode form; nothing may train on test prompts",
    )


def has_one_form() -> DataCheck:
    return DataCheck(
        "ExpectColumnValuesToBeInSet",
        {"column": "twins", "value_set": [""]},
        "warning",
        "the prompt is written in several ways, which are in one split",
        "nothing, if they are one question; else put it in other words",
    )


def is_not_blank(column: str, level: Literal["error", "row", "warning"] = "row") -> DataCheck:
    return DataCheck(
        "ExpectColumnValuesToMatchRegex",
        {"column": column, "regex": WRITTEN},
        level,
        f"{column} is blank",
        f"write the {column}, or remove the row",
    )


def is_not_longer(column: str, limit: int, level: Literal["row", "warning"]) -> DataCheck:
    return DataCheck(
        "ExpectColumnValuesToBeBetween",
        {"column": column, "max_value": limit},
        level,
        f"{column.replace('_', ' ')} above {limit}",
        "shorten the text, or raise the limit in params.yaml",
    )


def can_be_shown() -> DataCheck:
    return DataCheck(
        "ExpectColumnValuesToBeInSet",
        {"column": "refusal", "value_set": [""]},
        "row",
        "the model cannot be shown the prompt",
        "write the turns as its chat template wants them, or remove the row",
    )


def has_no_controls(level: Literal["row", "warning"]) -> DataCheck:
    return DataCheck(
        "ExpectColumnValuesToBeInSet",
        {"column": "controls", "value_set": [""]},
        level,
        "control tokens in the text" + (", which are read as text" if level == "warning" else ""),
        "take them out, or say in validate.control_tokens whether they are text or the row is quarantined",
    )


def is_undamaged() -> DataCheck:
    return DataCheck(
        "ExpectColumnValuesToBeInSet",
        {"column": "damage", "value_set": [""]},
        "row",
        "encoding damage",
        "read the text's source as UTF-8 again",
    )
