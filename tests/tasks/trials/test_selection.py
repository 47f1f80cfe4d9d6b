"""The selection: a score that training never saw, on prompts that decide no gate."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import pytest

from tasks.files import read_records, write_json, write_rows
from tasks.params.night import UNCHANGED, NightParams
from tasks.params.whole import Params, read_params
from tasks.paths import Paths
from tasks.tracking import mlflow_store, tracker
from tasks.trials import selection, standings, table, workspaces
from tasks.trials.candidates import read_candidates
from tasks.trials.standings import Standing


def test_a_candidate_is_scored_by_the_annotator_on_samples_of_dev_prompts(
    small_night: Paths, night_params: Params
) -> None:
    """A mean per prompt, as a plain loop finds it; the same policy scores the same under another name."""
    from rlhf.annotator import Annotator
    from rlhf.evaluation.answers import sampled_answers
    from rlhf.models import load_policy
    from rlhf.records import Prompt

    held_out = selection.score(small_night, night_params, {"a": small_night, "b": small_night})
    prompts = [row.prompt for row in read_records(small_night.validated / "dev" / "prompts.jsonl", Prompt)]
    sampling, policy = night_params.evaluate, load_policy(small_night.models / "policy", night_params.model)
    answers = sampled_answers(policy, prompts, sampling.samples, sampling.max_new_tokens, sampling.seed, 64)
    annotator = Annotator(sampling.seed)
    expected = [
        fmean(annotator.score([prompt], [text]).item() for text in texts)
        for prompt, texts in zip(prompts, answers, strict=True)
    ]
    assert held_out.referee == "simulated annotator"
    assert held_out.scores["a"] == pytest.approx(expected, abs=1e-5)
    assert held_out.scores["b"] == held_out.scores["a"]


def test_too_few_dev_prompts_choose_nobody(small_night: Paths, night_params: Params, tmp_path: Path) -> None:
    """One prompt has no standard error; the error names the param."""
    paths = Paths(tmp_path)
    write_rows(paths.validated / "dev" / "prompts.jsonl", [{"id": "1", "prompt": "name = Aro"}])
    with pytest.raises(ValueError, match=r"dev/prompts.jsonl: 1 prompts cannot choose .* raise validate.dev_share"):
        selection.score(paths, night_params, {"a": small_night})


class Taste:
    """A scorer that knows what was said to which prompt; whose name it reads in the text gets that one's score."""

    def __init__(self, scores: dict[str, float]) -> None:
        self.scores = scores
        self.asked: set[str] = set()

    def score(self, prompts: Sequence[str], completions: Sequence[str]) -> Any:
        import torch

        self.asked |= set(prompts)
        return torch.tensor(
            [self.scores[text] + (prompt == "dev 2") for prompt, text in zip(prompts, completions, strict=True)]
        )


