"""ppo as a stage: a policy that moved, figures of the run's end, and an early stop that is seen in them."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from statistics import fmean

import pytest
import torch

from rlhf.settings import ComputeSettings
from tasks import ppo
from tasks.params import Params
from tasks.paths import Paths

CPU = ComputeSettings(device="cpu")


def curve(paths: Paths, name: str) -> list[float]:
    """A curve's values, one per iteration."""
    with (paths.plots("ppo") / f"{name}.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["step"]) for row in rows] == list(range(1, len(rows) + 1))
    return [float(row[name]) for row in rows]


def test_the_policy_moved_from_sft_and_speaks_its_language(small_night: Paths, night_params: Params) -> None:
    """Other weights in the same shapes, and the very same tokenizer."""
    from rlhf.models import load_policy

    sft, policy = (load_policy(small_night.models / name, CPU) for name in ("sft", "policy"))
    before, after = sft.model.state_dict(), policy.model.state_dict()
    assert {name: weight.shape for name, weight in before.items()} == {
        name: weight.shape for name, weight in after.items()
    }
    assert all(weight.isfinite().all() for weight in after.values())
    assert not any(torch.equal(weight, after[name]) for name, weight in before.items())
    tokenizers = [(small_night.models / name / "tokenizer.json").read_bytes() for name in ("sft", "policy")]
    assert tokenizers[0] == tokenizers[1]


def test_the_figures_are_the_mean_of_the_last_fifth(copied_night: Callable[..., Paths], night_params: Params) -> None:
    """Of ten iterations the last two, as the curves have them; the first KL of all is 0."""
    paths = copied_night("models/policy", "plots/ppo")
    figures = ppo.run(paths, night_params.ppo.model_copy(update={"iterations": 10}), night_params.model)
    assert figures["iterations"] == 10
    for name in ("reward_mean", "kl", "entropy", "clip_fraction", "explained_variance"):
        values = curve(paths, name)
        assert len(values) == 10
        assert figures[name] == pytest.approx(fmean(values[-2:]), rel=1e-4, abs=1e-5), name
    assert curve(paths, "kl")[0] == pytest.approx(0.0, abs=1e-4)
    assert figures["kl"] > 0.05


def test_past_the_kl_ceiling_the_run_ends_with_what_it_has(
    copied_night: Callable[..., Paths], night_params: Params
) -> None:
    """The iteration whose KL passes the ceiling is the last one; the metrics and curves show how many there were."""
    paths = copied_night("models/policy", "plots/ppo")
    kl = night_params.ppo.kl.model_copy(update={"ceiling": 0.3, "coefficient": 0.0})
    changes = {"iterations": 30, "critic_warmup": 0, "learning_rate": 1e-2, "update_kl_ceiling": None, "kl": kl}
    figures = ppo.run(paths, night_params.ppo.model_copy(update=changes), night_params.model)
    values = curve(paths, "kl")
    assert figures["iterations"] == len(values) < 30
    assert values[-1] > 0.3
    assert max(values[:-1]) <= 0.3
    assert (paths.models / "policy" / "model.safetensors").is_file()


@pytest.mark.parametrize("warmup", [3, 7])
def test_a_warm_up_that_leaves_the_policy_no_iteration_is_refused_at_once(
    copied_night: Callable[..., Paths], night_params: Params, warmup: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before a model is loaded, with both params named; no policy is written."""
    paths = copied_night("models/policy")
    monkeypatch.setattr("rlhf.models.load_policy", lambda *given, **named: pytest.fail("a model was loaded"))
    params = night_params.ppo.model_copy(update={"critic_warmup": warmup})
    with pytest.raises(ValueError, match=rf"ppo.critic_warmup takes {warmup} of 3 ppo.iterations.*lower the first"):
        ppo.run(paths, params, night_params.model)
    assert not (paths.models / "policy").exists()


def test_a_policy_that_stood_still_is_not_saved(
    copied_night: Callable[..., Paths], night_params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not one bit of any weight differs from SFT (here no optimizer steps): an error, and no policy is written."""
    from rlhf.ppo import update

    paths = copied_night("models/policy")
    monkeypatch.setattr(update, "_apply", lambda network, optimizer, norm: 0.0)
    with pytest.raises(ValueError, match="ppo changed no weight of the policy"):
        ppo.run(paths, night_params.ppo, night_params.model)
    assert not (paths.models / "policy").exists()


def test_the_metrics_file_holds_numbers_of_the_contract(small_night: Paths) -> None:
    """All finite, under the names that others rely on."""
    metrics = json.loads(small_night.metrics("ppo").read_text())
    assert metrics.keys() >= {"reward_mean", "kl", "entropy", "clip_fraction", "explained_variance"}
    assert all(torch.tensor(value).isfinite() for value in metrics.values())
    assert 0.0 <= metrics["clip_fraction"] <= 1.0
    assert metrics["entropy"] > 0.0
