"""The champion in data/champion: who brings it, when, and how sft goes on training it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import ValidationError

from rlhf.settings.adapters import AdapterSettings
from rlhf.settings.model import ModelSettings
from rlhf.settings.sft import SftSettings
from tasks import digests, sft, stages
from tasks.params.whole import Params, read_params
from tasks.paths import Paths
from tasks.registry import champion
from tasks.tracking import mlflow_store
from tasks.training.base import load_champion
from tasks.versioning import provenance

NOTE = digests.NOTE


@pytest.fixture
def place(registered: Paths, tmp_path: Path) -> Paths:
    """A workspace of its own whose registry has a champion, and whose data/champion holds a note and an old file."""
    paths = Paths(tmp_path, registered.root)
    paths.champion.mkdir(parents=True)
    for name in (NOTE, "old.bin"):
        (paths.champion / name).write_text(name)
    return paths


def started(params: Params, start: str) -> Params:
    """The params with this sft.start."""
    return params.model_copy(update={"sft": params.sft.model_copy(update={"start": start})})


@pytest.fixture
def params(registered: Paths) -> Params:
    """The params of the workspace with the registry, starting from the champion."""
    return started(read_params(registered.root / "params.yaml"), "champion")


def test_the_champion_comes_from_the_registry_whole(place: Paths, registered: Paths, params: Params) -> None:
    """The very files that were registered, so DVC finds them by the policy's own digest; the note stays; once."""
    assert champion.check_out(place, params) == 1
    ours = {file.name: file.read_bytes() for file in place.champion.iterdir()}
    assert ours.pop(NOTE) == NOTE.encode()
    assert ours == {file.name: file.read_bytes() for file in (registered.models / "policy").iterdir()}
    found = provenance.digests(place, ["data/champion"]), digests.digest(registered.models / "policy")
    assert found == ({"data/champion": found[1]}, found[1])
    before = (place.champion / "config.json").stat().st_mtime_ns
    assert champion.check_out(place, params) == 1
    assert (place.champion / "config.json").stat().st_mtime_ns == before


def test_a_night_that_starts_from_the_base_leaves_no_champion_behind(place: Paths, params: Params) -> None:
    """Nothing lies there that could rerun sft; the registry is not even asked."""
    champion.check_out(place, params)
    assert champion.check_out(Paths(place.root), started(params, "base")) is None
    assert [file.name for file in place.champion.iterdir()] == [NOTE]
    assert not Paths(place.root).mlruns.exists()


def test_without_a_champion_the_folder_is_empty(tracked: Paths, params: Params) -> None:
    """The first night of all has none; its folder is made."""
    assert champion.check_out(tracked, params) is None
    assert list(tracked.champion.iterdir()) == []


