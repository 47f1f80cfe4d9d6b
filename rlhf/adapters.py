"""Adapters: few trained weights beside frozen ones, so that the frozen model is available at any time without a copy.

LoRA (Hu et al. 2021, §4.1) adds (alpha / rank)·B·A to the weights of linear layers, with B = 0 at the start; merged, it
leaves an ordinary model. Prompt tuning learns embeddings that precede every prompt: rlhf/soft_prompt.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from rlhf.models import Policy
from rlhf.settings.adapters import AdapterSettings
from rlhf.soft_prompt import add_soft_prompt, draw_start

ADAPTER = "policy"


def attach(policy: Policy, settings: AdapterSettings, seed: int) -> Policy:
    """Freezes the model and adds an adapter, in place; at the start LoRA changes no output.

    Raises:
        ValueError: the policy has such an adapter already, or `targets` names no linear layer of the model.
    """
    if is_adapted(policy):
        raise ValueError("the policy has an adapter already; merge it before another one is attached")
    if settings.kind == "prompt" and policy.soft_ids:
        raise ValueError("the policy has a soft prompt already; start from the model that it was learnt for")
    policy.model.requires_grad_(False)
    if settings.kind == "lora":
        torch.manual_seed(seed)
        _inject(policy.model, settings)
    else:
        generator = torch.Generator().manual_seed(seed)
        excluded = policy.tokenizer.all_special_ids
        add_soft_prompt(policy.model, draw_start(policy.model, settings.prompt_tokens, excluded, generator))
    policy.model.eval()  # modules start in training mode, where dropout is on
    return policy


def is_adapted(policy: Policy) -> bool:
    """Whether a LoRA adapter is attached that is not merged yet."""
    return hasattr(policy.model, "peft_config")


def trainable_parameters(policy: Policy) -> list[nn.Parameter]:
    """The weights that require a gradient: with an adapter attached, the adapter's own."""
    return [weight for weight in policy.model.parameters() if weight.requires_grad]


@contextmanager
def without_adapter(policy: Policy) -> Iterator[None]:
    """The policy as its frozen base: inside, LoRA adds nothing.

    Raises:
        ValueError: the policy has no LoRA adapter, so that its base is gone.
    """
    if not is_adapted(policy):
        raise ValueError("the policy has no LoRA adapter to switch off; attach one, or give a reference of its own")
    layers = _lora_layers(policy.model).values()
    trainable = trainable_parameters(policy)
    try:
        for layer in layers:
            layer.enable_adapters(False)
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(True)
        # Switching sets the flags of the adapter's weights too, whatever they were.
        policy.model.requires_grad_(False)
        for weight in trainable:
            weight.requires_grad_(True)


def merge(policy: Policy) -> Policy:
    """Folds LoRA's update into the weights, in place: what is left is an ordinary model, all of it trainable.

    Raises:
        ValueError: the policy has no LoRA adapter.
    """
    if not is_adapted(policy):
        raise ValueError("the policy has no LoRA adapter to merge")
    for name, layer in _lora_layers(policy.model).items():
        layer.merge()
        policy.model.set_submodule(name, layer.get_base_layer())
    del policy.model.peft_config
    policy.model.requires_grad_(True)
    return policy


def _inject(model: nn.Module, settings: AdapterSettings) -> None:
    from peft import LoraConfig
    from peft.functional import cast_adapter_dtype, inject_adapter_in_model
    from transformers.pytorch_utils import Conv1D

    layers = _linear_layers(model)
    names = _targeted(list(layers), settings.targets)
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,  # type: ignore[arg-type]
        lora_dropout=settings.dropout,
        target_modules=names,
        fan_in_fan_out=any(isinstance(layers[name], Conv1D) for name in names),
    )
    inject_adapter_in_model(config, model, ADAPTER)
    cast_adapter_dtype(model, ADAPTER)  # to float32: in half precision small steps would be rounded away


def _linear_layers(model: nn.Module) -> dict[str, nn.Module]:
    """Every linear layer but the head, which may share its weights with the embeddings."""
    from transformers.pytorch_utils import Conv1D

    head = model.get_output_embeddings()  # type: ignore[operator]
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | Conv1D) and module is not head
    }


def _targeted(names: Sequence[str], targets: Sequence[str]) -> list[str]:
    """The layers whose name, or its last parts, is a target; all of them without targets.

    Raises:
        ValueError: a target names none.
    """
    chosen = {target: [name for name in names if f".{name}".endswith(f".{target}")] for target in targets}
    for target, matches in chosen.items():
        if not matches:
            known = ", ".join(sorted({name.rpartition(".")[2] for name in names}))
            raise ValueError(f"adapter.targets names {target}, which no linear layer is called; there are {known}")
    return sorted(set().union(*chosen.values())) if targets else list(names)


def _lora_layers(model: nn.Module) -> dict[str, Any]:
    from peft.tuners.lora import LoraLayer

    return {name: module for name, module in model.named_modules() if isinstance(module, LoraLayer)}
