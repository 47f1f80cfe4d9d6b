"""Tokenizers and configurations of models: load and train, and a prompt as token ids; importing it costs no torch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from rlhf.records import Demonstration, Message, prompt_key

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedTokenizerBase, PreTrainedTokenizerFast

PAD, EOS, BOS = "<pad>", "<eos>", "<sep>"


def encode_prompt(
    tokenizer: PreTrainedTokenizerBase, prompt: str | Sequence[Message], for_encoder: bool = False
) -> list[int]:
    """A prompt as token ids, up to where the response begins.

    A chat model gets its own template with the generation prompt. Another causal model gets the text and a separator,
    which is `<sep>` where the tokenizer has it, else a newline; an encoder the text as its tokenizer frames it.
    """
    if tokenizer.chat_template:
        turns = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else _turns(prompt)
        text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        return list(tokenizer.encode(text, add_special_tokens=False))
    text = prompt if isinstance(prompt, str) else "\n".join(turn.content for turn in prompt)
    if for_encoder:
        return list(tokenizer.encode(text))
    # get_vocab would copy a large tokenizer's vocabulary for every prompt.
    separator = "\n" if tokenizer.convert_tokens_to_ids(BOS) in (None, tokenizer.unk_token_id) else BOS
    return list(tokenizer.encode(text + separator, add_special_tokens=False))


def load_tokenizer(name: str | Path, trust_remote_code: bool) -> PreTrainedTokenizerBase:
    """Loads the tokenizer of a Hub id or a local path; raises ValueError that says why it cannot be loaded."""
    from transformers import AutoTokenizer

    with explained(name):
        return AutoTokenizer.from_pretrained(name, trust_remote_code=trust_remote_code)


def load_config(name: str | Path, trust_remote_code: bool) -> PretrainedConfig:
    """Loads the configuration of a Hub id or a local path; raises ValueError that says why it cannot be loaded."""
    from transformers import AutoConfig

    with explained(name):
        return AutoConfig.from_pretrained(name, trust_remote_code=trust_remote_code)


def corpus_of(rows: Iterable[Demonstration]) -> Iterator[str]:
    """The texts that a model from scratch has its tokenizer trained on."""
    for row in rows:
        yield prompt_key(row.prompt)
        yield row.response


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """Trains a byte-level BPE with pad, eos and separator tokens; the same texts give the same tokenizer."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[PAD, EOS, BOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=PAD, eos_token=EOS, sep_token=BOS)


@contextmanager
def explained(name: str | Path) -> Iterator[None]:
    """Turns what transformers raises when `name` cannot be loaded into a ValueError that says what to do."""
    try:
        yield
    except (OSError, ValueError) as error:
        raise ValueError(f"{name}: {explain_load(error)}") from error


def explain_load(error: Exception) -> str:
    """Why a model could not be loaded, in one line, with what to do."""
    reason = str(error).strip().splitlines()[0]
    if "trust_remote_code" in str(error):
        remedy = "read that code, and set model.trust_remote_code to true if you trust it"
    else:
        remedy = (
            "give a folder with config.json and safetensors, or a Hub id that this machine can reach (or has in its "
            "cache)"
        )
    return f"the model could not be loaded ({reason}); {remedy}"


def _turns(prompt: Sequence[Message]) -> list[dict[str, str]]:
    return [{"role": turn.role, "content": turn.content} for turn in prompt]
