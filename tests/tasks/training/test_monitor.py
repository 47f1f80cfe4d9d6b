"""The reward-hacking monitor in the policy stage: a proxy that pays for length is over-optimised, seen and stopped."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Sequence
from statistics import fmean
from typing import Any

import pytest
import torch

from rlhf.annotator import Annotator, gold_score
from rlhf.corpus import make_prompts
from rlhf.evaluation.answers import sampled_answers
from rlhf.models import load_policy
from rlhf.policy.monitor import Monitor
from rlhf.settings.model import ComputeSettings
from rlhf.settings.policy import MonitorSettings, PolicySettings
from tasks import policy as policy_stage
from tasks import report, stages
from tasks.files import write_records
from tasks.params.whole import Params
from tasks.paths import Paths
from tasks.runner import run_stage
from tasks.training.monitor import find_held_out

CPU = ComputeSettings(device="cpu")
DEV = [row for row in make_prompts(400, seed=9) if row.model_extra == {"split": "dev"}][:32]
LIMITS = MonitorSettings.model_validate(
    dict.fromkeys(("max_length_ratio", "min_length_ratio", "max_empty", "max_identical"))
    | {"every": 2, "max_repetition": None, "min_distinct_ratio": None}
)


class Wordy:
    """A proxy that pays for every word."""

    network = None

    def score(self, prompts: Sequence[object], completions: Sequence[str], batch_size: int = 64) -> torch.Tensor:
        return torch.tensor([0.5 * len(text.split()) for text in completions])


class Moderate:
    """A held-out scorer that likes texts of twelve words; SFT's are shorter."""

    def score(self, prompts: Sequence[object], completions: Sequence[str], batch_size: int = 64) -> torch.Tensor:
        return torch.tensor([-abs(len(text.split()) - 12.0) for text in completions])


@pytest.fixture
def night(copied_night: Callable[..., Paths], monkeypatch: pytest.MonkeyPatch) -> Paths:
    """The small night before policy, with more dev prompts and the wordy proxy in place of the reward model."""
    paths = copied_night("models/policy", "plots/policy")
    write_records(paths.validated / "dev" / "prompts.jsonl", DEV)
    monkeypatch.setattr("rlhf.reward.load_reward_model", lambda path, compute: Wordy())
    return paths


def hacked(params: Params, monitor: MonitorSettings | None, **changes: Any) -> PolicySettings:
    """PPO that is free to do what the proxy pays for."""
    fields: dict[str, Any] = {"iterations": 24, "prompts_per_iteration": 16, "critic_warmup": 0, "learning_rate": 2e-3}
    fields |= {"unfinished": "reduce", "unfinished_score": 0.0, "update_kl_ceiling": None, "monitor": monitor}
    fields |= {"kl": params.policy.kl.model_copy(update={"coefficient": 0.0})}
    return params.policy.model_copy(update=fields | changes)


def gold_of(paths: Paths, name: str) -> float:
    """Mean gold of a model's samples on the dev prompts."""
    prompts = [str(row.prompt) for row in DEV]
    texts = sampled_answers(load_policy(paths.models / name, CPU), prompts, 2, 24, seed=0, batch_size=64)
    return fmean(gold_score(prompt, text) for prompt, row in zip(prompts, texts, strict=True) for text in row)


