"""What the data must hold to: the expectations of each suite, their level, and what to do when one fails.

An `error` stops the night; a `row` sends the rows at fault to quarantine; a `warning` is reported.
"""

from __future__ import annotations

from tasks.params.validate import ValidateParams
from tasks.validation.checks import (
    DataCheck,
    can_be_shown,
    has_columns,
    has_no_controls,
    has_one_form,
    has_one_split,
    has_unique_ids,
    is_not_blank,
    is_not_longer,
    is_undamaged,
)


def demonstration_checks(params: ValidateParams, max_prompt_tokens: int) -> list[DataCheck]:
    """The suite of data/raw/demonstrations.jsonl, and of general.jsonl beside it."""
    return [
        *has_columns("id", "prompt", "response"),
        has_unique_ids(),
        has_one_split(),
        has_one_form(),
        is_not_blank("prompt"),
        can_be_shown(),
        is_not_blank("response"),
        is_not_longer("prompt_tokens", max_prompt_tokens, "row"),
        is_not_longer("response_tokens", params.max_response_tokens, "row"),
        is_undamaged(),
        has_no_controls("row" if params.control_tokens == "quarantine" else "warning"),
    ]


def prompt_checks(params: ValidateParams, max_prompt_tokens: int) -> list[DataCheck]:
    """The suite of data/raw/prompts.jsonl."""
    return [
        *has_columns("id", "prompt"),
        has_unique_ids(),
        has_one_split(),
        has_one_form(),
        is_not_blank("prompt"),
        can_be_shown(),
        is_not_longer("prompt_tokens", max_prompt_tokens, "row"),
        DataCheck(
            "ExpectColumnValuesToBeBetween",
            {"column": "blank_references", "max_value": 0},
            "row",
            "a reference is blank",
            "remove the blank references, or write them",
        ),
        is_undamaged(),
        has_no_controls("row" if params.control_tokens == "quarantine" else "warning"),
    ]


def feedback_checks(params: ValidateParams, max_prompt_tokens: int) -> list[DataCheck]:
    """The suite of the rankings below data/feedback."""
    return [
        *has_columns("id", "prompt", "annotator"),
        has_unique_ids(),
        is_not_blank("prompt"),
        can_be_shown(),
        is_not_longer("prompt_tokens", max_prompt_tokens, "row"),
        is_undamaged(),
        has_no_controls("row" if params.control_tokens == "quarantine" else "warning"),
        DataCheck(
            "ExpectColumnValuesToBeInSet",
            {"column": "rating_fault", "value_set": [""]},
            "row",
            "ratings that cannot be used",
            "give one number per completion, higher is better, that agrees with the ranks, or take the ratings out",
        ),
        DataCheck(
            "ExpectColumnValuesToBeInSet",
            {"column": "unrated", "value_set": [""]},
            "warning",
            "some rankings have ratings and others none: margins are differences of ratings here, of ranks there",
            "rate all or none, where reward.margin is above 0 or reward.loss is regression",
        ),
        is_not_longer("longest_completion", params.max_response_tokens, "warning"),
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
