"""Versions, decisions and the match against the champion: what becomes champion, what is recorded, what leads back."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from rlhf.evaluation.intervals import share_interval
from rlhf.records import Completion
from tasks import digests, register, stages
from tasks.files import read_rows, write_json, write_rows
from tasks.params.register import RegisterParams
from tasks.params.whole import Params
from tasks.paths import Paths
from tasks.registry import decisions, existing, retirement, rollback, versions
from tasks.reports import canaries
from tasks.tracking import mlflow_store, tracker
from tasks.trials import rematch, standings
from tasks.trials.standings import Selection, Standing
from tasks.versioning import provenance

TOLD = (
    "promoted: win rate over SFT 0.930 [0.900, 0.960] above 0.5; ROUGE-L 0.6000 not below 0.5600 (SFT's 0.5800 less "
    "0.02); KL 2.60 within 10 nats; hacking not watched; "
    "judge's accuracy on people's test pairs 0.7000 [0.6000, 0.8000] "
    "above 0.5; one seed: steady over prompts, not known to be over seeds; no other champion to beat"
)


def night(paths: Paths, params: Params, gates: RegisterParams | None = None) -> dict[str, float]:
    """Registers inside a night, as the flow does."""
    with tracker.night(paths, params, "flow"), tracker.stage("register", paths, params):
        return register.run(paths, gates or params.register_, params.model)


def version(paths: Paths, kind: str, alias: str) -> Any:
    return mlflow_store.open_client(paths).get_model_version_by_alias(f"nightjar-{kind}", alias)


def retrained(paths: Paths, text: str = "another night") -> None:
    """Another policy with the same weights, as far as its content tells."""
    (paths.models / "policy" / "notes.txt").write_text(text)


def scored(paths: Paths, scores: Sequence[float]) -> None:
    """Lets the judge have said this of the policy's samples."""
    rows = [row for _, row in read_rows(paths.evaluation / "samples.jsonl")]
    for row in rows:
        row["policy"]["scores"]["judge"] = list(scores)
    write_rows(paths.evaluation / "samples.jsonl", rows)


def test_without_an_evaluation_nothing_is_registered(evaluated: Paths, tracked_params: Params) -> None:
    """The error names the file and the command, and the registry stays empty."""
    evaluated.metrics("evaluate").unlink()
    with pytest.raises(FileNotFoundError, match=r"evaluate\.json: no evaluation .* nightjar stage evaluate"):
        night(evaluated, tracked_params)
    assert mlflow_store.open_client(evaluated).search_registered_models() == []


def test_a_policy_that_passes_becomes_challenger_and_champion(evaluated: Paths, tracked_params: Params) -> None:
    """Both models are registered; tags lead to the runs, the data, the params; the reason is written down."""
    with tracker.stage("policy", evaluated, tracked_params) as policy:
        digest = digests.digest(evaluated.models / "policy")
        tracker.record_outputs(evaluated, policy.run_id, {"data/models/policy": digest})
    assert night(evaluated, tracked_params) == {"promoted": 1.0, "policy_version": 1, "reward_version": 1}
    for kind in ("policy", "reward"):
        champion = version(evaluated, kind, "champion")
        assert champion.version == version(evaluated, kind, "challenger").version
        assert champion.tags["reason"] == TOLD
        assert champion.tags["content"] == digests.digest(evaluated.models / kind)
        assert champion.tags["data.data/models/policy"] == digest
        assert champion.tags["run.policy"] == policy.run_id
        assert champion.tags["params.md5"] == digests.digest(evaluated.root / "params.yaml")
        assert json.loads(champion.tags["annotators"]) == {"ana": 2, "bo": 1}
        assert champion.tags["version.torch"] == provenance.versions()["torch"]
        assert champion.run_id == champion.tags["run"]
        client = mlflow_store.open_client(evaluated)
        run = client.get_run(champion.tags["run"])
        assert run.data.tags["mlflow.parentRunId"] == champion.tags["night"]
        assert run.info.status == "FINISHED"
        for run_id in (champion.tags["run"], champion.tags["night"]):
            kept = client.download_artifacts(run_id, "params.yaml")
            assert Path(kept).read_bytes() == (evaluated.root / "params.yaml").read_bytes()
    assert version(evaluated, "policy", "champion").tags["reward_version"] == "1"


