"""The models that a night starts from: the base model, or the champion, which it trains further."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlhf.settings.model import ModelSettings

if TYPE_CHECKING:
    from rlhf.models import Policy

SHAPE = ("model_type", "hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size")
"""The fields in which configurations of one architecture agree, by the names that transformers gives all of them."""


def load_base(model: ModelSettings, training: bool = False) -> Policy | None:
    """The base model of `model.name`; None where `model.config` builds one, which is untrained before SFT.

    Raises:
        ValueError: the model cannot be loaded.
    """
    from rlhf.models import load_policy

    return None if model.name is None else load_policy(model.name, model, training)


def load_champion(folder: Path, model: ModelSettings) -> Policy | None:
    """The champion in this folder, to be trained; None where there is none.

    Raises:
        ValueError: it cannot be loaded, or is another network or tokenizer than the params' base model.
    """
    from rlhf.models import load_policy
    from rlhf.tokenizers import load_config, load_tokenizer

    if not (folder / "config.json").is_file():
        return None
    champion = load_config(folder, model.trust_remote_code)
    tokens = len(load_tokenizer(folder, model.trust_remote_code))
    if model.name is None:
        from transformers import AutoConfig

        base, fields = AutoConfig.for_model(**model.config), tuple(model.config)
        allowed = min(tokens, model.vocab_size)  # a tokenizer may be smaller than it was allowed to be
    else:
        base, fields = load_config(model.name, model.trust_remote_code), SHAPE
        allowed = len(load_tokenizer(model.name, model.trust_remote_code))
    actual, expected = ({field: getattr(config, field, None) for field in fields} for config in (champion, base))
    _check_same(folder, actual | {"tokens": tokens}, expected | {"tokens": allowed})
    return load_policy(folder, model, training=True)


def _check_same(folder: Path, actual: dict[str, Any], expected: dict[str, Any]) -> None:
    differing = [
        f"{name} {actual[name]} (params: {expected[name]})" for name in expected if actual[name] != expected[name]
    ]
    if differing:
        raise ValueError(
            f"{folder}: the champion is another model than the params describe: {', '.join(differing)}; set "
            "sft.start to base, so that the new model has to beat the champion first, or restore the model section"
        )