def test_a_champion_whose_files_have_changed_is_refused(
    place: Paths, params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the way out; what lay in data/champion lies there still."""
    other = place.root / "other"
    other.mkdir()
    (other / "config.json").write_text("{}")
    monkeypatch.setattr(mlflow_store, "checkpoint_of", lambda paths, version: other)
    with pytest.raises(ValueError, match=r"nightjar-policy version 1: its files have changed .* sft.start to base"):
        champion.check_out(place, params)
    assert sorted(file.name for file in place.champion.iterdir()) == [NOTE, "old.bin"]
    assert not place.champion.with_name("champion.partial").exists()


def test_sft_goes_on_from_the_champion(copied_night: Callable[..., Paths], night_params: Params) -> None:
    """Its weights but for four tiny steps, and its tokenizer; the loss at the start is the champion's."""
    from rlhf.models import load_policy

    paths = copied_night("models/sft")
    shutil.copytree(paths.models / "policy", paths.champion)
    settings = night_params.sft.model_copy(update={"steps": 4, "learning_rate": 1.0e-5, "start": "champion"})
    assert (
        sft.run(stages.files("sft", paths), settings, night_params.model)["train_loss"] < 3.0
    )  # of a new model log 400, which is 6
    ours, theirs = (load_policy(folder) for folder in (paths.models / "sft", paths.champion))
    pairs = zip(ours.model.parameters(), theirs.model.parameters(), strict=True)
    moved = [(own - other).abs().max().item() for own, other in pairs]
    assert 0.0 < max(moved) < 1e-4
    assert ours.tokenizer.get_vocab() == theirs.tokenizer.get_vocab()


@pytest.mark.parametrize(("start", "there"), [("base", True), ("champion", False)])
def test_only_a_champion_that_is_asked_for_and_there_counts(
    copied_night: Callable[..., Paths],
    night_params: Params,
    capsys: pytest.CaptureFixture[str],
    start: str,
    there: bool,
) -> None:
    """With start: base it does not matter what lies there; with start: champion and nothing there sft says so."""
    paths = copied_night("models/sft")
    settings = night_params.sft.model_copy(update={"steps": 4})
    sft.run(stages.files("sft", paths), settings, night_params.model)
    plain = digests.digest(paths.models / "sft")
    if there:
        shutil.copytree(paths.models / "policy", paths.champion)
    shutil.rmtree(paths.models / "sft")
    sft.run(stages.files("sft", paths), settings.model_copy(update={"start": start}), night_params.model)
    assert digests.digest(paths.models / "sft") == plain
    assert ("starts from the base model, for data/champion holds no champion" in capsys.readouterr().out) != there


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"config": {"hidden_size": 32}}, r"data/champion: .* hidden_size 48 \(params: 32\); set sft.start to base"),
        ({"config": {"num_hidden_layers": 2}}, r"num_hidden_layers 1 \(params: 2\)"),
        ({"config": {"model_type": "gpt2"}}, r"model_type llama \(params: gpt2\)"),
        ({"vocab_size": 390}, r"tokens 400 \(params: 390\)"),
    ],
)
def test_another_network_than_the_params_describe_is_refused(
    small_night: Paths, night_params: Params, tmp_path: Path, change: dict[str, object], message: str
) -> None:
    """Every field that differs is named; a tokenizer that stayed below its size is none."""
    paths = Paths(tmp_path)
    shutil.copytree(small_night.models / "policy", paths.champion)
    given = night_params.model.model_dump()
    for key, value in change.items():
        given[key] = {**given[key], **value} if isinstance(value, dict) else value
    with pytest.raises(ValueError, match=message):
        load_champion(paths.champion, ModelSettings.model_validate(given))
    roomy = night_params.model.model_copy(update={"vocab_size": 500})
    assert load_champion(paths.champion, roomy) is not None


def test_the_base_model_of_a_name_must_be_the_champions_kin(
    small_night: Paths, night_params: Params, models: Path, tmp_path: Path
) -> None:
    """Of the same shape it goes on; of another it is refused before its weights are read."""
    paths = Paths(tmp_path)
    shutil.copytree(small_night.models / "policy", paths.champion)

    def named(folder: Path) -> ModelSettings:
        return ModelSettings.model_validate({"name": str(folder), "device": "cpu"})

    assert load_champion(paths.champion, named(small_night.models / "sft")) is not None
    with pytest.raises(ValueError, match=r"hidden_size 48 \(params: 16\).*vocab_size 400 \(params: 2\d\d\)"):
        load_champion(paths.champion, named(models / "policy"))


def test_an_encoder_decoder_goes_on_too(small_night: Paths, night_params: Params, tmp_path: Path) -> None:
    """A T5 champion is read as one."""
    from rlhf.models import build_policy, save_policy
    from rlhf.tokenizers import load_tokenizer

    paths = Paths(tmp_path)
    config = {"model_type": "t5", "d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2}
    tokenizer = load_tokenizer(small_night.models / "sft", False)
    save_policy(build_policy(config, tokenizer, 0), paths.champion)  # type: ignore[arg-type]
    found = load_champion(paths.champion, night_params.model.model_copy(update={"config": config}))
    assert found is not None
    assert found.model.config.is_encoder_decoder
    with pytest.raises(ValueError, match=r"model_type t5 \(params: llama\)"):
        load_champion(paths.champion, night_params.model)


def test_a_prompt_cannot_be_learnt_for_a_champion() -> None:
    """It may have one already; LoRA is merged, so it can go on."""
    given = {"steps": 1, "batch_size": 1, "learning_rate": 1.0e-3, "start": "champion"}
    SftSettings.model_validate({**given, "adapter": AdapterSettings(kind="lora")})
    with pytest.raises(ValidationError, match="set start to base, or take kind: lora"):
        SftSettings.model_validate({**given, "adapter": AdapterSettings(kind="prompt")})