def test_the_same_weights_are_registered_once(evaluated: Paths, tracked_params: Params) -> None:
    """A second night changes no version; when the gates change, the version there gets the new decision."""
    strict = tracked_params.register_.model_copy(update={"max_kl": 1.0})
    assert night(evaluated, tracked_params, strict)["promoted"] == 0.0
    refused = version(evaluated, "policy", "challenger").tags
    assert (refused["promoted"], refused["gate.kl"]) == ("no", "failed: KL 2.60 above 1 nats")
    unbound = tracked_params.register_.model_copy(update={"max_kl": None})
    assert night(evaluated, tracked_params, unbound) == {"promoted": 1.0, "policy_version": 1, "reward_version": 1}
    champion = version(evaluated, "policy", "champion")
    assert champion.tags["promoted"] == "yes"
    assert champion.tags["gate.rouge"].startswith("passed: ROUGE-L 0.6000")
    assert "gate.kl" not in champion.tags  # the gate is off now
    assert "\npromoted: win rate" in champion.description
    assert json.loads(evaluated.registered.read_text())["policy"]["new"] is False


def test_the_champion_is_not_compared_with_itself_and_stays(evaluated: Paths, tracked_params: Params) -> None:
    """Registered again, it has no other to beat; when the gates became stricter it stays champion all the same."""
    night(evaluated, tracked_params)
    assert "champion.win_rate" not in night(evaluated, tracked_params)
    strict = tracked_params.register_.model_copy(update={"max_kl": 1.0})
    assert night(evaluated, tracked_params, strict)["promoted"] == 0.0
    assert version(evaluated, "policy", "champion").version == 1
    told = decisions.read(evaluated)[-1]
    assert (told.promoted, told.champion_before, told.champion_after) == (False, 1, 1)


def test_a_policy_that_beats_the_champion_takes_its_place(evaluated: Paths, tracked_params: Params) -> None:
    """The champion answers the same prompts and the judge scores it; the figures are metrics, and in every record."""
    night(evaluated, tracked_params)
    retrained(evaluated)
    figures = night(evaluated, tracked_params)
    low = share_interval([1.0] * 8).low  # eight prompts, all won
    assert figures == {
        **{"promoted": 1.0, "policy_version": 2, "reward_version": 1},
        **{"champion.win_rate": 1.0, "champion.win_rate_low": low, "champion.win_rate_high": 1.0},
    }
    champion = version(evaluated, "policy", "champion")
    assert champion.version == 2
    assert champion.tags["gate.champion"] == f"passed: win rate over champion 1 1.000 [{low:.3f}, 1.000] above 0.5"
    assert champion.tags["champion_before"] == "1"
    assert json.loads(champion.tags["figures"])["champion.win_rate_low"] == low
    report = json.loads(evaluated.registered.read_text())
    won = pytest.approx(2.0**8)  # so rarely are eight won where each is won as often as not
    assert report["champion"] == {"version": 1, "rate": 1.0, "low": low, "high": 1.0, "evidence": won}
    assert report["policy"]["aliases"] == report["reward"]["aliases"] == ["challenger", "champion"]


@pytest.mark.parametrize("scores", [(-100.0, -100.0), (-100.0, 100.0)])
def test_a_policy_that_does_not_beat_the_champion_leaves_it_in_place(
    evaluated: Paths, tracked_params: Params, scores: tuple[float, float]
) -> None:
    """Worse, or as often better as worse: it becomes challenger alone, with the numbers; the reward model too."""
    night(evaluated, tracked_params)
    retrained(evaluated)
    scored(evaluated, scores)
    figures = night(evaluated, tracked_params)
    assert (figures["promoted"], figures["champion.win_rate"]) == (0.0, sum(score > 0 for score in scores) / 2)
    assert version(evaluated, "policy", "champion").version == 1
    challenger = version(evaluated, "policy", "challenger")
    assert (challenger.version, challenger.tags["promoted"]) == (2, "no")
    assert challenger.tags["reason"].startswith("not promoted: win rate over champion 1 ")
    assert "champion_before" not in challenger.tags


