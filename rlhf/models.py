"""Language models as policies, causal or encoder–decoder: build, load, save, and where they run."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from rlhf.endings import Endings, endings_of
from rlhf.fast import prepare
from rlhf.finite import check_state
from rlhf.records import Message, prompt_identity
from rlhf.settings.model import ComputeSettings
from rlhf.soft_prompt import load_soft_prompt, save_soft_prompt, soft_prompt, without_soft_prompt
from rlhf.tokenizers import (
    bos_ids,
    control_tokens,
    encode_prompt,
    encode_text,
    explained,
    load_config,
    load_tokenizer,
)

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase, PreTrainedTokenizerFast

ANYWHERE = ComputeSettings()
ON_CPU = ComputeSettings(device="cpu")


@dataclass(frozen=True)
class Policy:
    """A language model with its tokenizer."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @property
    def hidden(self) -> int:
        """Width of the hidden states."""
        embeddings = self.model.get_input_embeddings()
        assert isinstance(embeddings.weight, torch.Tensor)
        return embeddings.weight.shape[1]

    @property
    def endings(self) -> Endings:
        """The tokens that end a response."""
        return endings_of(self.tokenizer, self.model.generation_config.eos_token_id)

    @property
    def eos_id(self) -> int:
        """What training closes a response with."""
        return self.endings.eos_id

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """All that sampling stops at."""
        return self.endings.stop_ids

    @property
    def soft_ids(self) -> list[int]:
        """Ids of the learnt embeddings that precede every prompt; none without prompt tuning."""
        prompt = soft_prompt(self.model)
        return [] if prompt is None else prompt.ids

    @property
    def lead_ids(self) -> list[int]:
        """Ids that precede every text without a template: the learnt ones, and BOS where the tokenizer adds it."""
        return self.soft_ids + ([] if self.model.config.is_encoder_decoder else bos_ids(self.tokenizer))

    def encode_prompt(self, prompt: str | Sequence[Message]) -> list[int]:
        """A prompt as token ids, up to where the response begins."""
        return self.soft_ids + encode_prompt(self.tokenizer, prompt, self.model.config.is_encoder_decoder)

    def encode_prompts(self, prompts: Sequence[str | Sequence[Message]]) -> list[list[int]]:
        """`encode_prompt` of each; repeated prompts are encoded once."""
        keys = list(map(prompt_identity, prompts))
        encoded = {key: self.encode_prompt(key) for key in dict.fromkeys(keys)}
        return [encoded[key] for key in keys]

    def encode_response(self, response: str, max_tokens: int, finished: bool = True) -> list[int]:
        """A response as at most `max_tokens` ids, its end included when it is finished and fits.

        A finished one that ends in the text of an end token has that end already, and gets no second one.
        """
        if finished:
            response = control_tokens(self.tokenizer).at_end.sub("", response)
        tokens = encode_text(self.tokenizer, response) + [self.eos_id] * finished
        return tokens[:max_tokens]

    def describe(self, prompt: Sequence[int], response: Sequence[int]) -> dict[str, str]:
        """Ids of a prompt and a response as texts, for people: the prompt with its special tokens, no learnt ones."""
        return {
            "prompt": str(self.tokenizer.decode(list(prompt[len(self.soft_ids) :]))),
            "response": self.decode(response),
        }

    def decode(self, tokens: Sequence[int]) -> str:
        """Response ids as text, its end and special tokens left out."""
        if len(tokens) and tokens[-1] in self.stop_ids:
            tokens = tokens[:-1]
        return str(self.tokenizer.decode(list(tokens), skip_special_tokens=True)).strip()


