"""The model card: what it tells, what it admits, and how it fits into the registry."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tasks.params.register import RegisterParams
from tasks.paths import Paths
from tasks.registry import card
from tasks.registry.card import Facts
from tasks.registry.gates import Finding, judge_seeds
from tasks.registry.lineage import Lineage, Step
from tasks.stages import STAGES
from tasks.tracking import mlflow_store

TITLES = ["What it is", "Metrics", "Gates", "Limits", "Data", "Params", "Lineage"]
GATES = RegisterParams()
NOTHING = Step(None, {}, {}, {})
STEPS = {
    **dict.fromkeys(STAGES, NOTHING),
    "validate": Step("v", {}, {"rows_in": 300.0, "rows_kept": 290.0}, {}),
    "sft": Step("s", {"sft.start": "base", "sft.steps": "950", "model.config.model_type": "llama"}, {}, {}),
    "rank": Step("k", {"rank.annotator": "simulated"}, {}, {}),
    "reward": Step("r", {"reward.kind": "scalar"}, {"accuracy": 0.91234, "ece": 0.02}, {}),
    "policy": Step(
        "p", {"policy.algorithm": "rloo", "policy.kl.coefficient": "0.04", "policy.monitor": "null"}, {}, {}
    ),
}
TAGS = {
    **{"reward_version": "2", "annotators": '{"simulated": 7}', "data.data/raw": "abc.dir", "night": "n1"},
    **{"git.commit": "c0ffee", "git.dirty": "no", "params.md5": "d00d"},
}
EVALUATION = {
    **{"sft.rougeL": 0.58, "policy.rougeL": 0.61, "best_of_n.rougeL": 0.6, "policy.kl": 2.6, "sft.gold": 0.5},
    **{"policy.gold": 0.9, "win_rate": 0.93, "win_rate_low": 0.9, "win_rate_high": 0.96, "prompts": 170.0},
    **{"reward.gold_accuracy": 0.95},
}
FACTS = Facts(
    lineage=Lineage("nightjar", 3, ["challenger"], TAGS, STEPS, None),
    referee="gold",
    evaluation=EVALUATION,
    findings=[Finding("win_rate", True, "win rate fine"), Finding("kl", False, "KL 12 | above 10")],
    reason="not promoted: KL 12 | above 10",
)


def section(text: str, title: str) -> str:
    """What stands below a heading."""
    return text.split(f"## {title}\n")[1].split("\n\n## ")[0]


def test_a_policys_card_has_all_its_sections() -> None:
    """In this order; the decision comes first."""
    text = card.render("policy", FACTS)
    assert text.startswith("# nightjar-policy version 3\n\nnot promoted: KL 12 | above 10\n\n## What it is\n")
    assert [line[3:] for line in text.splitlines() if line.startswith("## ")] == TITLES


def test_its_figures_are_those_of_the_evaluation() -> None:
    """SFT beside policy and best-of-n, the win rates with their intervals, the general loss where it was measured."""
    told = section(card.render("policy", FACTS), "Metrics")
    assert "| policy | 0.6100 | 0.900 | 2.60 |" in told
    assert "Win rate over SFT, judged by gold: 0.930 [0.900, 0.960], 95 % over prompts" in told
    assert "champion" not in told
    assert "other tasks" not in told
    more = {"champion.win_rate": 0.6, "champion.win_rate_low": 0.55, "champion.win_rate_high": 0.65}
    told = section(
        card.render("policy", replace(FACTS, evaluation={**EVALUATION, **more, "policy_forgetting": 0.1234})), "Metrics"
    )
    assert "Win rate over the champion before it: 0.600 [0.550, 0.650]" in told
    assert "Loss on other tasks: +0.123 nats per token to SFT's" in told
    assert "`BLEU nrefs:1`" in section(card.render("policy", replace(FACTS, signatures=["BLEU nrefs:1"])), "Metrics")


def test_gates_data_params_and_origin_are_tables() -> None:
    """A bar in a cell breaks no table; counts, annotators and digests; params that runs were given; the commit."""
    text = card.render("policy", FACTS)
    assert "| kl | failed | KL 12 \\| above 10 |" in section(text, "Gates")
    for line in ("| validate: rows kept | 290 |", "| rankings by simulated | 7 |", "| data/raw | `abc.dir` |"):
        assert line in section(text, "Data")
    for line in ("| sft.steps | 950 |", "| policy.kl.coefficient | 0.04 |"):
        assert line in section(text, "Params")
    for line in ("| git commit | c0ffee |", "`nightjar lineage 3`", "`nightjar reproduce 3`"):
        assert line in section(text, "Lineage")
    assert "random weights (llama)" in section(text, "What it is")
    assert "by rloo from nightjar-reward version 2" in section(text, "What it is")


def test_a_policy_of_pairs_did_not_learn_from_the_reward_model() -> None:
    """Both cards say so."""
    steps = STEPS | {"policy": Step("p", {"policy.algorithm": "dpo"}, {}, {})}
    facts = replace(FACTS, lineage=replace(FACTS.lineage, steps=steps))
    assert "(SFT), then by dpo from pairs." in section(card.render("policy", facts), "What it is")
    assert "nightjar-policy version 3 was measured by it" in section(card.render("reward", facts), "What it is")


def test_a_reward_models_card_tells_of_the_reward_model() -> None:
    """Its own version, what it scores, its accuracy on test pairs and against gold; the policy's gates beside it."""
    text = card.render("reward", FACTS)
    assert text.startswith("# nightjar-reward version 2\n")
    assert "A reward model (scalar)" in section(text, "What it is")
    assert "| accuracy, on test pairs | 0.9123 |" in section(text, "Metrics")
    assert "| accuracy against gold | 0.9500 |" in section(text, "Metrics")


