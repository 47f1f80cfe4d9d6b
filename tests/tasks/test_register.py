"""Gates, versions and aliases: what becomes champion, what is registered once, what leads back."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from tasks import mlflow_store, provenance, register, tracking
from tasks.files import write_json
from tasks.params import Params, RegisterParams
from tasks.paths import Paths

GATES = RegisterParams(min_win_rate_low=0.5, max_rouge_drop=0.02, max_kl=10.0)
PASSING = {
    "win_rate": 0.93,
    "win_rate_low": 0.90,
    "win_rate_high": 0.96,
    "policy.rougeL": 0.60,
    "sft.rougeL": 0.58,
    "policy.kl": 2.6,
}


def night(paths: Paths, params: Params, gates: RegisterParams | None = None) -> dict[str, float]:
    """Registers inside a night, as the flow does."""
    with tracking.night(paths, params, "flow"), tracking.stage("register", paths, params):
        return register.run(paths, gates or params.register_)


def version(paths: Paths, kind: str, alias: str) -> Any:
    return mlflow_store.open_client(paths).get_model_version_by_alias(f"nightjar-{kind}", alias)


@pytest.mark.parametrize(
    ("change", "promote"),
    [
        ({}, True),
        ({"win_rate_low": 0.5001}, True),
        ({"win_rate_low": 0.5}, False),  # must lie above
        ({"policy.rougeL": 0.5601}, True),
        ({"policy.rougeL": 0.5599}, False),
        ({"policy.kl": 10.0}, True),  # may equal the ceiling
        ({"policy.kl": 10.1}, False),
        ({"policy.kl": math.nan}, False),
        ({"win_rate_low": math.nan}, False),
        ({"policy.rougeL": math.nan}, False),
    ],
)
def test_every_gate_has_its_edge(change: dict[str, float], promote: bool) -> None:
    """One figure at a time crosses its bound: .50 for the win rate, .58 − .02 for ROUGE-L, 10 nats for KL."""
    assert register.decide({**PASSING, **change}, GATES).promote is promote


def test_a_promotion_gives_all_findings() -> None:
    """With the figure and the bound of every gate."""
    assert str(register.decide(PASSING, GATES)) == (
        "promoted: win rate 0.930 [0.900, 0.960] above 0.5; "
        "ROUGE-L 0.6000 not below 0.5600 (SFT's 0.5800 less 0.02); KL 2.60 within 10 nats"
    )


def test_a_refusal_gives_the_gates_that_failed() -> None:
    """And no others."""
    decision = register.decide({**PASSING, "policy.kl": 12.1, "win_rate_low": 0.4}, GATES)
    assert str(decision) == ("not promoted: win rate 0.930 [0.400, 0.960] not above 0.5; KL 12.10 above 10 nats")


def test_a_missing_figure_is_named() -> None:
    """With the command that measures it."""
    figures = {name: value for name, value in PASSING.items() if name != "policy.kl"}
    with pytest.raises(ValueError, match=r"lacks policy\.kl; run again: python -m tasks evaluate"):
        register.decide(figures, GATES)


def test_without_an_evaluation_nothing_is_registered(evaluated: Paths, tracked_params: Params) -> None:
    """The error names the file and the command, and the registry stays empty."""
    evaluated.metrics("evaluate").unlink()
    with pytest.raises(FileNotFoundError, match=r"evaluate\.json: no evaluation .* python -m tasks evaluate"):
        night(evaluated, tracked_params)
    assert mlflow_store.open_client(evaluated).search_registered_models() == []


def test_a_policy_that_passes_becomes_challenger_and_champion(evaluated: Paths, tracked_params: Params) -> None:
    """Both models are registered; tags lead to the runs, the data, the params; the reason is written down."""
    with tracking.stage("ppo", evaluated, tracked_params) as ppo:
        digest = provenance.digest(evaluated.models / "policy")
        tracking.record_outputs(evaluated, ppo.run_id, {"data/models/policy": digest})
    assert night(evaluated, tracked_params) == {"promoted": 1.0, "policy_version": 1, "reward_version": 1}
    for kind in ("policy", "reward"):
        champion = version(evaluated, kind, "champion")
        assert champion.version == version(evaluated, kind, "challenger").version
        assert champion.description.startswith("promoted: win rate 0.930 [0.900, 0.960] above 0.5")
        assert champion.tags["reason"] == champion.description
        assert champion.tags["content"] == provenance.digest(evaluated.models / kind)
        assert champion.tags["data.data/models/policy"] == digest
        assert champion.tags["run.ppo"] == ppo.run_id
        assert champion.tags["params.md5"] == provenance.digest(evaluated.root / "params.yaml")
        assert champion.run_id == champion.tags["run"]
        client = mlflow_store.open_client(evaluated)
        run = client.get_run(champion.tags["run"])
        assert run.data.tags["mlflow.parentRunId"] == champion.tags["night"]
        assert run.info.status == "FINISHED"
        for run_id in (champion.tags["run"], champion.tags["night"]):
            kept = client.download_artifacts(run_id, "params.yaml")
            assert Path(kept).read_bytes() == (evaluated.root / "params.yaml").read_bytes()


def test_the_same_weights_are_registered_once(evaluated: Paths, tracked_params: Params) -> None:
    """A second night changes no version; when the gates change, the version there gets the new decision."""
    strict = tracked_params.register_.model_copy(update={"max_kl": 1.0})
    assert night(evaluated, tracked_params, strict)["promoted"] == 0.0
    assert version(evaluated, "policy", "challenger").tags["promoted"] == "no"
    again = night(evaluated, tracked_params)
    assert again == {"promoted": 1.0, "policy_version": 1, "reward_version": 1}
    champion = version(evaluated, "policy", "champion")
    assert champion.tags["promoted"] == "yes"
    assert champion.description.startswith("promoted")
    assert json.loads(evaluated.registered.read_text())["policy"]["new"] is False


def test_a_worse_policy_leaves_the_champion_in_place(evaluated: Paths, tracked_params: Params) -> None:
    """It becomes the challenger, as version 2; the reward model, unchanged, stays version 1."""
    night(evaluated, tracked_params)
    (evaluated.models / "policy" / "notes.txt").write_text("other content")
    write_json(evaluated.metrics("evaluate"), {**PASSING, "policy.kl": 12.1})
    assert night(evaluated, tracked_params) == {"promoted": 0.0, "policy_version": 2, "reward_version": 1}
    assert version(evaluated, "policy", "champion").version == 1
    challenger = version(evaluated, "policy", "challenger")
    assert challenger.version == 2
    assert challenger.description == "not promoted: KL 12.10 above 10 nats"


def test_a_model_that_does_not_answer_is_not_registered(evaluated: Paths, tracked_params: Params) -> None:
    """A checkpoint that cannot be loaded again stops the stage before a version is made."""
    (evaluated.models / "policy" / "model.safetensors").write_bytes(b"broken")
    with pytest.raises(RuntimeError, match="nightjar-policy: the logged model does not answer"):
        night(evaluated, tracked_params)
    assert mlflow_store.open_client(evaluated).search_model_versions() == []