def test_the_monitor_stops_the_run_and_the_best_policy_is_saved(
    night: Paths, night_params: Params, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Lines, metrics, curve, picture and a file beside the policy tell so; the weights are the best reading's."""
    seen: dict[int, dict[str, torch.Tensor]] = {}
    inner = Monitor.check

    def check(self: Monitor, policy: Any, log_ratio: Any, iteration: int) -> Any:
        seen[iteration] = {name: weight.clone() for name, weight in policy.model.state_dict().items()}
        return inner(self, policy, log_ratio, iteration)

    monkeypatch.setattr(Monitor, "check", check)
    monkeypatch.setattr("tasks.training.monitor.find_held_out", lambda *given: Moderate())
    metrics = policy_stage.run(stages.files("policy", night), hacked(night_params, LIMITS), night_params.model)
    kept = int(metrics["monitor_kept_iteration"])
    printed = capsys.readouterr().out
    assert printed.count("policy: after iteration") == metrics["monitor_warnings"]
    assert f"The policy of iteration {kept} is kept" in printed
    assert metrics["monitor_stopped"] == metrics["stopped_early"] == 1.0
    assert metrics["monitor_warnings"] >= LIMITS.patience
    assert metrics["iterations"] == max(seen) < 24
    assert 0 < kept < max(seen)
    saved = load_policy(night.models / "policy", CPU).model.state_dict()
    assert all(torch.equal(weight, seen[kept][name]) for name, weight in saved.items())
    assert not all(torch.equal(weight, seen[max(seen)][name]) for name, weight in saved.items())

    with (night.plots("policy") / "monitor.csv").open(encoding="utf-8") as file:
        rows = {
            int(float(row["step"])): {key: float(value) for key, value in row.items()} for row in csv.DictReader(file)
        }
    assert list(rows) == [step for step in sorted(seen) if step % 2 == 0]
    assert max(rows, key=lambda step: rows[step]["held_out"]) == kept
    assert rows[max(rows)]["proxy_gain"] > rows[kept]["proxy_gain"]
    report.draw_monitor(night.reports / "policy" / "monitor.png", night.plots("policy"), night.models / "policy")
    assert (night.reports / "policy" / "monitor.png").stat().st_size > 1000
    told = json.loads((night.models / "policy" / "monitor.json").read_text(encoding="utf-8"))
    assert told["kept_iteration"] == kept
    assert "so the policy learns to fool it" in told["stopped"]
    assert [reading["iteration"] for reading in told["readings"] if reading["warnings"]][-2:] == list(rows)[-2:]


def test_without_the_monitor_the_run_goes_to_the_end(night: Paths, night_params: Params) -> None:
    """The policy that fooled the proxy is saved, far worse than SFT; nothing tells of a monitor."""
    metrics = policy_stage.run(
        stages.files("policy", night), hacked(night_params, None, iterations=12, learning_rate=4e-3), night_params.model
    )
    assert metrics["iterations"] == 12
    assert not [name for name in metrics if name.startswith("monitor")]
    assert not (night.models / "policy" / "monitor.json").exists()
    assert gold_of(night, "policy") < gold_of(night, "sft") - 0.3


def test_a_monitor_with_nothing_to_say_leaves_the_run_alone(
    copied_night: Callable[..., Paths], night_params: Params, small_night: Paths
) -> None:
    """On the small night's own reward model: the same policy as without, and its readings beside the curves."""
    paths = copied_night("models/policy", "plots/policy")
    settings = night_params.policy.model_copy(
        update={"monitor": LIMITS.model_copy(update={"max_held_out_drop": 100.0})}
    )
    metrics = policy_stage.run(stages.files("policy", paths), settings, night_params.model)
    assert metrics["monitor_stopped"] == metrics["monitor_warnings"] == 0.0
    assert metrics["monitor_kept_iteration"] == metrics["iterations"] == 3.0
    files = [folder.models / "policy" / "model.safetensors" for folder in (paths, small_night)]
    assert files[0].read_bytes() == files[1].read_bytes()
    plain = json.loads(small_night.metrics("policy").read_text(encoding="utf-8"))
    assert {name: value for name, value in metrics.items() if not name.startswith("monitor_")} == plain


def test_too_few_dev_prompts_are_noticed_before_a_model_loads(
    night: Paths, night_params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One prompt cannot tell a fall from chance; the error names the file and both remedies."""
    monkeypatch.setattr("rlhf.models.load_policy", lambda *given, **named: pytest.fail("a model was loaded"))
    write_records(night.validated / "dev" / "prompts.jsonl", DEV[:1])
    with pytest.raises(ValueError, match=r"dev/prompts\.jsonl: found 1 prompts, .* raise validate\.dev_share, or set"):
        run_stage("policy", night, night_params.model_copy(update={"policy": hacked(night_params, LIMITS)}))


def test_whom_the_monitor_asks(tmp_path: Any, models: Any) -> None:
    """The judge where rankings were held out for one, else the builtin corpus's annotator, else nobody."""
    import shutil

    from rlhf.reward import RewardModel

    judge_folder, builtin = tmp_path / "judge", [row.prompt for row in DEV]
    model = ComputeSettings(device="cpu")
    assert find_held_out(judge_folder, model, builtin, seed=4) == Annotator(seed=4)  # type: ignore[arg-type]
    assert find_held_out(judge_folder, model, ["Tell me a joke"], seed=4) is None  # type: ignore[arg-type]
    shutil.copytree(models / "reward", judge_folder)
    judge = find_held_out(judge_folder, model, builtin, seed=4)  # type: ignore[arg-type]
    assert isinstance(judge, RewardModel)
