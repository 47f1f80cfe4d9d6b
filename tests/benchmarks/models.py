"""The model that all contenders load: random weights from one seed, written once for each shape.

`python -m tests.benchmarks.models SHAPE STOP FOLDER` writes one; STOP is a probability, or `None`.
"""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import torch

from rlhf.models import Policy, build_policy, save_policy
from tests.benchmarks.shapes import EOS, PAD, SEP, SHAPES, SPECIAL


def word_tokenizer(vocab_size: int) -> Any:
    """A tokenizer of so many words, special ones first."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = [*SPECIAL, *(f"w{token}" for token in range(len(SPECIAL), vocab_size))]
    tokenizer = Tokenizer(models.WordLevel({word: token for token, word in enumerate(words)}, unk_token=words[PAD]))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=SPECIAL[PAD],
        unk_token=SPECIAL[PAD],
        eos_token=SPECIAL[EOS],
        sep_token=SPECIAL[SEP],
        padding_side="left",
    )


def build(shape: str, stop: float | None) -> Policy:
    """A model with random weights, which writes EOS with a given probability at any place."""
    made = SHAPES[shape]
    policy = build_policy(made.config, word_tokenizer(made.vocab_size), seed=0)
    if stop is not None:
        assert made.config["model_type"] == "gpt2", "only GPT-2's last norm has the bias that fixes EOS's logit"
        fix_stop(policy.model, stop, made.vocab_size)
    return policy


@torch.no_grad()
def fix_stop(model: Any, stop: float, vocab_size: int) -> None:
    """Makes EOS's logit a constant of GPT-2's, log(p·(V − 1)/(1 − p)), or −30 where it is never to be drawn.

    One coordinate of the last state becomes 1 whatever is read, and EOS's row of the head reads nothing else.
    """
    norm, row = model.transformer.ln_f, model.lm_head.weight[EOS]
    norm.weight[0], norm.bias[0] = 0.0, 1.0
    row.zero_()
    row[0] = math.log(stop * (vocab_size - 1) / (1.0 - stop)) if stop else -30.0


if __name__ == "__main__":
    _, name, stop, folder = sys.argv
    save_policy(build(name, None if stop == "None" else float(stop)), Path(folder))
