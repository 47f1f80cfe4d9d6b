"""policy as a stage: a policy that moved, figures of the run's end, and an early stop that is seen in them."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from statistics import fmean
from typing import Any

import pytest
import torch

from rlhf.settings.adapters import AdapterSettings
from rlhf.settings.model import ComputeSettings
from rlhf.settings.policy import DpoSettings
from tasks import policy as policy_stage
from tasks import stages
from tasks.params.whole import Params
from tasks.paths import Paths
from tasks.reports.plots import PLOTS

CPU = ComputeSettings(device="cpu")


def curve(paths: Paths, name: str) -> list[float]:
    """A curve's values, one per iteration."""
    with (paths.plots("policy") / f"{name}.csv").open(encoding="utf-8") as file:
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
    paths = copied_night("models/policy", "plots/policy")
    figures = policy_stage.run(
        stages.files("policy", paths), night_params.policy.model_copy(update={"iterations": 10}), night_params.model
    )
    assert figures["iterations"] == 10
    for name in ("reward_mean", "kl", "entropy", "clip_fraction", "explained_variance"):
        values = curve(paths, name)
        assert len(values) == 10
        assert figures[name] == pytest.approx(fmean(values[-2:]), rel=1e-4, abs=1e-5), name
    assert curve(paths, "kl")[0] == pytest.approx(0.0, abs=1e-4)
    assert figures["kl"] > 0.05


def test_past_the_kl_ceiling_the_run_ends_with_what_lay_within(
    copied_night: Callable[..., Paths], night_params: Params, capsys: pytest.CaptureFixture[str]
) -> None:
    """No iteration that counts is past the ceiling; metrics and curves show how many there were, and it says why."""
    paths = copied_night("models/policy", "plots/policy")
    kl = night_params.policy.kl.model_copy(update={"ceiling": 0.3, "coefficient": 0.0})
    changes = {"iterations": 30, "critic_warmup": 0, "learning_rate": 2e-4, "kl": kl}
    figures = policy_stage.run(
        stages.files("policy", paths), night_params.policy.model_copy(update=changes), night_params.model
    )
    values = curve(paths, "kl")
    assert figures["iterations"] == len(values) < 30
    assert figures["stopped_early"] == 1.0
    assert max(values) <= 0.3
    assert "above policy.kl.ceiling 0.3" in capsys.readouterr().out
    assert (paths.models / "policy" / "model.safetensors").is_file()