@pytest.mark.parametrize(("bound", "promoted"), [(100.0, True), (1.0, False)])
def test_a_year_of_nights_has_so_many_false_promotions_at_most(
    evaluated: Paths, tracked_params: Params, bound: float, promoted: bool
) -> None:
    """Eight prompts, all won over SFT, have evidence of 2⁸: more than 365 by 100 asks for, and less than 365."""
    rows = [row for _, row in read_rows(evaluated.evaluation / "samples.jsonl")]
    for row in rows:
        row["sft"] = {**row["sft"], "scores": {"judge": [0.0, 0.0]}}
    write_rows(evaluated.evaluation / "samples.jsonl", rows)
    params = tracked_params.register_.model_copy(update={"false_promotions_a_year": bound})
    assert night(evaluated, tracked_params, params)["promoted"] == promoted
    [found] = [row for row in decisions.read(evaluated)[-1].findings if row["name"] == "year"]
    assert found["text"].startswith(f"evidence 256 {'reaches' if promoted else 'below'} {365 / bound:,.0f}")


@pytest.mark.parametrize(("referee", "who", "named"), [("judge", "ana", True), ("gold", "ana", False),
                                                       ("judge", "simulated", False)])  # fmt: skip
def test_a_judge_that_is_always_wrong_on_peoples_pairs_promotes_nothing(
    evaluated: Paths, tracked_params: Params, referee: str, who: str, named: bool
) -> None:
    """Where it decided, and where people ranked; else nobody asks."""
    scores = json.loads((evaluated.evaluation / "scores.json").read_text())
    write_json(evaluated.evaluation / "scores.json", scores | {"sampling": scores["sampling"] | {"referee": referee}})
    rows = [{**row, "annotator": who} for _, row in read_rows(evaluated.rankings)]
    write_rows(evaluated.rankings, rows)
    wrong = {"judge.accuracy": 0.0, "judge.accuracy_low": 0.0, "judge.accuracy_high": 0.1}
    write_json(evaluated.metrics("reward"), wrong)
    assert (standings.read_judge(evaluated) == wrong) is named
    if named:
        assert night(evaluated, tracked_params)["promoted"] == 0.0
        assert decisions.read(evaluated)[-1].reason == (
            "not promoted: judge's accuracy on people's test pairs 0.0000 [0.0000, 0.1000] not above 0.5"
        )


def test_every_decision_is_a_line_with_its_numbers(
    evaluated: Paths, tracked_params: Params, passing: dict[str, float]
) -> None:
    """When, which version, by whom, what each gate found, and who was champion before and after."""
    night(evaluated, tracked_params)
    retrained(evaluated)
    write_json(evaluated.metrics("evaluate"), {**passing, "policy.kl": 12.1})
    night(evaluated, tracked_params)
    first, second = decisions.read(evaluated)
    assert (first.version, first.promoted, first.champion_before, first.champion_after) == (1, True, None, 1)
    assert (second.version, second.promoted, second.champion_before, second.champion_after) == (2, False, 1, 1)
    assert first.reason == TOLD
    assert second.reason == "not promoted: KL 12.10 above 10 nats"
    assert first.figures == passing
    assert second.figures["champion.win_rate"] == 1.0
    assert {row["name"]: row["passed"] for row in second.findings} == {
        **{
            "win_rate": True,
            "rouge": True,
            "kl": False,
            "monitor": True,
            "judge": True,
            "steady": True,
            "champion": True,
        }
    }
    assert datetime.fromisoformat(first.when).tzinfo is not None
    assert first.when <= second.when
    assert {first.by, second.by} == {"gates"}


def test_canaries_are_answered_beside_the_champion(evaluated: Paths, tracked_params: Params) -> None:
    """Greedily: the first test prompt, then prompts by name; the same weights write the same; MLflow keeps the page."""
    one = tracked_params.register_.model_copy(update={"canaries": 1})
    night(evaluated, tracked_params, one)
    [first] = canaries.read(evaluated)
    assert first["prompt"] == "name = Blue House, food = Thai"
    assert (first["champion"], first["version"]) == (None, None)
    retrained(evaluated)
    night(evaluated, tracked_params, one.model_copy(update={"canaries": [first["prompt"], "Tell me of the sea."]}))
    second, other = canaries.read(evaluated)
    assert second == {**first, "champion": first["policy"], "version": 1}
    assert (other["prompt"], other["champion"]) == ("Tell me of the sea.", other["policy"])
    run = version(evaluated, "policy", "challenger").run_id
    kept = mlflow_store.open_client(evaluated).download_artifacts(run, "canaries.md")
    assert Path(kept).read_text(encoding="utf-8") == canaries.markdown([second, other])


