"""params.yaml as a whole: sections by name, and sections by the names that they had."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tasks.params.night import TRIED
from tasks.params.whole import Params, read_params

TEXT = """\
model: {config: {model_type: llama}}
sft: {steps: 1, batch_size: 1, learning_rate: 1.0e-3}
reward: {steps: 1, batch_size: 1, learning_rate: 1.0e-3}
policy: {iterations: 7, prompts_per_iteration: 1}
"""


def written(folder: Path, text: str) -> Path:
    file = folder / "params.yaml"
    file.write_text(text, encoding="utf-8")
    return file


@pytest.mark.parametrize(
    ("text", "where"),
    [
        (TEXT.replace("policy:", "ppo:"), "ppo"),
        (TEXT + "night: {variants: {steep: {ppo: {learning_rate: 1.0e-2}}}}\n", "night.variants.steep.ppo"),
    ],
)
def test_a_section_by_its_old_name_says_what_to_rename(tmp_path: Path, text: str, where: str) -> None:
    """In params.yaml and in a night's variants: the file, the section, and its name now."""
    with pytest.raises(ValueError, match=rf"params.yaml: {where}: this section is called policy now; rename it"):
        read_params(written(tmp_path, text))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            TEXT + "pairs: {max_completion_tokens: 256}\n",
            "pairs.max_completion_tokens: reward.max_completion_tokens is the one param of this now: "
            "give it the value; take it out here (it is 256)",
        ),
        (
            TEXT + "night: {variants: {long: {pairs: {max_completion_tokens: 256}}}}\n",
            "night.variants.long.pairs.max_completion_tokens: reward.max_completion_tokens is the one param",
        ),
        (
            TEXT + "evaluate: {bootstrap: 2000}\n",
            "evaluate.bootstrap: the win rate's interval is computed now, and draws nothing; "
            "take it out here (it is 2000)",
        ),
    ],
)
def test_a_param_that_went_says_why(tmp_path: Path, text: str, said: str) -> None:
    """By its place, with the value that was given, and the param that took over where there is one."""
    with pytest.raises(ValueError, match=re.escape(f"params.yaml: {said}")):
        read_params(written(tmp_path, text))


def test_every_section_is_found_by_its_name(tmp_path: Path) -> None:
    """Also those whose field has another name, since pydantic's models have methods called so."""
    params = read_params(written(tmp_path, TEXT))
    assert params.section("policy") is params.policy
    assert params.section("validate") is params.validate_
    assert params.section("register") is params.register_
    names = {info.alias or field for field, info in Params.model_fields.items()}
    assert set(TRIED) < names
