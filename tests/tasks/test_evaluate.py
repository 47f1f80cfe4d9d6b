"""evaluate as a stage: figures that its own tables bear out, honest prompts, and a judge that PPO did not optimise."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from statistics import fmean
from typing import Any

import pytest

from rlhf.records import Pair, Prompt
from rlhf.settings.model import ComputeSettings
from tasks import evaluate, report, stages
from tasks.evaluate import split_prompts
from tasks.files import read_records, write_records
from tasks.params.whole import Params
from tasks.paths import Paths

CPU = ComputeSettings(device="cpu")
CONTESTANTS = ("sft", "policy", "best_of_n")
CONTRACT = {f"{name}.{key}" for name in CONTESTANTS
            for key in ("rouge1", "rouge2", "rougeL", "bleu", "reward", "gold", "length")}  # fmt: skip


def rows_of(paths: Paths) -> list[dict[str, Any]]:
    """completions.jsonl."""
    return [json.loads(line) for line in (paths.evaluation / "completions.jsonl").read_text().splitlines()]


def prompts_of(paths: Paths) -> list[Prompt]:
    return read_records(paths.validated / "test" / "prompts.jsonl", Prompt)


def learn_from(paths: Paths, split: str, prompts: list[Prompt]) -> None:
    """Puts a pair of each prompt into a split of the pairs."""
    pairs = [Pair(prompt=row.prompt, chosen="a", rejected="b", annotator="x") for row in prompts]
    file = paths.pairs / f"{split}.jsonl"
    write_records(file, [*(read_records(file, Pair) if file.stat().st_size else []), *pairs])


def renamed(paths: Paths) -> None:
    """Turns the test prompts into ones that no gold score knows."""
    rows = [
        row.model_copy(update={"prompt": f"Tell me of place {place}."}) for place, row in enumerate(prompts_of(paths))
    ]
    write_records(paths.validated / "test" / "prompts.jsonl", rows)


def test_the_metrics_hold_the_contract_and_are_numbers(small_night: Paths) -> None:
    """Every figure for each contestant, the KL, the win rate inside its interval, and the reward model against gold."""
    metrics = json.loads(small_night.metrics("evaluate").read_text())
    assert metrics.keys() >= CONTRACT | {
        "policy.kl",
        "reward.gold_accuracy",
        "reward.gold_auc",
        "reward.probe_accuracy",
    }
    assert all(math.isfinite(value) for value in metrics.values())
    assert 0.0 <= metrics["win_rate_low"] <= metrics["win_rate"] <= metrics["win_rate_high"] <= 1.0
    assert metrics["win_rate_low"] < metrics["win_rate_high"]
    assert 0.0 <= metrics["lc_win_rate_low"] <= metrics["lc_win_rate"] <= metrics["lc_win_rate_high"] <= 1.0
    assert all(0.0 < metrics[f"policy.{key}_p"] <= 1.0 for key in ("rougeL", "bleu", "chrf"))
    assert metrics["policy.kl"] > 0.0
    assert metrics["prompts"] == len(prompts_of(small_night))
    assert not [key for key in metrics if key.endswith("_all") or "judge" in key]


def test_the_texts_in_the_table_have_the_scores_and_lengths_reported(small_night: Paths) -> None:
    """Gold of each greedy answer counted anew, words counted anew: as in the table and as in the metrics."""
    from rlhf.annotator import gold_score

    metrics, rows = json.loads(small_night.metrics("evaluate").read_text()), rows_of(small_night)
    for name in CONTESTANTS:
        assert metrics[f"{name}.length"] == pytest.approx(fmean(len(row[name].split()) for row in rows))
        for row in rows:
            assert row[f"{name}_gold"] == pytest.approx(gold_score(row["prompt"], row[name]), abs=1e-4)
    for name in ("sft", "policy"):
        assert metrics[f"{name}.gold_greedy"] == pytest.approx(fmean(row[f"{name}_gold"] for row in rows), abs=1e-4)
        assert metrics[f"{name}.reward_greedy"] == pytest.approx(fmean(row[f"{name}_reward"] for row in rows), abs=1e-3)
    assert metrics["best_of_n.reward"] == pytest.approx(fmean(row["best_of_n_reward"] for row in rows), abs=1e-4)
    assert metrics["best_of_n.reward"] > metrics["sft.reward"]


def test_the_win_rate_is_gold_against_gold(copied_night: Callable[..., Paths], night_params: Params) -> None:
    """Counted by hand over fresh samples of both models: each against each of the other's, ties half."""
    from rlhf.annotator import gold_score
    from rlhf.evaluation.answers import sampled_answers
    from rlhf.models import load_policy

    paths = copied_night("evaluation")
    figures = evaluate.run(stages.files("evaluate", paths), night_params.evaluate, night_params.model)
    prompts = [str(row.prompt) for row in prompts_of(paths)]
    golds = {}
    for name in ("sft", "policy"):
        texts = sampled_answers(load_policy(paths.models / name, CPU), prompts, 2, 24, night_params.evaluate.seed, 64)
        golds[name] = [[gold_score(prompt, text) for text in row] for prompt, row in zip(prompts, texts, strict=True)]
        assert figures[f"{name}.gold"] == pytest.approx(fmean(gold for row in golds[name] for gold in row))
    wins = [
        1.0 if ours > theirs else 0.5 if ours == theirs else 0.0
        for row, baseline in zip(golds["policy"], golds["sft"], strict=True)
        for ours in row
        for theirs in baseline
    ]
    assert figures["win_rate"] == pytest.approx(fmean(wins))


