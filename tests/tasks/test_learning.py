"""The learning stages on a tiny night: what they write, that they repeat, and what they refuse."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest

from rlhf.records import Prompt, Rollout
from tasks import evaluate, ppo, reward, rollouts, sft
from tasks.files import read_records, write_records, write_rows
from tasks.params import Params, read_params
from tasks.paths import Paths
from tasks.stages import run_stage

TINY = """\
model:
  config: {model_type: llama, hidden_size: 32, intermediate_size: 64, num_hidden_layers: 1, num_attention_heads: 2,
           max_position_embeddings: 160, tie_word_embeddings: true}
  vocab_size: 400
  threads: 1
  device: cpu
ingest: {demonstrations: 300, prompts: 80}
sft: {steps: 60, batch_size: 16, learning_rate: 1.0e-2}
rollouts: {completions: 3, sampling: [{temperature: 1.0}, {temperature: 0.7, top_p: 0.9}]}
pairs: {dev_share: 0.15, test_share: 0.2}
reward: {steps: 8, batch_size: 8, learning_rate: 2.0e-3}
ppo: {iterations: 3, prompts_per_iteration: 8, critic_warmup: 1, max_new_tokens: 48}
evaluate: {samples: 2, best_of: 2, bootstrap: 200}
"""
STAGES = ("ingest", "validate", "sft", "rollouts", "rank", "pairs", "reward", "ppo", "evaluate")


@pytest.fixture(scope="module")
def params(tmp_path_factory: pytest.TempPathFactory) -> Params:
    """Params of a night of seconds."""
    file = tmp_path_factory.mktemp("params") / "params.yaml"
    file.write_text(TINY)
    return read_params(file)


@pytest.fixture(scope="module")
def finished(params: Params, tmp_path_factory: pytest.TempPathFactory) -> Paths:
    """A workspace in which every stage has run once; tests that write take a copy."""
    paths = Paths(tmp_path_factory.mktemp("finished"))
    for folder in (paths.source, paths.feedback):
        folder.mkdir(parents=True)
    for stage in STAGES:
        run_stage(stage, paths, params)
    return paths


@pytest.fixture
def night(finished: Paths, tmp_path: Path) -> Paths:
    """The finished workspace, to write in."""
    return Paths(Path(shutil.copytree(finished.root, tmp_path / "night")))


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
        ("ppo", "models/policy"),
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
    figures = sft.run(night, params.sft, with_model(params, name=str(base), config={}).model)
    first = json.loads(night.metrics("sft").read_text())
    assert figures["eval_loss"] < first["eval_loss"]
    assert (night.models / "sft/tokenizer.json").read_bytes() == (base / "tokenizer.json").read_bytes()


def test_a_model_that_cannot_be_had_is_named(night: Paths, params: Params, monkeypatch: pytest.MonkeyPatch) -> None:
    """One message with the name and the remedy, and nothing is written."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    before = contents(night.data)
    with pytest.raises(ValueError, match=r"nobody/nothing: the model could not be loaded .* give a folder"):
        sft.run(night, params.sft, with_model(params, name="nobody/nothing", config={}).model)
    assert contents(night.data) == before


def test_a_prompt_over_the_limit_is_refused_by_sft(night: Paths, params: Params) -> None:
    """It is not cut in silence: the row and the limit are named."""
    with pytest.raises(ValueError, match=r"the prompt has \d+ tokens, above model.max_prompt_tokens 4"):
        sft.run(night, params.sft, with_model(params, max_prompt_tokens=4).model)


def test_rollouts_do_not_depend_on_other_prompts(night: Paths, params: Params) -> None:
    """K completions each, settings cycled, and a prompt keeps its completions when another is left out."""
    before = {row.prompt_id: row for row in read_records(night.rollouts, Rollout)}
    some = next(iter(before.values())).completions
    assert [completion.sampling.top_p for completion in some] == [1.0, 0.9, 1.0]
    assert len({completion.seed for row in before.values() for completion in row.completions}) == 3 * len(before)
    file = night.validated / "train/prompts.jsonl"
    write_records(file, read_records(file, Prompt)[::2])
    rollouts.run(night, params.rollouts, params.model)
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
    figures = reward.run(night, params.reward.model_copy(update=changes), params.model)
    assert {"accuracy", "auc", "spearman", "pearson", "ece", "accuracy_by_length"} <= figures.keys()
    assert 0.0 <= figures["accuracy"] <= 1.0
    ppo.run(night, params.ppo, params.model)


