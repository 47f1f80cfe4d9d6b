"""Zero-, one- and few-shot prompts: demonstrations in the context, before the question, for any model.

Source: Brown et al. 2020, "Language Models are Few-Shot Learners", section 2. Differs from it: a plain model's
demonstrations are written as SFT writes them, each ended by EOS.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Sequence
from typing import NamedTuple

from rlhf.generation import check_context, sample
from rlhf.models import Policy
from rlhf.records import Demonstration, Message, PromptText, Sampling, prompt_key, prompt_text


class Context(NamedTuple):
    """An encoded few-shot prompt.

    Attributes:
        tokens: demonstrations and question, up to where the response begins.
        dropped: how many demonstrations did not fit, the first ones.
    """

    tokens: list[int]
    dropped: int


def draw_shots(
    prompts: Sequence[PromptText], demonstrations: Sequence[Demonstration], count: int, seed: int
) -> list[list[Demonstration]]:
    """For each prompt `count` demonstrations of other prompts, no two of one prompt, in the order they are shown.

    A prompt's draw depends on the seed and its text alone: other prompts, and the models, change nothing. For fewer
    shots take the last ones, so that more shots add to what fewer had.

    Raises:
        ValueError: there are too few demonstrations of other prompts.
    """
    distinct = list({prompt_key(row.prompt): row for row in demonstrations}.values())
    drawn = []
    for prompt in prompts:
        key = prompt_key(prompt)
        # One more than asked for, since the prompt's own may be among them.
        order = random.Random(f"{seed}:{prompt_text(prompt)}").sample(distinct, min(count + 1, len(distinct)))
        others = [row for row in order if prompt_key(row.prompt) != key][:count]
        if len(others) < count:
            raise ValueError(
                f"found demonstrations of {len(others)} other prompts in train, but evaluate.shots asks for {count}; "
                "lower it, or add more demonstrations"
            )
        drawn.append(others)
    return drawn


def encode_shots(policy: Policy, prompt: PromptText, shots: Sequence[Demonstration], max_new_tokens: int) -> Context:
    """The question after its demonstrations, the first of which are dropped until it fits the context.

    A chat model gets them as earlier turns, after the question's own system turn. Another model gets token by token
    what SFT shows it: x₁ <sep> y₁ <eos> … x <sep>.

    Raises:
        ValueError: the question alone does not fit.
    """
    layout = _chat if policy.tokenizer.chat_template else _plain
    settings = [Sampling(max_new_tokens=max_new_tokens)]
    for dropped in range(len(shots)):
        tokens = layout(policy, prompt, shots[dropped:])
        try:
            check_context(policy, [tokens], settings)
        except ValueError:
            continue
        return Context(tokens, dropped)
    tokens = policy.encode_prompt(prompt)
    check_context(policy, [tokens], settings)
    return Context(tokens, len(shots))


def greedy_continuations(
    policy: Policy, contexts: Sequence[Sequence[int]], max_new_tokens: int, batch_size: int
) -> list[str]:
    """The likeliest answer to each encoded context, token by token."""
    settings = Sampling(temperature=0.0, max_new_tokens=max_new_tokens)
    texts: list[str] = []
    for start in range(0, len(contexts), batch_size):
        part = contexts[start : start + batch_size]
        drawn = sample(policy, part, [settings] * len(part), [0] * len(part))
        texts += map(policy.decode, drawn.responses())
    return texts


def _plain(policy: Policy, prompt: PromptText, shots: Sequence[Demonstration]) -> list[int]:
    # What precedes every text comes once, before all demonstrations.
    lead = policy.lead_ids
    tokens = list(lead)
    for shot in shots:
        tokens += policy.encode_prompt(shot.prompt)[len(lead) :] + policy.encode_response(shot.response, sys.maxsize)
    return tokens + policy.encode_prompt(prompt)[len(lead) :]


def _chat(policy: Policy, prompt: PromptText, shots: Sequence[Demonstration]) -> list[int]:
    question = _turns(prompt)
    system = [turn for turn in question if turn.role == "system"]
    turns = [
        turn
        for shot in shots
        for turn in (*_without_system(shot.prompt), Message(role="assistant", content=shot.response))
    ]
    return policy.encode_prompt([*system, *turns, *_without_system(prompt)])


def _without_system(prompt: PromptText) -> list[Message]:
    """The turns without the system's, for a conversation has one system turn."""
    return [turn for turn in _turns(prompt) if turn.role != "system"]


def _turns(prompt: PromptText) -> list[Message]:
    return [Message(role="user", content=prompt)] if isinstance(prompt, str) else prompt