def resolve_device(name: str) -> torch.device:
    """`auto` is CUDA where there is one, else the CPU; raises ValueError when CUDA is asked for and missing."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("model.device is cuda, but no CUDA device is visible; set it to auto or cpu")
    return torch.device(name)


def resolve_dtype(precision: str, device: torch.device) -> torch.dtype:
    """The type in which products are computed: `auto` is bfloat16 on CUDA, where it has it, and float32 on the CPU.

    Raises:
        ValueError: bfloat16 is asked for, and the device does not have it.
    """
    supported = device.type != "cuda" or torch.cuda.is_bf16_supported(including_emulation=False)
    if precision == "float32" or (precision == "auto" and (device.type != "cuda" or not supported)):
        return torch.float32
    if not supported:
        raise ValueError(f"model.precision is {precision}, but this CUDA device has no bfloat16; set it to float32")
    return torch.bfloat16


def computes_in_float32(model: nn.Module) -> bool:
    """Whether a forward of the model, here and now, rounds as float32 does: neither its weights nor autocast less."""
    weight = next(model.parameters())
    return weight.dtype == torch.float32 and not torch.is_autocast_enabled(weight.device.type)


def autocast(precision: str, device: torch.device) -> torch.autocast:
    """The context in which weights are trained: products of float32 weights in bfloat16 where `precision` says so."""
    mixed = precision != "pure_bfloat16" and resolve_dtype(precision, device) == torch.bfloat16
    # Open around a whole training loop, autocast's cache would hold the weights as they were at the first step.
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=mixed, cache_enabled=False)


def build_policy(
    config: dict[str, Any], tokenizer: PreTrainedTokenizerFast, seed: int, compute: ComputeSettings = ON_CPU
) -> Policy:
    """Builds a language model from the fields of a transformers configuration, with random weights, for training.

    Raises:
        ValueError: the model type or one of its fields is unknown, or the values do not fit together.
    """
    from transformers import AutoConfig

    fields = dict(config)
    model_type = fields.pop("model_type")
    ids = {
        "vocab_size": len(tokenizer),
        "pad_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "bos_token_id": tokenizer.sep_token_id,
    }
    torch.manual_seed(seed)
    try:
        defaults = AutoConfig.for_model(model_type)
        unknown = [field for field in fields if not hasattr(defaults, field)]
        if unknown:
            raise ValueError(f"no field {', '.join(unknown)} in the configuration of {model_type}")
        if defaults.is_encoder_decoder:
            ids |= {"decoder_start_token_id": tokenizer.sep_token_id, "forced_eos_token_id": None}
        complete = AutoConfig.for_model(model_type, **fields, **ids)
        model = _auto_class(complete).from_config(complete)
    except (ValueError, TypeError) as error:
        raise ValueError(f"model.config: cannot build a {model_type}: {error}") from error
    return Policy(_to_device(model, compute, training=True), tokenizer)


def load_policy(name: str | Path, compute: ComputeSettings = ANYWHERE, training: bool = False) -> Policy:
    """Loads a language model and its tokenizer from a Hub id or a local path.

    Args:
        name: the id or path.
        compute: where it runs and how.
        training: weights that will be trained are float32, unless all is to be bfloat16.

    Raises:
        ValueError: neither a readable folder nor a model of the Hub, or no token ends its responses.
    """
    config = load_config(name, compute.trust_remote_code)
    model, tokenizer = load_network(_auto_class(config), name, compute, training)
    policy = Policy(model, tokenizer)
    try:
        _ = policy.endings
    except ValueError as error:
        raise ValueError(f"{name}: {error}; choose a model whose tokenizer names one") from error
    load_soft_prompt(model, Path(name))
    return policy


def load_network(
    kind: Any, name: str | Path, compute: ComputeSettings, training: bool
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Loads a model of one of transformers' auto classes with its tokenizer, in evaluation mode.

    Raises:
        ValueError: it cannot be loaded; the message says why and what to give.
    """
    dtype = _dtype(compute, training)
    tokenizer = load_tokenizer(name, compute.trust_remote_code)
    with explained(name), without_bars():
        model = kind.from_pretrained(
            name, dtype=dtype, use_safetensors=True, trust_remote_code=compute.trust_remote_code
        )
    return _to_device(model, compute, training), tokenizer


def _auto_class(config: PretrainedConfig) -> Any:
    from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

    return AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM


def _to_device(model: PreTrainedModel, compute: ComputeSettings, training: bool) -> PreTrainedModel:
    """The model on its device and in evaluation mode, with the type and the checkpointing that training asks for."""
    device = resolve_device(compute.device)
    if compute.fast:
        prepare(model)
    if training and compute.gradient_checkpointing:  # of layers as they now are
        checkpoint_layers(model)
    return model.to(device, _dtype(compute, training)).eval()  # type: ignore[arg-type]


def _dtype(compute: ComputeSettings, training: bool) -> torch.dtype:
    """The type of the weights: those that are trained in mixed precision are float32."""
    dtype = resolve_dtype(compute.precision, resolve_device(compute.device))
    return torch.float32 if training and compute.precision != "pure_bfloat16" else dtype


def checkpoint_layers(model: nn.Module) -> None:
    """Has each layer compute its activations again in the backward pass, instead of keeping them.

    transformers' own switch works in training mode alone, where PPO must not be, since dropout is on there.
    """
    from transformers.modeling_layers import GradientCheckpointingLayer

    for layer in model.modules():
        if isinstance(layer, GradientCheckpointingLayer):
            layer.forward = partial(_recomputed, layer.forward)


def _recomputed(forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    if torch.is_grad_enabled():
        return checkpoint(forward, *args, use_reentrant=False, **kwargs)
    return forward(*args, **kwargs)


@contextmanager
def without_bars() -> Iterator[None]:
    """Keeps transformers from drawing bars over weights and shards, which hide ours; a download keeps its own."""
    from transformers.utils import logging

    before = logging.set_tqdm_hook(lambda bar, args, kwargs: bar(*args, **{**kwargs, "disable": True}))
    try:
        yield
    finally:
        logging.set_tqdm_hook(before)


def save_policy(policy: Policy, path: Path) -> None:
    """Writes model (safetensors) and tokenizer; nothing in the files depends on where or when.

    Raises:
        ValueError: a LoRA adapter is not merged yet, so that the files would hold no plain weights; or a weight is not
            finite.
    """
    check_state(dict(policy.model.named_parameters()), str(path))
    if hasattr(policy.model, "peft_config"):
        raise ValueError("the policy has a LoRA adapter that is not merged; give save_policy what merge returns")
    # Whoever else loads it stops where it was trained to.
    stop_ids = policy.stop_ids
    policy.model.generation_config.eos_token_id = stop_ids[0] if len(stop_ids) == 1 else list(stop_ids)
    with without_soft_prompt(policy.model):
        save_network(policy.model, policy.tokenizer, path)
    save_soft_prompt(policy.model, path)


def save_network(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, path: Path) -> None:
    """Writes a model of transformers with its tokenizer, and removes the path that it was loaded from."""
    with without_bars():
        model.save_pretrained(path, safe_serialization=True)
        tokenizer.save_pretrained(path)
    for name in ("config.json", "tokenizer_config.json"):
        file = path / name
        fields = json.loads(file.read_text(encoding="utf-8"))
        for field in ("_name_or_path", "name_or_path", "is_local", "local_files_only"):
            fields.pop(field, None)
        file.write_text(json.dumps(fields, indent=2, sort_keys=True) + "\n", encoding="utf-8")