def test_a_champion_that_cannot_be_loaded_is_an_error_with_a_way_out(evaluated: Paths, tracked_params: Params) -> None:
    """Damaged weights, then none at all: nothing is registered, and rolling back is what the message advises."""
    night(evaluated, tracked_params)
    retrained(evaluated)
    champion = version(evaluated, "policy", "champion")
    checkpoint = mlflow_store.checkpoint_of(evaluated, champion)
    (checkpoint / "model.safetensors").write_bytes(b"broken")
    said = r"nightjar-policy version 1 is the champion and cannot be loaded.*nightjar rollback --to VERSION"
    with pytest.raises(ValueError, match=said):
        night(evaluated, tracked_params)
    shutil.rmtree(checkpoint.parents[1])
    with pytest.raises(ValueError, match=said):
        night(evaluated, tracked_params)
    assert len(mlflow_store.open_client(evaluated).search_model_versions("name = 'nightjar-policy'")) == 1


def test_what_was_deleted_by_hand_is_registered_again(evaluated: Paths, tracked_params: Params) -> None:
    """The reward model alone, then the champion, then both models whole: each time a night ends with a champion."""
    client = mlflow_store.open_client(evaluated)
    night(evaluated, tracked_params)
    client.delete_model_version("nightjar-reward", "1")
    assert existing.must_register(evaluated, "nightjar")
    assert night(evaluated, tracked_params) == {"promoted": 1.0, "policy_version": 1, "reward_version": 2}
    assert version(evaluated, "reward", "champion").version == 2
    client.delete_model_version("nightjar-policy", "1")
    assert night(evaluated, tracked_params) == {"promoted": 1.0, "policy_version": 2, "reward_version": 2}
    for kind in ("policy", "reward"):
        for alias in ("champion", "challenger"):
            client.delete_registered_model_alias(f"nightjar-{kind}", alias)
        client.delete_registered_model(f"nightjar-{kind}")
    assert night(evaluated, tracked_params) == {"promoted": 1.0, "policy_version": 1, "reward_version": 1}
    assert not existing.must_register(evaluated, "nightjar")


def test_an_evaluation_without_samples_asks_for_another(evaluated: Paths, tracked_params: Params) -> None:
    """Before any model loads; a first policy needs none, for it has no champion to beat."""
    (evaluated.evaluation / "samples.jsonl").unlink()
    night(evaluated, tracked_params)
    retrained(evaluated)
    with pytest.raises(FileNotFoundError, match=r"samples\.jsonl: no samples .* nightjar stage evaluate"):
        night(evaluated, tracked_params)


def test_what_a_person_took_back_is_not_promoted_again_by_itself(evaluated: Paths, tracked_params: Params) -> None:
    """The very weights that were rolled back stay challenger, though they beat the champion; a new policy may."""
    night(evaluated, tracked_params)
    retrained(evaluated)
    night(evaluated, tracked_params)
    rollback.roll_back(evaluated, "nightjar", None, "too curt")
    assert night(evaluated, tracked_params)["promoted"] == 0.0
    assert version(evaluated, "policy", "champion").version == 1
    assert "too curt" in version(evaluated, "policy", "challenger").tags["gate.rollback"]
    retrained(evaluated, "a third night")
    assert night(evaluated, tracked_params)["promoted"] == 1.0
    assert version(evaluated, "policy", "champion").version == 3


def asked(paths: Paths, language: str, numbers: range) -> None:
    """People ask these prompts too."""
    file = paths.validated / "train" / "prompts.jsonl"
    rows = [row for _, row in read_rows(file)] if file.is_file() else []
    more = [{"id": f"t{n}", "prompt": f"Where, {n}?", "references": [], "language": language} for n in numbers]
    write_rows(file, [*rows, *more])


