"""Pairs as a policy reads them: every completion of a prompt once, and which of them is preferred to which."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rlhf.demonstrations import Example
from rlhf.models import Policy
from rlhf.records import Pair, PromptText


@dataclass(frozen=True)
class PairTable:
    """Pairs by prompt.

    Attributes:
        prompts: each once.
        examples: (prompt ids, response ids) of every completion.
        pairs: for each prompt its (chosen, rejected), by their indices among the examples.
    """

    prompts: list[PromptText]
    examples: list[Example]
    pairs: list[list[tuple[int, int]]]


def encode_pairs(policy: Policy, pairs: Sequence[Pair], max_response_tokens: int) -> PairTable:
    """The pairs of each prompt, whichever rankings they come from; a response is closed by EOS where that fits.

    Two completions that are the same once cut to `max_response_tokens` make no pair.

    Raises:
        ValueError: there is none.
    """
    rows: dict[tuple[int, ...], int] = {}
    indices: dict[tuple[int, tuple[int, ...]], int] = {}
    table = PairTable([], [], [])
    for pair, prompt in zip(pairs, policy.encode_prompts([pair.prompt for pair in pairs]), strict=True):
        responses = [policy.encode_response(text, max_response_tokens) for text in (pair.chosen, pair.rejected)]
        if responses[0] == responses[1]:
            continue
        row = rows.setdefault(tuple(prompt), len(rows))
        if row == len(table.prompts):
            table.prompts.append(pair.prompt)
            table.pairs.append([])
        for response in responses:
            if (row, tuple(response)) not in indices:
                indices[row, tuple(response)] = len(indices)
                table.examples.append((prompt, response))
        chosen, rejected = (indices[row, tuple(response)] for response in responses)
        table.pairs[row].append((chosen, rejected))
    if not table.pairs:
        raise ValueError(
            f"found no pair to learn from among {len(pairs)}; do chosen and rejected differ within "
            f"policy.max_new_tokens {max_response_tokens}? are all rankings ties? see data/metrics/pairs.json"
        )
    return table