@pytest.mark.parametrize(
    ("change", "word", "there"),
    [
        ({}, "rule of a generated corpus", True),
        ({"referee": "judge"}, "rule of a generated corpus", False),
        ({"referee": "judge"}, "held out from PPO, not by people", True),
        ({}, "No person ranked anything", True),
        ({}, "forgot other tasks was not measured", True),
        ({"evaluation": {**EVALUATION, "policy_forgetting": 0.0}}, "forgot other tasks", False),
        ({}, "Nothing watched for reward hacking", True),
        ({"findings": [judge_seeds(1, [0.6], GATES)]}, "One run of one seed", True),
        ({"findings": [judge_seeds(3, [0.6], GATES)]}, "One run of one seed", True),
        ({"findings": [judge_seeds(3, [0.6, 0.7, 0.8], GATES)]}, "One run of one seed", False),
        ({}, "compared with no other champion", True),
        ({"evaluation": {**EVALUATION, "champion.win_rate": 0.6}}, "compared with no other champion", False),
        ({}, "differed from the git commit", False),
    ],
)
def test_it_admits_what_was_not_measured(change: dict[str, Any], word: str, there: bool) -> None:
    """And is silent about what was."""
    facts = replace(FACTS, **change)
    assert any(word in limit for limit in card.limits(facts)) is there


@pytest.mark.parametrize(
    ("tags", "word"),
    [({"git.commit": "c0ffee", "git.dirty": "yes"}, "differed from the git commit"), ({}, "outside a git checkout")],
)
def test_it_admits_code_that_no_commit_holds(tags: dict[str, str], word: str) -> None:
    """A checkout with changes, and none at all."""
    facts = replace(FACTS, lineage=replace(FACTS.lineage, tags=tags))
    assert any(word in limit for limit in card.limits(facts))


def test_a_monitor_and_people_leave_two_limits_out() -> None:
    """Where policy.monitor watched and people ranked."""
    steps = {**STEPS, "rank": Step("k", {"rank.annotator": "people"}, {}, {}), "policy": Step("p", {}, {}, {})}
    told = " ".join(card.limits(replace(FACTS, lineage=replace(FACTS.lineage, steps=steps))))
    assert "hacking" not in told
    assert "person" not in told


def test_without_the_runs_the_card_still_stands() -> None:
    """Stages that ran on another machine leave no params or figures here."""
    bare = replace(FACTS.lineage, steps=dict.fromkeys(STAGES, NOTHING), tags={"reward_version": "2"})
    text = card.render("policy", replace(FACTS, lineage=bare))
    assert [line[3:] for line in text.splitlines() if line.startswith("## ")] == [
        title for title in TITLES if title != "Params"
    ]


def test_a_long_card_is_cut_between_sections() -> None:
    """Where the database keeps no more than 5000 characters; the rest is where the description says."""
    whole = card.render("policy", FACTS)
    assert card.describe(whole, "x") == whole
    long = card.render("policy", replace(FACTS, findings=[Finding("kl", False, "long " * 700)]))
    assert len(long) > card.MAX_DESCRIPTION
    text = card.describe(long, "model_card.md of run 7")
    assert len(text) <= card.MAX_DESCRIPTION
    assert text.endswith("\n\nThe rest is in model_card.md of run 7.\n")
    assert long.startswith(text.split("\n\nThe rest")[0] + "\n\n## ")
    one = card.describe("# nightjar\n" + "x" * 6000, "model_card.md of run 7")
    assert len(one) == card.MAX_DESCRIPTION


def test_registered_versions_carry_their_cards(registered: Paths) -> None:
    """As the description of policy and reward model, and whole as artifacts of the run that registered them."""
    client = mlflow_store.open_client(registered)
    for kind, file in (("policy", "model_card.md"), ("reward", "reward_card.md")):
        version = client.get_model_version_by_alias(f"nightjar-{kind}", "champion")
        kept = Path(client.download_artifacts(version.run_id, file)).read_text()
        assert kept.startswith(f"# nightjar-{kind} version 1\n\npromoted: win rate over SFT 0.930")
        assert version.description == card.describe(kept, f"{file} of run {version.run_id}")
        assert "rankings by ana | 2" in section(kept, "Data")
        assert "judged by a model of people's rankings" in section(kept, "Limits")