def test_dev_prompts_choose_and_test_prompts_do_not(tracked: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    """The best on dev goes on though another wins more on test; all are kept, with error bars, also in their runs."""
    file = tracked.root / "params.yaml"
    with file.open("a", encoding="utf-8") as text:
        text.write("night: {seeds: [1, 2]}\n")
    params, candidates = read_params(file), read_candidates(file)
    write_rows(tracked.validated / "dev" / "prompts.jsonl", [{"id": f"{n}", "prompt": f"dev {n}"} for n in (1, 2)])
    write_rows(tracked.validated / "test" / "prompts.jsonl", [{"id": "3", "prompt": "test"}])
    (tracked.root / "dvc.lock").write_text("as trained")
    on_test = {UNCHANGED: 0.9, "seed-1": 0.6}
    for row in candidates[:2]:
        workspace = workspaces.of_night(tracked, row.name)
        write_json(workspace.models / "policy" / "config.json", {"who": row.name})
        figures = {"win_rate": on_test[row.name], "win_rate_low": 0.5, "win_rate_high": 1.0}
        write_json(workspace.metrics("evaluate"), figures)
    taste = Taste({UNCHANGED: 0.2, "seed-1": 0.3})
    names = {str(workspaces.of_night(tracked, row.name).models / "policy"): row.name for row in candidates}
    monkeypatch.setattr("rlhf.models.load_policy", lambda folder, model: names[str(folder)])
    monkeypatch.setattr(
        "rlhf.evaluation.answers.sampled_answers",
        lambda policy, prompts, samples, *given: [[policy] * samples for _ in prompts],
    )
    monkeypatch.setattr("tasks.training.monitor.find_held_out", lambda *given: taste)
    with tracker.night(tracked, params, "flow") as night_id:
        for row in candidates[:2]:
            with tracker.candidate(workspaces.of_night(tracked, row.name), row.params, row.name):
                pass
        decided = selection.decide(tracked, candidates, {"seed-2": "sft made the dev loss no better"}, night_id)

    assert taste.asked == {"dev 1", "dev 2"}
    assert decided == standings.read(tracked)
    assert (decided.winner, decided.referee, decided.prompts) == ("seed-1", "judge", 2)
    first, second, third = decided.candidates
    assert second.score == pytest.approx(0.8)  # (0.3 + 1.3) / 2
    assert second.standard_error == pytest.approx(stdev([0.3, 1.3]) / 2**0.5)
    assert (first.folder, second.folder) == (".", "nights/candidates/seed-1")
    assert first.figures["win_rate"] > second.figures["win_rate"]
    assert (third.score, third.error, third.run_id) == (None, "sft made the dev loss no better", None)
    client = mlflow_store.open_client(tracked)
    assert second.run_id is not None
    run = client.get_run(second.run_id)
    assert run.data.metrics["held_out.score"] == pytest.approx(0.8)
    assert run.data.tags["mlflow.parentRunId"] == night_id

    rows = table.of_night(decided)
    assert [row["candidate"] for row in rows] == ["seed-1", UNCHANGED, "seed-2"]
    assert [row[""] for row in rows] == ["goes on", "", "sft made the dev loss no better"]
    assert rows[0]["held-out score"] == "0.8000 ± 0.5000"


def test_the_best_held_out_score_wins_and_of_equals_the_first() -> None:
    """A candidate that was not trained to the end has none."""
    scores = {"a": 0.4, "b": None, "c": 0.7, "d": 0.7}
    rows = [Standing(name=name, variant=name, seed=None, folder=name, score=score) for name, score in scores.items()]
    assert selection.best(rows) == "c"


def scored(**variants: list[float | None]) -> list[Standing]:
    """Candidates by variant, with a score for each seed."""
    return [
        Standing(name=f"{variant}-{seed}", variant=variant, seed=seed, folder=".", score=score)
        for variant, scores in variants.items()
        for seed, score in enumerate(scores)
    ]


def test_a_lucky_seed_carries_no_settings_in_a_trade() -> None:
    """Of means .6 and .675 the second wins, and its better seed goes on, though .9 is above both; without a weight
    the highest score does.
    """
    rows = scored(lucky=[0.9, 0.3], steady=[0.65, 0.7])
    assert selection.best(rows, weight=5.0) == "steady-1"
    assert selection.best(rows) == "lucky-0"


def test_settings_that_lost_a_seed_come_after_those_that_lost_none() -> None:
    """Whatever the seed that is left has reached; where all lost one, the means of those left decide."""
    assert selection.best(scored(lost=[0.9, None], full=[0.5, 0.6]), weight=5.0) == "full-1"
    assert selection.best(scored(a=[0.4, None], b=[None, 0.6]), weight=5.0) == "b-1"


def test_equal_settings_go_to_the_first() -> None:
    """As among candidates."""
    assert selection.best(scored(a=[0.5], b=[0.5]), weight=0.0) == "a-0"


def test_a_trade_is_of_wins_over_sft_and_of_rouge_on_dev_prompts(
    tmp_path: Path, night_params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The policy wins on one prompt and ties on the other: w = (1, ½). SFT answers as the reference, ROUGE-L 1 and 1;
    of the policy's four words three are right, ¾ and ¾. At λ = 2: 1 − ½ and ½ − ½. What has no reference is left out.
    """
    paths, params = Paths(tmp_path), night_params.model_copy(update={"night": NightParams(rouge_weight=2.0)})
    rows = [{"id": f"{n}", "prompt": f"dev {n}", "references": ["a b c d"]} for n in (1, 2)]
    write_rows(paths.validated / "dev" / "prompts.jsonl", [*rows, {"id": "3", "prompt": "dev 3", "references": []}])
    likes = {("dev 1", "a b c x"): 1.0}

    class Judge:
        def score(self, prompts: Sequence[str], completions: Sequence[str]) -> Any:
            import torch

            return torch.tensor([likes.get(row, 0.0) for row in zip(prompts, completions, strict=True)])

    answers = {"sft": "a b c d", "policy": "a b c x"}
    monkeypatch.setattr("rlhf.models.load_policy", lambda folder, model: answers[folder.name])
    monkeypatch.setattr("rlhf.evaluation.answers.greedy_answers", lambda text, prompts, *given: [text] * len(prompts))
    monkeypatch.setattr(
        "rlhf.evaluation.answers.sampled_answers",
        lambda text, prompts, samples, *given: [[text] * samples for _ in prompts],
    )
    monkeypatch.setattr("tasks.training.monitor.find_held_out", lambda *given: Judge())
    held_out = selection.score(paths, params, {"near": paths})
    assert held_out.scores["near"] == pytest.approx([0.5, 0.0])
    assert selection.figures_of(held_out, "near") == pytest.approx(
        {
            "held_out.score": 0.25,
            "held_out.standard_error": 0.25,  # √(2·.25² / 1) / √2
            "held_out.win_rate": 0.75,
            "held_out.rougeL": 0.75,
            "held_out.rougeL_change": -0.25,
        }
    )


def test_a_trade_without_references_is_refused(tmp_path: Path, night_params: Params) -> None:
    """The error names both ways out."""
    paths, params = Paths(tmp_path), night_params.model_copy(update={"night": NightParams(rouge_weight=2.0)})
    write_rows(paths.validated / "dev" / "prompts.jsonl", [{"id": f"{n}", "prompt": f"dev {n}"} for n in range(3)])
    match = r"0 prompts with references cannot choose .*; raise validate.dev_share, or empty night.rouge_weight"
    with pytest.raises(ValueError, match=match):
        selection.score(paths, params, {"a": paths})
