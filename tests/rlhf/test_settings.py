"""Settings: what is misspelt, out of range or contradictory is an error before any model loads."""

from __future__ import annotations

import subprocess
import sys

import pytest
from pydantic import BaseModel, ValidationError

from rlhf.settings.model import ModelSettings
from rlhf.settings.policy import KlSettings, PolicySettings
from rlhf.settings.reward import RewardSettings
from rlhf.settings.rollouts import RolloutSettings
from rlhf.settings.sft import SftSettings

STEPS = {"steps": 1, "batch_size": 1, "learning_rate": 1e-3}
PPO = {"iterations": 1, "prompts_per_iteration": 1}


@pytest.mark.parametrize(
    ("kind", "fields", "named"),
    [
        (SftSettings, {**STEPS, "learning_rat": 1.0}, "learning_rat"),
        (SftSettings, {**STEPS, "steps": 0}, "steps"),
        (SftSettings, {**STEPS, "steps": "10"}, "steps"),
        (SftSettings, {**STEPS, "learning_rate": 0.0}, "learning_rate"),
        (SftSettings, {**STEPS, "warmup_share": 1.5}, "warmup_share"),
        (SftSettings, {"steps": 1, "batch_size": 1}, "learning_rate"),
        (RewardSettings, {**STEPS, "kind": "ensemble"}, "kind"),
        (PolicySettings, {**PPO, "dual_clip": 1.0}, "dual_clip"),
        (PolicySettings, {**PPO, "kl": {"estimator": "k4"}}, "estimator"),
        (PolicySettings, {**PPO, "kl": {"coefficient": -0.1}}, "coefficient"),
        (PolicySettings, {**PPO, "discount": 1.1}, "discount"),
        (PolicySettings, {**PPO, "temperature": 0.0}, "temperature"),
        (KlSettings, {"target": 0.0}, "target"),
        (RolloutSettings, {"completions": 1}, "completions"),
        (RolloutSettings, {"sampling": []}, "sampling"),
        (RolloutSettings, {"sampling": [{"top_p": 2.0}]}, "top_p"),
        (ModelSettings, {"name": "m", "device": "tpu"}, "device"),
        (ModelSettings, {"name": "m", "vocab_size": 10}, "vocab_size"),
    ],
)
def test_a_wrong_setting_is_named(kind: type[BaseModel], fields: dict[str, object], named: str) -> None:
    """Misspelt, missing, of another type, or out of its range."""
    with pytest.raises(ValidationError, match=named):
        kind.model_validate(fields)


@pytest.mark.parametrize("fields", [{}, {"name": "gpt2", "config": {"model_type": "gpt2"}}])
def test_a_model_has_one_origin(fields: dict[str, object]) -> None:
    """Neither a name nor a configuration, or both, is an error."""
    with pytest.raises(ValidationError, match=r"give either name .* or config .*, not both"):
        ModelSettings.model_validate(fields)


def test_a_model_from_scratch_needs_its_type() -> None:
    """The error says what is missing, with an example."""
    with pytest.raises(ValidationError, match="config has no model_type; give one that transformers knows"):
        ModelSettings.model_validate({"config": {"hidden_size": 8}})


@pytest.mark.parametrize(
    ("kl", "remedy"),
    [
        ({"estimator": "k2"}, "k2 in the reward .* write in: loss beside estimator: k2, or estimator: k1 to keep"),
        ({"in": "reward", "estimator": "k3"}, "k3 in the reward .* write in: loss beside estimator: k3, or"),
        ({"in": "loss"}, "k1 in the loss .* expectation of its gradient is 0; write estimator: k2 or estimator: k3"),
    ],
)
def test_a_penalty_without_the_kls_gradient_is_refused(kl: dict[str, str], remedy: str) -> None:
    """The error says why it holds nothing back, and what to write instead."""
    with pytest.raises(ValidationError, match=remedy):
        PolicySettings.model_validate({**PPO, "kl": kl})


def test_the_kl_stands_where_params_say() -> None:
    """`in` is its name in params.yaml."""
    found = KlSettings.model_validate({"in": "loss", "estimator": "k3"})
    assert (found.in_, found.estimator) == ("loss", "k3")
    assert found.model_dump(by_alias=True)["in"] == "loss"


def test_settings_do_not_change_once_read() -> None:
    """No stage can edit what another one will read."""
    settings = SftSettings.model_validate(STEPS)
    with pytest.raises(ValidationError, match="frozen"):
        settings.steps = 2  # type: ignore[misc]


def test_reading_settings_costs_no_torch() -> None:
    """Help, params and status stay quick."""
    code = "import sys, rlhf.settings; print(sorted({'torch', 'transformers', 'numpy'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
