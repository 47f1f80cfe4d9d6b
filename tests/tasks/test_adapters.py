"""Adapters in the stages: SFT leaves an ordinary model or a soft prompt beside one, PPO one that needs no reference."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from rlhf.records import Demonstration
from rlhf.settings.adapters import AdapterSettings
from rlhf.settings.model import ComputeSettings, ModelSettings
from rlhf.settings.sft import SftSettings
from tasks import policy as policy_stage
from tasks import rollouts, sft, stages
from tasks.files import read_records, write_rows
from tasks.params.whole import Params, read_params
from tasks.paths import Paths

CPU = ComputeSettings(device="cpu")
LORA = AdapterSettings(rank=4, alpha=8.0, dropout=0.1)
PROMPT = AdapterSettings(kind="prompt", prompt_tokens=5)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """What a folder's safetensors hold."""
    from safetensors.torch import load_file

    return load_file(folder / "model.safetensors")


def dev_loss(paths: Paths, folder: Path, params: SftSettings) -> float:
    """The loss of a saved policy on the dev split."""
    from rlhf.demonstrations import encode_demonstrations, evaluate_loss
    from rlhf.models import load_policy

    policy = load_policy(folder, CPU)
    rows = read_records(paths.validated / "dev" / "demonstrations.jsonl", Demonstration)
    return evaluate_loss(policy, encode_demonstrations(policy, rows, 128, params.max_response_tokens))


@pytest.fixture
def settings(night_params: Params) -> SftSettings:
    """A short SFT, whose adapter is to be set."""
    return night_params.sft.model_copy(update={"steps": 40, "eval_every": 40})


@pytest.fixture
def model(copied_night: Callable[..., Paths], night_params: Params, settings: SftSettings, tmp_path: Path) -> Any:
    """A base model that knows a little: the small night's, after a few steps."""
    paths = copied_night("models/sft")
    sft.run(stages.files("sft", paths), settings, night_params.model)
    (paths.models / "sft").rename(tmp_path / "base")
    return ModelSettings(name=str(tmp_path / "base"), device="cpu", threads=1)


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    """The workspace of the copied night."""
    return Paths(tmp_path / "copy")


def test_sft_with_lora_writes_an_ordinary_model(model: ModelSettings, paths: Paths, settings: SftSettings) -> None:
    """Merged, it has the base's tensors and no more, and the loss that was reported, below the base's.

    The base's linear layers alone have moved: embeddings and norms are as they were, bit for bit. By hand, rank 4 on
    four layers of 48 × 48 and three between 48 and 96 takes 4·(4·96 + 3·144) = 3264 weights.
    """
    from transformers import AutoModelForCausalLM

    metrics = sft.run(stages.files("sft", paths), settings.model_copy(update={"adapter": LORA}), model)
    base, tuned = weights(Path(str(model.name))), weights(paths.models / "sft")
    assert set(base) == set(tuned)
    moved = {name for name in base if not torch.equal(base[name], tuned[name])}
    assert moved == {name for name in base if "_proj" in name}
    assert metrics["trainable_parameters"] == 3264
    assert metrics["parameters"] == sum(weight.numel() for weight in base.values())
    assert {path.name for path in (paths.models / "sft").iterdir()} == {
        path.name for path in Path(str(model.name)).iterdir()
    }
    load: Any = AutoModelForCausalLM.from_pretrained
    _, report = load(paths.models / "sft", output_loading_info=True)
    assert not any(report.values())
    loss = dev_loss(paths, paths.models / "sft", settings)
    assert loss == pytest.approx(metrics["eval_loss"], abs=1e-4)
    assert loss < dev_loss(paths, Path(str(model.name)), settings) - 0.05


def answer_curtly(paths: Paths) -> None:
    """Demonstrations of another manner, which a prompt can bring about in a model that knows the words."""
    for split in ("train", "dev"):
        file = paths.validated / split / "demonstrations.jsonl"
        rows = [row.model_dump(mode="json") for row in read_records(file, Demonstration)]
        write_rows(file, [row | {"response": "The place serves food."} for row in rows])


def test_sft_with_an_adapter_gives_the_same_bytes_again(
    model: ModelSettings, paths: Paths, settings: SftSettings
) -> None:
    """Its start and its dropout come from the seed."""
    answer_curtly(paths)
    files = []
    for adapter in (LORA, LORA, PROMPT, PROMPT):
        sft.run(
            stages.files("sft", paths),
            settings.model_copy(update={"adapter": adapter, "steps": 3, "learning_rate": 0.1}),
            model,
        )
        files.append({path.name: path.read_bytes() for path in (paths.models / "sft").iterdir()})
    assert files[0] == files[1]
    assert files[2] == files[3]


def test_sft_with_a_prompt_keeps_it_beside_the_base(
    model: ModelSettings, paths: Paths, settings: SftSettings, night_params: Params
) -> None:
    """The base's weights are as they were, 5 embeddings of 48 learnt; rollouts then begin with them."""
    answer_curtly(paths)
    metrics = sft.run(
        stages.files("sft", paths), settings.model_copy(update={"adapter": PROMPT, "learning_rate": 0.1}), model
    )
    base, tuned = weights(Path(str(model.name))), weights(paths.models / "sft")
    assert all(torch.equal(base[name], tuned[name]) for name in base)
    assert set(base) == set(tuned)
    assert metrics["trainable_parameters"] == 240
    loss = dev_loss(paths, paths.models / "sft", settings)
    assert loss == pytest.approx(metrics["eval_loss"], abs=1e-4)
    assert loss < dev_loss(paths, Path(str(model.name)), settings) - 0.1
    figures = rollouts.run(
        stages.files("rollouts", paths), night_params.rollouts.model_copy(update={"max_prompts": 3}), model
    )
    assert figures


def test_an_adapter_on_random_weights_is_refused(tmp_path: Path) -> None:
    """Where SFT starts from scratch there is nothing to adapt: params.yaml says so before anything runs."""
    content = {
        "model": {"config": {"model_type": "llama"}},
        "sft": {"steps": 1, "batch_size": 1, "learning_rate": 1e-3, "adapter": {"kind": "lora"}},
        "reward": {"steps": 1, "batch_size": 1, "learning_rate": 1e-3},
        "policy": {"iterations": 1, "prompts_per_iteration": 1},
    }
    file = tmp_path / "params.yaml"
    file.write_text(yaml.safe_dump(content), encoding="utf-8")
    with pytest.raises(ValueError, match=r"random ones that know nothing; name a trained model in model\.name"):
        read_params(file)
    file.write_text(yaml.safe_dump({**content, "model": {"name": "some/model"}}), encoding="utf-8")
    assert read_params(file).sft.adapter == AdapterSettings()


def test_ppo_with_lora_writes_an_ordinary_policy(copied_night: Callable[..., Paths], night_params: Params) -> None:
    """Merged, it has SFT's tensors, of which the linear layers' have moved."""
    paths = copied_night("models/policy")
    params = night_params.policy.model_copy(update={"adapter": LORA.model_copy(update={"dropout": 0.0})})
    metrics = policy_stage.run(stages.files("policy", paths), params, night_params.model)
    before, after = weights(paths.models / "sft"), weights(paths.models / "policy")
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved == {name for name in before if "_proj" in name}
    assert set(before) == set(after)
    assert metrics["iterations"] == 3