@pytest.mark.parametrize("warmup", [3, 7])
def test_a_warm_up_that_leaves_the_policy_no_iteration_is_refused_at_once(
    copied_night: Callable[..., Paths], night_params: Params, warmup: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before a model is loaded, with both params named; no policy is written."""
    paths = copied_night("models/policy")
    monkeypatch.setattr("rlhf.models.load_policy", lambda *given, **named: pytest.fail("a model was loaded"))
    params = night_params.policy.model_copy(update={"critic_warmup": warmup})
    with pytest.raises(
        ValueError, match=rf"policy.critic_warmup takes {warmup} of 3 policy.iterations.*lower the first"
    ):
        policy_stage.run(stages.files("policy", paths), params, night_params.model)
    assert not (paths.models / "policy").exists()


def test_a_policy_that_stood_still_is_not_saved(copied_night: Callable[..., Paths], night_params: Params) -> None:
    """Not one bit of any weight differs from SFT (no step is that small): an error, and no policy is written."""
    paths = copied_night("models/policy")
    params = night_params.policy.model_copy(update={"learning_rate": 1e-30})
    with pytest.raises(ValueError, match="ppo changed no weight of the policy"):
        policy_stage.run(stages.files("policy", paths), params, night_params.model)
    assert not (paths.models / "policy").exists()


def weights(paths: Paths) -> bytes:
    """The saved policy, byte for byte."""
    return (paths.models / "policy" / "model.safetensors").read_bytes()


def test_a_run_that_was_cut_off_goes_on_to_the_same_policy(
    copied_night: Callable[..., Paths], night_params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed in its third iteration and started again: the weights, curves and metrics of an uninterrupted run."""
    from rlhf.ppo.update import update

    paths = copied_night("models/policy", "plots/policy")
    params = night_params.policy.model_copy(update={"iterations": 4, "checkpoint_every": 1})
    figures = policy_stage.run(stages.files("policy", paths), params, night_params.model)
    whole, kl = weights(paths), curve(paths, "kl")

    original: Any = update
    calls: list[int] = []

    def cut_off(*given: Any) -> dict[str, float]:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return original(*given)

    monkeypatch.setattr("rlhf.ppo.trainer.update", cut_off)
    with pytest.raises(KeyboardInterrupt):
        policy_stage.run(stages.files("policy", paths), params, night_params.model)
    checkpoint = paths.nights / "checkpoints" / "policy.pt"
    assert checkpoint.is_file()
    assert policy_stage.run(stages.files("policy", paths), params, night_params.model) == figures
    assert len(calls) == 5  # two before the cut, the cut itself, and the two that were left
    assert weights(paths) == whole
    assert curve(paths, "kl") == kl
    assert not checkpoint.exists()


def test_a_checkpoint_of_other_params_or_inputs_is_not_gone_on_from(
    copied_night: Callable[..., Paths], night_params: Params
) -> None:
    """The same stage with another seed, or on other prompts, has another key."""
    from tasks.training.checkpoints import Checkpoint

    paths = copied_night()
    prompts = paths.validated / "train" / "prompts.jsonl"

    def checkpoint(seed: int) -> Checkpoint:
        return Checkpoint.of(
            paths.checkpoints / "policy.pt", [prompts], (night_params.policy.model_copy(update={"seed": seed}),)
        )

    checkpoint(0).save({"rows": []})
    assert checkpoint(0).load() == {"rows": []}
    assert checkpoint(1).load() is None
    prompts.write_text(prompts.read_text().splitlines()[0], encoding="utf-8")
    assert checkpoint(0).load() is None


@pytest.mark.parametrize(
    "changes",
    [
        {"critic": "head"},
        {"algorithm": "reinforce"},
        {"algorithm": "rloo", "completions": 2},
        {"algorithm": "grpo", "completions": 2},
    ],
)
def test_every_algorithm_runs_as_the_stage(
    copied_night: Callable[..., Paths], night_params: Params, changes: dict[str, object]
) -> None:
    """The choice is one param; each moves the policy and writes the metrics of the contract."""
    paths = copied_night("models/policy", "plots/policy")
    before = (paths.models / "sft" / "model.safetensors").read_bytes()
    figures = policy_stage.run(
        stages.files("policy", paths), night_params.policy.model_copy(update=changes), night_params.model
    )
    assert figures.keys() >= {"reward_mean", "kl", "entropy", "clip_fraction", "explained_variance"}
    assert weights(paths) != before


@pytest.mark.parametrize("changes", [{}, {"adapter": AdapterSettings(rank=4)}, {"dpo": DpoSettings(loss="ipo")}])
def test_the_stage_learns_from_pairs(
    copied_night: Callable[..., Paths],
    night_params: Params,
    changes: dict[str, object],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The choice is the same param; there is no rollout to learn from, yet KL, reward and entropy are measured.

    The curves that DVC plots are there; cut off, it goes on to the same weights.
    """
    from rlhf.dpo.trainer import DpoTrainer

    paths = copied_night("models/policy", "plots/policy")
    changes = {"algorithm": "dpo", "iterations": 5, "checkpoint_every": 1, **changes}
    params, given = night_params.policy.model_copy(update=changes), stages.files("policy", paths)
    figures = policy_stage.run(given, params, night_params.model)
    assert figures.keys() >= {"reward_mean", "kl", "entropy", "loss", "accuracy", "margin", "eval_accuracy"}
    assert figures["kl"] > 0.0
    assert weights(paths) != (paths.models / "sft" / "model.safetensors").read_bytes()
    drawn = {file.removeprefix("policy/") for plot in PLOTS for file in plot.y if file.startswith("policy/")}
    assert {"kl.csv", "reward_over_kl.csv", "loss.csv"} | drawn <= {
        path.name for path in paths.plots("policy").iterdir()
    }
    rows = list(csv.DictReader((paths.plots("policy") / "kl.csv").open(encoding="utf-8")))
    assert [row["step"] for row in rows] == ["1", "4", "5"]  # the first, every fourth, and the last

    whole, original, calls = weights(paths), DpoTrainer.learn, []

    def cut_off(trainer: DpoTrainer, rows: object) -> object:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return original(trainer, rows)  # type: ignore[arg-type]

    monkeypatch.setattr(DpoTrainer, "learn", cut_off)
    with pytest.raises(KeyboardInterrupt):
        policy_stage.run(given, params, night_params.model)
    assert policy_stage.run(given, params, night_params.model) == figures
    assert len(calls) == 6  # two before the cut, the cut itself, and the three that were left
    assert weights(paths) == whole


def test_a_bad_batch_is_counted_and_kept_and_too_many_stop_the_stage(
    copied_night: Callable[..., Paths],
    night_params: Params,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The reward model's scores of the first of three iterations are NaN: told, in the metrics, and in a file.

    With none allowed the stage ends with where that lies, and writes no policy.
    """
    from rlhf.reward import RewardModel

    inner, calls = RewardModel.score, []

    def score(self: RewardModel, *given: Any) -> torch.Tensor:
        calls.append(1)
        return inner(self, *given) * (float("nan") if len(calls) == 1 else 1.0)

    monkeypatch.setattr(RewardModel, "score", score)
    paths = copied_night("models/policy", "plots/policy")
    file = paths.nights / "bad_batches" / "policy.jsonl"
    params = night_params.policy.model_copy(update={"critic_warmup": 0})
    figures = policy_stage.run(stages.files("policy", paths), params, night_params.model)
    assert (figures["skipped_batches"], figures["iterations"]) == (1.0, 3.0)
    assert all(torch.tensor(value).isfinite() for value in figures.values())
    [row] = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    assert row["iteration"] == 0
    assert {each["score"] for each in row["completions"]} == {"nan"}
    assert f"policy: a batch is skipped: {row['found']}; it is kept in {file}" in capsys.readouterr().out

    calls.clear()
    paths = copied_night("models/policy", "plots/policy")
    with pytest.raises(ValueError, match=r"kept in .*bad_batches/policy.jsonl\), and policy.max_bad_batches allows 0"):
        policy_stage.run(
            stages.files("policy", paths), params.model_copy(update={"max_bad_batches": 0}), night_params.model
        )
    assert not (paths.models / "policy").exists()


def test_a_low_rank_policy_is_saved_as_an_ordinary_one(
    copied_night: Callable[..., Paths], night_params: Params
) -> None:
    """Merged: the same tensors as SFT's, with other values in the linear layers and nowhere else."""
    from safetensors.torch import load_file

    paths = copied_night("models/policy", "plots/policy")
    policy_stage.run(
        stages.files("policy", paths),
        night_params.policy.model_copy(update={"adapter": AdapterSettings(rank=4)}),
        night_params.model,
    )
    sft, policy = (load_file(paths.models / name / "model.safetensors") for name in ("sft", "policy"))
    assert sft.keys() == policy.keys()
    moved = {name for name, weight in sft.items() if not torch.equal(weight, policy[name])}
    assert moved == {name for name in sft if "proj" in name}


def test_a_pretraining_term_without_general_data_is_refused_at_once(
    copied_night: Callable[..., Paths], night_params: Params
) -> None:
    """The error names the param and where the data would come from."""
    with pytest.raises(ValueError, match=r"policy.ptx_coefficient is above 0, but there are no general demonstr"):
        policy_stage.run(
            stages.files("policy", copied_night()),
            night_params.policy.model_copy(update={"ptx_coefficient": 1.0}),
            night_params.model,
        )


def test_the_metrics_file_holds_numbers_of_the_contract(small_night: Paths) -> None:
    """All finite, under the names that others rely on."""
    metrics = json.loads(small_night.metrics("policy").read_text())
    assert metrics.keys() >= {"reward_mean", "kl", "entropy", "clip_fraction", "explained_variance"}
    assert all(torch.tensor(value).isfinite() for value in metrics.values())
    assert 0.0 <= metrics["clip_fraction"] <= 1.0
    assert metrics["entropy"] > 0.0
