"""The learning stages on a tiny night: what they write, that they repeat, and what they refuse."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from pathlib import Path

import pytest

from rlhf.records import Prompt, Rollout
from tasks import policy as policy_stage
from tasks import reward, rollouts, sft, stages
from tasks.files import read_records, write_records
from tasks.params.whole import Params
from tasks.paths import Paths
from tasks.runner import run_stage


@pytest.fixture
def params(night_params: Params) -> Params:
    """Params of a night of seconds."""
    return night_params


@pytest.fixture
def night(small_night: Paths, tmp_path: Path) -> Paths:
    """The finished workspace, to write in."""
    return Paths(Path(shutil.copytree(small_night.root, tmp_path / "night")))


def contents(folder: Path) -> dict[str, str]:
    """Every file below a folder with the digest of its bytes."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def with_model(params: Params, **changes: object) -> Params:
    """The params with other settings of the model."""
    return params.model_copy(update={"model": params.model.model_copy(update=changes)})


@pytest.mark.parametrize(
    ("stage", "written"),
    [
        ("sft", "models/sft"),
        ("rollouts", "rollouts"),
        ("reward", "models/reward"),
        ("policy", "models/policy"),
        ("evaluate", "evaluation"),
    ],
)
def test_a_stage_writes_the_same_bytes_again(night: Paths, params: Params, stage: str, written: str) -> None:
    """Outputs are a function of inputs: models, rows, tables, pages, and no path of the workspace in them."""
    before, plots = contents(night.data / written), contents(night.plots(stage))
    shutil.rmtree(night.data / written)
    run_stage(stage, night, params)
    assert contents(night.data / written) == before
    assert contents(night.plots(stage)) == plots
    for path in (night.data / written).rglob("*"):
        assert path.is_dir() or str(night.root).encode() not in path.read_bytes(), path


def test_a_local_model_is_fine_tuned_further(night: Paths, params: Params) -> None:
    """`model.name` takes a folder; its tokenizer comes with it."""
    base = night.root / "base"
    shutil.copytree(night.models / "sft", base)
    figures = sft.run(stages.files("sft", night), params.sft, with_model(params, name=str(base), config={}).model)
    first = json.loads(night.metrics("sft").read_text())
    assert figures["eval_loss"] < first["eval_loss"]
    assert (night.models / "sft/tokenizer.json").read_bytes() == (base / "tokenizer.json").read_bytes()


def test_a_model_that_cannot_be_had_is_named(night: Paths, params: Params, monkeypatch: pytest.MonkeyPatch) -> None:
    """One message with the name and the remedy, and nothing is written."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    before = contents(night.data)
    with pytest.raises(ValueError, match=r"nobody/nothing: the model could not be loaded .* give a folder"):
        sft.run(stages.files("sft", night), params.sft, with_model(params, name="nobody/nothing", config={}).model)
    assert contents(night.data) == before


def test_a_prompt_over_the_limit_is_refused_by_sft(night: Paths, params: Params) -> None:
    """It is not cut in silence: the row and the limit are named."""
    with pytest.raises(ValueError, match=r"the prompt has \d+ tokens, above model.max_prompt_tokens 4"):
        sft.run(stages.files("sft", night), params.sft, with_model(params, max_prompt_tokens=4).model)


def test_rollouts_do_not_depend_on_other_prompts(night: Paths, params: Params) -> None:
    """K completions each, settings cycled, and a prompt keeps its completions when another is left out."""
    before = {row.prompt_id: row for row in read_records(night.rollouts, Rollout)}
    some = next(iter(before.values())).completions
    assert [completion.sampling.top_p for completion in some] == [1.0, 0.9, 1.0]
    assert len({completion.seed for row in before.values() for completion in row.completions}) == 3 * len(before)
    file = night.validated / "train/prompts.jsonl"
    write_records(file, read_records(file, Prompt)[::2])
    rollouts.run(stages.files("rollouts", night), params.rollouts, params.model)
    after = read_records(night.rollouts, Rollout)
    assert len(after) == (len(before) + 1) // 2
    for row in after:
        texts = [completion.text for completion in row.completions]
        assert texts == [completion.text for completion in before[row.prompt_id].completions]


@pytest.mark.parametrize("changes", [{"kind": "encoder"}, {"kind": "encoder", "freeze_encoder": True},
                                     {"loglikelihood": False}, {"centring": 0.1}])  # fmt: skip
def test_each_kind_of_reward_model_trains_and_steers_ppo(
    night: Paths, params: Params, changes: dict[str, object]
) -> None:
    """The contract's metrics come out, and PPO can start from what was saved."""
    figures = reward.run(stages.files("reward", night), params.reward.model_copy(update=changes), params.model)
    assert {"accuracy", "auc", "spearman", "pearson", "ece", "accuracy_by_length"} <= figures.keys()
    assert 0.0 <= figures["accuracy"] <= 1.0
    policy_stage.run(stages.files("policy", night), params.policy, params.model)


def test_evaluation_shows_what_it_measured(small_night: Paths) -> None:
    """A row per prompt with each answer and its scores, every number's signature, a page and pictures."""
    rows = [json.loads(line) for line in (small_night.evaluation / "completions.jsonl").open()]
    scores = json.loads((small_night.evaluation / "scores.json").read_text())
    assert len(rows) == scores["metrics"]["prompts"]
    assert {"prompt", "references", "sft", "policy", "best_of_n", "policy_gold", "policy_reward"} <= rows[0].keys()
    assert "rouge_score" in scores["signatures"]["rouge1, rouge2, rougeL, rougeLsum"]
    assert "nrefs:3" in scores["signatures"]["bleu"]
    assert "Completions side by side" in (small_night.reports / "evaluate" / "completions.html").read_text()
    names = {path.name for path in (small_night.reports / "evaluate").glob("*.png")}
    assert names == {"comparison.png", "win_rate.png", "reward.png", "gold.png", "best_of_n.png"}
    assert scores["metrics"]["best_of_n.kl"] == pytest.approx(math.log(2) - 0.5)  # best of 2


def test_ppo_that_never_moves_the_policy_is_an_error(night: Paths, params: Params) -> None:
    """A run that trained nothing is no success: no policy is written."""
    shutil.rmtree(night.models / "policy")
    with pytest.raises(ValueError, match="the policy would never move"):
        policy_stage.run(
            stages.files("policy", night), params.policy.model_copy(update={"critic_warmup": 3}), params.model
        )
    assert not (night.models / "policy").exists()


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_stages_run_in_either_precision(night: Paths, params: Params, precision: str) -> None:
    """bfloat16 on this device too: weights stay float32 in training, products need not."""
    changed = with_model(params, precision=precision)
    figures = {stage: run_stage(stage, night, changed) for stage in ("sft", "reward", "policy", "evaluate")}
    assert figures["sft"]["perplexity"] < 100
    assert 0.0 <= figures["evaluate"]["win_rate"] <= 1.0