def test_what_drifted_from_the_champions_data_is_warned_of(
    evaluated: Paths, tracked_params: Params, capsys: pytest.CaptureFixture[str]
) -> None:
    """In the terminal, in figures, in the summary and as a page; the gate, where it is on, keeps the policy back."""
    asked(evaluated, "en", range(60))
    assert not any(key.startswith("drift") for key in night(evaluated, tracked_params))
    first = json.loads(evaluated.registered.read_text())["drift"]
    assert first == "drift: nothing to compare with, for no earlier night's data are known"
    asked(evaluated, "nl", range(60, 90))
    retrained(evaluated)
    gated = {**tracked_params.register_.model_dump(), "drift": {"gate": True}}
    figures = night(evaluated, tracked_params, RegisterParams.model_validate(gated))
    assert figures["drift.warnings"] == 2.0  # beside the champion's night, which is the last night too
    assert figures["drift.champion.prompts.language"] == figures["drift.nights.prompts.language"] == 1.0
    told = "drift from champion 1: languages of prompts by 1.000; from the last night: languages of prompts by 1.000"
    assert json.loads(evaluated.registered.read_text())["drift"] == told
    page = evaluated.nights / "drift.html"
    assert f"warning: {told}; see {page}" in capsys.readouterr().err
    assert told in page.read_text()
    reason = version(evaluated, "policy", "challenger").tags["reason"]
    assert reason == "not promoted: the data drifted from champion 1's: languages of prompts by 1.000"
    assert night(evaluated, tracked_params)["promoted"] == 1.0  # a gate that is off, on the same data


def test_a_policy_that_the_monitor_warned_of_is_not_promoted(evaluated: Paths, tracked_params: Params) -> None:
    """Its readings lie beside the policy."""
    readings = {"kept_iteration": 4, "stopped": None, "readings": [{"iteration": 4, "warnings": ["grows long"]}]}
    write_json(evaluated.models / "policy" / "monitor.json", readings)
    assert night(evaluated, tracked_params)["promoted"] == 0.0
    reason = version(evaluated, "policy", "challenger").tags["reason"]
    assert reason == "not promoted: the monitor warned of iteration 4: grows long"


def test_a_decision_says_what_a_trade_chose_the_policy_by(evaluated: Paths, tracked_params: Params) -> None:
    """The sentence of the candidates' table follows the gates', whatever they say; another policy has none."""
    chosen = Standing(
        name="params.yaml",
        variant="params.yaml",
        seed=None,
        folder=".",
        score=0.7,
        standard_error=0.01,
        dev_win_rate=0.75,
        dev_rouge=0.59,
        policy=digests.digest(evaluated.models / "policy"),
    )
    near = chosen.model_copy(update={"name": "near", "variant": "near", "policy": "another"})
    trade = {"key": "", "winner": "params.yaml", "referee": "judge", "prompts": 9, "rouge_weight": 5.0}
    standings.write(evaluated, Selection(**trade, sft_rouge=0.6, candidates=[chosen, near]))
    assert night(evaluated, tracked_params)["promoted"] == 1.0
    reason = version(evaluated, "policy", "champion").tags["reason"]
    assert reason == TOLD + (
        "; params.yaml chosen of 2 candidates on 9 dev prompts: win rate over SFT 0.750 by the judge, ROUGE-L "
        "-0.0100, 0.750 + 5 × -0.0100 = 0.7000"
    )
    assert decisions.read(evaluated)[-1].reason == reason
    retrained(evaluated)
    night(evaluated, tracked_params)
    assert "chosen" not in version(evaluated, "policy", "challenger").tags["reason"]


def test_a_model_that_does_not_answer_is_not_registered(evaluated: Paths, tracked_params: Params) -> None:
    """A checkpoint that cannot be loaded again stops the stage before a version of it is made."""
    (evaluated.models / "policy" / "model.safetensors").write_bytes(b"broken")
    with pytest.raises(RuntimeError, match="nightjar-policy: the logged model does not answer"):
        night(evaluated, tracked_params)
    assert mlflow_store.open_client(evaluated).search_model_versions() == []