def test_the_samples_are_those_that_the_win_rate_is_counted_on(small_night: Paths) -> None:
    """A row per prompt in the table's order; counted anew, the scores give the win rate, its interval and the means.

    The settings beside them are the params that drew them, so that others can be measured in the same way.
    """
    import numpy as np

    from rlhf.annotator import gold_score
    from rlhf.evaluation.length_control import length_controlled_win_rate
    from rlhf.evaluation.winrate import win_rate

    rows = [json.loads(line) for line in (small_night.evaluation / "samples.jsonl").read_text().splitlines()]
    assert [(row["id"], row["prompt"]) for row in rows] == [(row["id"], row["prompt"]) for row in rows_of(small_night)]
    scores = json.loads((small_night.evaluation / "scores.json").read_text())
    metrics, settings = scores["metrics"], scores["sampling"]
    assert settings == {"referee": "gold", "samples": 2, "max_new_tokens": 24, "batch_size": 64, "seed": 0}
    for name in ("sft", "policy"):
        for row in rows:
            assert row[name]["scores"].keys() == {"reward", "gold"}
            assert row[name]["scores"]["gold"] == [gold_score(row["prompt"], text) for text in row[name]["texts"]]
        for scorer in ("reward", "gold"):
            every = [score for row in rows for score in row[name]["scores"][scorer]]
            assert metrics[f"{name}.{scorer}"] == pytest.approx(fmean(every), abs=1e-6)
    ours, theirs = (np.array([row[name]["scores"]["gold"] for row in rows]) for name in ("policy", "sft"))
    long, short = (
        np.array([[float(len(text)) for text in row[name]["texts"]] for row in rows]) for name in ("policy", "sft")
    )
    assert tuple(length_controlled_win_rate(ours, theirs, long, short)) == tuple(
        metrics[f"lc_win_rate{end}"] for end in ("", "_low", "_high")
    )
    found = win_rate(ours, theirs)
    assert tuple(found) == (metrics["win_rate"], metrics["win_rate_low"], metrics["win_rate_high"])


def test_every_figure_comes_with_its_signature(small_night: Paths) -> None:
    """scores.json repeats the metrics, and says with what they were computed and who judged."""
    scores = json.loads((small_night.evaluation / "scores.json").read_text())
    assert scores["metrics"] == json.loads(small_night.metrics("evaluate").read_text())
    signatures = scores["signatures"]
    assert set(signatures) == {
        *("rouge1, rouge2, rougeL, rougeLsum", "bleu", "bleu_lc", "length, distinct_2, repeated_3"),
        *("best_of_n.kl", "win_rate", "lc_win_rate", "chrf", "rougeL_p, bleu_p, chrf_p"),
    }
    assert signatures["rouge1, rouge2, rougeL, rougeLsum"].endswith("|tok:a-z0-9|lang:auto=en")
    assert signatures["bleu"].endswith("|lang:auto=en")
    assert "case:mixed" in signatures["bleu"]
    assert "case:lc" in signatures["bleu_lc"]
    assert signatures["win_rate"].startswith("judge:gold|samples:2|")


def test_nothing_that_a_night_writes_names_its_folder(small_night: Paths) -> None:
    """No absolute path in any file below data/, so that two clean clones give the same digests."""
    files = [file for file in small_night.data.rglob("*") if file.is_file()]
    assert len(files) > 40
    assert [file for file in files if str(small_night.root).encode() in file.read_bytes()] == []


def test_prompts_of_pairs_that_a_model_learnt_from_are_set_aside(copied_night: Callable[..., Paths]) -> None:
    """Those in train, dev or judge; a pair in test teaches nobody. The limit counts what is left alone."""
    paths = copied_night()
    prompts = prompts_of(paths)
    for place, split in enumerate(("train", "dev", "judge", "test")):
        form = {"prompt": f" {str(prompts[place].prompt).upper()}"}  # in capitals it is the same prompt
        learn_from(paths, split, [prompts[place].model_copy(update=form)])
    unseen, seen = split_prompts(stages.files("evaluate", paths), None)
    assert (seen, unseen) == (prompts[:3], prompts[3:])
    assert split_prompts(stages.files("evaluate", paths), 2) == (prompts[3:5], prompts[:3])


