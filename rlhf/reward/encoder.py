"""A BERT-type cross-encoder as reward model: [CLS] prompt [SEP] completion [SEP], a linear head on [CLS]."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from rlhf.models import load_network, resolve_device, save_network
from rlhf.records import Message, prompt_text
from rlhf.reward.head import score_states
from rlhf.settings.model import ComputeSettings
from rlhf.tokenizers import load_config

if TYPE_CHECKING:
    from transformers import BatchEncoding, PreTrainedModel, PreTrainedTokenizerBase

CACHED_COMPLETIONS = 2**16
"""How many completions are kept as they were cut."""
SMALL_BERT: dict[str, Any] = {
    "model_type": "bert",
    "hidden_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 256,
    "max_position_embeddings": 256,
}


class EncoderReward(nn.Module):
    """r(x, y) = w·h_[CLS] + b over an encoder that reads prompt and completion together.

    Args:
        encoder: any encoder of transformers.
        tokenizer: its own tokenizer, which marks the two texts with token types where the encoder has them.
        max_tokens: prompt and completion together, as far as the encoder has positions; the longer is cut first.
        frozen: train the head alone.
        max_completion_tokens: longer completions are cut, before they meet their prompts; None cuts none.
    """

    def __init__(
        self,
        encoder: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        max_tokens: int,
        frozen: bool,
        max_completion_tokens: int | None = None,
    ) -> None:
        super().__init__()
        self.backbone, self.tokenizer = encoder, tokenizer
        self.max_tokens, self.frozen = min(max_tokens, position_limit(encoder) or max_tokens), frozen
        self.max_completion_tokens = max_completion_tokens
        self.cut = lru_cache(CACHED_COMPLETIONS)(self._cut)
        self.backbone.requires_grad_(not frozen)
        self.head = nn.Linear(encoder.config.hidden_size, 1)
        self.to(encoder.device)

    def encode(self, prompts: Sequence[str | Sequence[Message]], completions: Sequence[str]) -> BatchEncoding:
        """Both texts with special tokens, token types and attention mask, padded together."""
        return self._tokenize(prompts, completions, padding=True, return_tensors="pt").to(self.backbone.device)

    def reads(self, prompts: Sequence[str | Sequence[Message]], completions: Sequence[str]) -> list[tuple[int, ...]]:
        """The tokens that it reads of each completion and its prompt: two rows that have the same ones score the same.

        Which text a token is of goes without saying: separators stand between them.
        """
        return [tuple(row) for row in self._tokenize(prompts, completions)["input_ids"]]

    def _tokenize(
        self, prompts: Sequence[str | Sequence[Message]], completions: Sequence[str], **options: Any
    ) -> BatchEncoding:
        return self.tokenizer(
            [prompt_text(prompt) for prompt in prompts],
            [self.cut(text) for text in completions],
            truncation="longest_first",
            max_length=self.max_tokens,
            split_special_tokens=True,  # what reads like [SEP] in a text is text
            **options,
        )

    def _cut(self, text: str) -> str:
        """The text up to the end of its last token that counts."""
        limit = self.max_completion_tokens
        if limit is None:
            return text
        options = {"return_offsets_mapping": self.tokenizer.is_fast, "split_special_tokens": True}
        tokens = self.tokenizer(text, add_special_tokens=False, **options)
        if len(tokens["input_ids"]) <= limit:
            return text
        if self.tokenizer.is_fast:
            return text[: tokens["offset_mapping"][limit - 1][1]]
        return str(self.tokenizer.decode(tokens["input_ids"][:limit]))

    def forward(self, batch: BatchEncoding) -> Float[Tensor, " B"]:
        """One raw score per row."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            hidden = self.backbone(**batch).last_hidden_state[:, 0]
        return score_states(self.head, hidden)

    def train(self, mode: bool = True) -> EncoderReward:
        """A frozen encoder stays in evaluation mode, so that its features do not jitter under dropout."""
        super().train(mode)
        if self.frozen:
            self.backbone.eval()
        return self

    def heads(self) -> dict[str, Tensor]:
        """The weights that the encoder's own files do not hold."""
        return {"weight": self.head.weight, "bias": self.head.bias}

    def save(self, path: Path) -> None:
        """Writes the encoder with its tokenizer, without the truncation and padding of the last batch."""
        if self.tokenizer.is_fast:
            self.tokenizer.backend_tokenizer.no_truncation()
            self.tokenizer.backend_tokenizer.no_padding()
        save_network(self.backbone, self.tokenizer, path)

    @classmethod
    def load(cls, path: Path, description: dict[str, Any], compute: ComputeSettings) -> EncoderReward:
        """Reads the encoder back; the head is filled in by the caller."""
        encoder, tokenizer = load_encoder(path, compute)
        limit = description.get("max_completion_tokens")  # models of earlier nights have none
        return cls(encoder, tokenizer, description["max_tokens"], description["frozen"], limit)


def position_limit(encoder: PreTrainedModel) -> int | None:
    """How many tokens an encoder with learnt positions can read; None for one with relative or rotary positions.

    RoBERTa and its kin number positions from the padding's id on, so that many rows of the table are never used.
    """
    table = getattr(getattr(encoder, "embeddings", None), "position_embeddings", None)
    if not isinstance(table, nn.Embedding):
        return None
    return table.num_embeddings - (0 if table.padding_idx is None else table.padding_idx + 1)


def load_encoder(
    name: str | Path, compute: ComputeSettings, training: bool = False
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """An encoder and its tokenizer from a Hub id or a path.

    Raises:
        ValueError: it cannot be loaded, or its first token does not see the others; opens with the setting's name.
    """
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_MASKED_LM_MAPPING, AutoModel

    try:
        config = load_config(name, compute.trust_remote_code)
        causal = type(config) in MODEL_FOR_CAUSAL_LM_MAPPING and type(config) not in MODEL_FOR_MASKED_LM_MAPPING
        if causal or config.is_encoder_decoder:
            raise ValueError(
                f"{name} is a {config.model_type}, which writes text; give an encoder such as BERT, or name this one "
                "in reward.backbone with reward.kind: scalar"
            )
        return load_network(AutoModel, name, compute, training)
    except ValueError as error:
        raise ValueError(f"reward.encoder: {error}") from error


def build_encoder(
    config: dict[str, Any], texts: Iterable[str], vocab_size: int, device: str
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A small encoder with random weights, and a lower-cased WordPiece trained on `texts`."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import AutoConfig, AutoModel, PreTrainedTokenizerFast

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    wordpiece = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    wordpiece.normalizer = normalizers.BertNormalizer(lowercase=True)
    wordpiece.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    wordpiece.decoder = decoders.WordPiece()
    wordpiece.train_from_iterator(
        texts, trainers.WordPieceTrainer(vocab_size=vocab_size, special_tokens=special, show_progress=False)
    )
    wordpiece.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(token, wordpiece.token_to_id(token)) for token in ("[CLS]", "[SEP]")],
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=wordpiece,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )
    fields = {**SMALL_BERT, **config, "vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id}
    try:
        encoder = AutoModel.from_config(AutoConfig.for_model(fields.pop("model_type"), **fields))
    except (ValueError, TypeError) as error:
        raise ValueError(f"reward.encoder_config: cannot build the encoder: {error}") from error
    if getattr(encoder.config, "type_vocab_size", 0) < 2:  # the separators alone tell the two texts apart
        tokenizer.model_input_names.remove("token_type_ids")
    return encoder.to(resolve_device(device)).eval(), tokenizer