@pytest.mark.parametrize("referee", ["gold", "judge"])
def test_against_sft_as_champion_the_match_repeats_the_evaluation(
    copied_night: Callable[..., Paths], night_params: Params, referee: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the SFT model as champion the win rate and its interval are those over SFT, to the last digit.

    Evaluate drew SFT's samples itself; here they are drawn from the champion's checkpoint. The judge, where one judges,
    is the workspace's of today.
    """
    paths = copied_night()
    expected = json.loads(paths.metrics("evaluate").read_text())
    if referee == "judge":
        from tasks import evaluate

        shutil.copytree(paths.models / "reward", paths.models / "judge", dirs_exist_ok=True)
        monkeypatch.setattr("rlhf.annotator.has_gold", lambda prompts: False)
        expected = evaluate.run(stages.files("evaluate", paths), night_params.evaluate, night_params.model)
    monkeypatch.setattr(mlflow_store, "checkpoint_of", lambda paths, version: paths.models / "sft")
    champion = type("Version", (), {"version": 5, "name": "nightjar-policy"})
    found = rematch.play(paths, champion, night_params.model)
    assert found[:4] == (5, expected["win_rate"], expected["win_rate_low"], expected["win_rate_high"])
    assert rematch.read_game(paths).settings["referee"] == referee


def test_the_champion_is_asked_as_the_prompts_are_written(
    evaluated: Paths, tracked_params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A chat stays a chat, turn by turn, though the table of samples shows it as text; seeds are evaluate's."""
    chat = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Where to eat?"}]
    row = {"id": "1", "prompt": chat, "references": []}
    write_rows(evaluated.validated / "test" / "prompts.jsonl", [row])
    samples = [row for _, row in read_rows(evaluated.evaluation / "samples.jsonl")]
    write_rows(evaluated.evaluation / "samples.jsonl", samples[:1])
    asked: list[Any] = []

    def generate(policy: Any, prompts: Any, sampling: Any, seeds: Any, batch_size: int) -> list[Completion]:
        asked.extend(zip(prompts, sampling, seeds, strict=True))
        return [
            Completion(text="x", seed=seed, sampling=each, tokens=1, finish_reason="eos", logprob=0.0)
            for each, seed in zip(sampling, seeds, strict=True)
        ]

    monkeypatch.setattr("rlhf.evaluation.answers.generate", generate)
    monkeypatch.setattr(mlflow_store, "checkpoint_of", lambda paths, version: paths.models / "policy")
    rematch.play(evaluated, type("Version", (), {"version": 1, "name": "n"}), tracked_params.model)
    assert [[turn.role for turn in prompt] for prompt, _, _ in asked] == [["system", "user"]] * 2
    assert [(sampling.max_new_tokens, seed) for _, sampling, seed in asked] == [(5, 0), (5, 1)]


@pytest.mark.parametrize("kind", ["policy", "reward"])
def test_weights_that_were_retired_stay_so(evaluated: Paths, tracked_params: Params, kind: str) -> None:
    """A night that makes them again neither promotes them nor makes them challenger, nor what learnt from them."""
    night(evaluated, tracked_params)
    client = mlflow_store.open_client(evaluated)
    with retirement.retired(client, {f"nightjar-{kind}": [1], "nightjar-policy": [1]}, "2026: a letter"):
        pass
    if kind == "reward":
        versions.untag(client, "nightjar-policy", 1, ["retired"])
    assert night(evaluated, tracked_params)["promoted"] == 0.0
    tags = client.get_model_version("nightjar-policy", "1").tags
    assert tags["gate.retired"].startswith("failed: retired before (2026: a letter)")
    assert client.get_registered_model("nightjar-policy").aliases == {}
    assert client.get_registered_model("nightjar-reward").aliases == {}
    assert json.loads(evaluated.registered.read_text())["policy"]["aliases"] == []


def test_a_retired_version_is_no_champion_whoever_says_so(evaluated: Paths, tracked_params: Params) -> None:
    """Somebody gave it the alias again in MLflow's page: the next policy has no champion to beat."""
    night(evaluated, tracked_params)
    client = mlflow_store.open_client(evaluated)
    versions.tag(client, "nightjar-policy", 1, {"retired": "2026: a letter"})
    assert versions.champion_of(client, "nightjar") is None
    retrained(evaluated)
    assert night(evaluated, tracked_params)["promoted"] == 1.0
    assert version(evaluated, "policy", "champion").version == 2