def test_a_prompt_without_references_is_not_measured_on(copied_night: Callable[..., Paths]) -> None:
    """ROUGE and BLEU would have nothing to compare with."""
    paths = copied_night()
    first, *rest = prompts_of(paths)
    write_records(paths.validated / "test" / "prompts.jsonl", [first.model_copy(update={"references": []}), *rest])
    assert split_prompts(stages.files("evaluate", paths), None) == (rest, [])


def test_seen_prompts_count_in_the_figures_over_all_alone(
    copied_night: Callable[..., Paths], night_params: Params
) -> None:
    """The table shows the unseen ones; `_all` figures appear for both models beside those of the unseen."""
    paths = copied_night("evaluation")
    prompts = prompts_of(paths)
    learn_from(paths, "judge", prompts[:4])
    figures = evaluate.run(stages.files("evaluate", paths), night_params.evaluate, night_params.model)
    assert [row["id"] for row in rows_of(paths)] == [row.id for row in prompts[4:]]
    assert (figures["prompts"], figures["prompts_seen_by_reward"]) == (len(prompts) - 4, 4)
    expected = {
        f"{name}.{key}_all"
        for name in ("sft", "policy")
        for key in ("rouge1", "rouge2", "rougeL", "bleu", "bleu_lc", "chrf")
    }
    assert {key for key in figures if key.endswith("_all")} == expected


def test_all_figures_over_all_prompts_are_those_of_a_night_without_pairs(
    small_night: Paths, copied_night: Callable[..., Paths], night_params: Params
) -> None:
    """ROUGE and BLEU over seen and unseen together are what they were while none was seen."""
    paths = copied_night("evaluation")
    learn_from(paths, "train", prompts_of(paths)[5:])
    figures = evaluate.run(stages.files("evaluate", paths), night_params.evaluate, night_params.model)
    before = json.loads(small_night.metrics("evaluate").read_text())
    for name in ("sft", "policy"):
        for key in ("rouge1", "rougeL", "bleu"):
            assert figures[f"{name}.{key}_all"] == pytest.approx(before[f"{name}.{key}"], abs=1e-6)


def test_when_every_prompt_was_seen_there_is_nothing_honest_to_report(
    copied_night: Callable[..., Paths], night_params: Params
) -> None:
    """An error that counts them and says what to hold back; nothing is written."""
    paths = copied_night("evaluation")
    prompts = prompts_of(paths)
    learn_from(paths, "dev", prompts)
    with pytest.raises(ValueError, match=rf"found {len(prompts)} test prompts with references, but every one"):
        evaluate.run(stages.files("evaluate", paths), night_params.evaluate, night_params.model)
    assert not paths.evaluation.exists()


def test_peoples_prompts_are_judged_by_the_judge(copied_night: Callable[..., Paths], night_params: Params) -> None:
    """Without gold: the judge's figures and win rate, its name in the signature and its picture; no gold anywhere."""
    paths = copied_night("evaluation", "models/judge")
    shutil.copytree(paths.models / "reward", paths.models / "judge")
    renamed(paths)
    figures = evaluate.run(stages.files("evaluate", paths), night_params.evaluate, night_params.model)
    assert {"sft.judge", "policy.judge", "best_of_n.judge", "policy.judge_greedy"} <= figures.keys()
    assert not [key for key in figures if "gold" in key or "probe" in key]
    # This judge is the reward model under another name, so that both must say the same.
    assert figures["policy.judge"] == pytest.approx(figures["policy.reward"])
    signatures = json.loads((paths.evaluation / "scores.json").read_text())["signatures"]
    assert signatures["win_rate"].startswith("judge:judge|")
    assert "policy_judge" in rows_of(paths)[0]
    report.draw_evaluation(paths.reports / "evaluate", paths.plots("evaluate"), paths.evaluation)
    assert (paths.reports / "evaluate" / "judge.png").is_file()


def test_peoples_prompts_without_a_judge_are_refused_before_any_model_loads(
    copied_night: Callable[..., Paths], night_params: Params
) -> None:
    """The reward model that PPO optimised is no judge; the models' folders are not even there."""
    paths = copied_night("evaluation", "models/sft", "models/policy", "models/reward")
    renamed(paths)
    with pytest.raises(ValueError, match=r"judge: no judge here, .* which would prove nothing; hold rankings out"):
        evaluate.run(stages.files("evaluate", paths), night_params.evaluate, night_params.model)
    assert not paths.evaluation.exists()
