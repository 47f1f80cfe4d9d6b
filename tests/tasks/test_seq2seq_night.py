"""Encoder–decoder policies through every stage that the data goes through."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rlhf.models import load_policy
from rlhf.settings.model import ModelSettings
from tasks.params.whole import Params
from tasks.paths import Paths
from tasks.runner import run_stage
from tasks.stages import VERSIONED

T5: dict[str, Any] = {
    "model_type": "t5",
    "d_model": 48,
    "d_kv": 24,
    "d_ff": 96,
    "num_layers": 1,
    "num_heads": 2,
    "dropout_rate": 0.0,
}
BART: dict[str, Any] = {
    "model_type": "bart",
    "d_model": 48,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 96,
    "decoder_ffn_dim": 96,
    "max_position_embeddings": 160,
}


@pytest.mark.parametrize("config", [T5, BART], ids=["t5", "bart"])
def test_a_night_runs_on_an_encoder_decoder(config: dict[str, Any], night_params: Params, tmp_path: Path) -> None:
    """From the corpus to the evaluation: SFT learns, answers are ranked, the policy moves from SFT and is judged."""
    paths = Paths(tmp_path)
    model = ModelSettings.model_validate({**night_params.model.model_dump(), "config": config})
    params = night_params.model_copy(update={"model": model})
    for stage in VERSIONED:
        run_stage(stage, paths, params)
    metrics = {stage: json.loads(paths.metrics(stage).read_text()) for stage in ("sft", "policy", "evaluate")}
    assert metrics["sft"]["eval_loss"] < 5.0  # log 400, the vocabulary, is 6
    assert metrics["policy"]["kl"] != 0.0
    assert metrics["evaluate"].keys() >= {"sft.gold", "policy.gold", "policy.kl", "win_rate"}
    assert load_policy(paths.models / "policy").model.config.is_encoder_decoder