def test_a_judge_is_trained_where_rankings_are_held_out_for_it(night: Paths, params: Params) -> None:
    """Only then is there a judge, and it is not the reward model."""
    assert contents(night.models / "judge").keys() == {"judge.json"}
    (night.pairs / "judge.jsonl").write_bytes((night.pairs / "test.jsonl").read_bytes())
    figures = reward.run(night, params.reward, params.model)
    assert "judge.accuracy" in figures
    ours, theirs = contents(night.models / "reward"), contents(night.models / "judge")
    assert ours["head.safetensors"] != theirs["head.safetensors"]
    evaluate_as_people_would(night, params)


def evaluate_as_people_would(night: Paths, params: Params) -> dict[str, float]:
    """Evaluates on prompts that have no gold score."""
    file = night.validated / "test/prompts.jsonl"
    rows = [{**json.loads(line), "prompt": f"Say hello to {place}"} for place, line in enumerate(file.open())]
    write_rows(file, rows)
    figures = evaluate.run(night, params.evaluate, params.model)
    assert "policy.judge" in figures
    assert "policy.gold" not in figures
    return figures


def test_without_gold_and_judge_nothing_is_evaluated(
    night: Paths, params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The proxy that PPO optimised never judges alone, and this is said before a model loads."""
    monkeypatch.setattr("rlhf.models.load_policy", lambda *_: pytest.fail("a model was loaded"))
    with pytest.raises(ValueError, match=r"no judge here.*hold rankings out for a judge"):
        evaluate_as_people_would(night, params)


def test_prompts_that_the_reward_model_saw_are_set_apart(night: Paths, params: Params) -> None:
    """They count in the figures `_all` alone; with every prompt seen there is nothing honest to report."""
    prompts = read_records(night.validated / "test/prompts.jsonl", Prompt)
    pairs = [{"prompt": row.prompt, "chosen": "a", "rejected": "b", "annotator": "x"} for row in prompts]
    write_rows(night.pairs / "dev.jsonl", pairs[:5])
    figures = evaluate.run(night, params.evaluate, params.model)
    assert figures["prompts"] == len(prompts) - 5
    assert figures["prompts_seen_by_reward"] == 5
    assert figures["policy.rougeL_all"] != figures["policy.rougeL"]
    write_rows(night.pairs / "dev.jsonl", pairs)
    with pytest.raises(ValueError, match="every one of them has rankings"):
        evaluate.run(night, params.evaluate, params.model)


def test_evaluation_shows_what_it_measured(finished: Paths) -> None:
    """A row per prompt with each answer and its scores, every number's signature, a page and pictures."""
    rows = [json.loads(line) for line in (finished.evaluation / "completions.jsonl").open()]
    scores = json.loads((finished.evaluation / "scores.json").read_text())
    assert len(rows) == scores["metrics"]["prompts"]
    assert {"prompt", "references", "sft", "policy", "best_of_n", "policy_gold", "policy_reward"} <= rows[0].keys()
    assert "rouge_score" in scores["signatures"]["rouge1, rouge2, rougeL, rougeLsum"]
    assert "nrefs:3" in scores["signatures"]["bleu"]
    assert "Completions side by side" in (finished.evaluation / "completions.html").read_text()
    names = {path.name for path in finished.plots("evaluate").glob("*.png")}
    assert names == {"comparison.png", "win_rate.png", "reward.png", "gold.png"}


def test_ppo_that_never_moves_the_policy_is_an_error(night: Paths, params: Params) -> None:
    """A run that trained nothing is no success: no policy is written."""
    shutil.rmtree(night.models / "policy")
    with pytest.raises(ValueError, match="ppo changed no weight"):
        ppo.run(night, params.ppo.model_copy(update={"critic_warmup": 3}), params.model)
    assert not (night.models / "policy").exists()


def test_ppo_stops_past_its_kl_ceiling(night: Paths, params: Params) -> None:
    """A ceiling that the first moving iteration passes ends the run before the last one."""
    kl = params.ppo.kl.model_copy(update={"ceiling": 1.0e-6})
    changed = params.ppo.model_copy(update={"kl": kl, "iterations": 9, "critic_warmup": 0, "learning_rate": 1.0e-2})
    assert ppo.run(night, changed, params.model)["iterations"] < 9


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_stages_run_in_either_precision(night: Paths, params: Params, precision: str) -> None:
    """bfloat16 on this device too: weights stay float32 in training, products need not."""
    changed = with_model(params, precision=precision)
    figures = {stage: run_stage(stage, night, changed) for stage in ("sft", "reward", "ppo", "evaluate")}
    assert figures["sft"]["perplexity"] < 100
    assert 0.0 <= figures["evaluate"]["win_rate"] <= 1.0
