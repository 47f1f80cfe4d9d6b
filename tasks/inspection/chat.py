"""Talking to a registered policy: a line in, a completion out. The command is `nightjar chat`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rlhf.records import Message, PromptText, Sampling

if TYPE_CHECKING:
    from rlhf.models import Policy


@dataclass
class Chat:
    """A conversation. A policy with a chat template reads the earlier turns; for others each line is a prompt.

    Attributes:
        seed: the n-th answer (from 0) is drawn with seed + n.
        turns: the turns that still fit the context.
    """

    policy: Policy
    sampling: Sampling
    seed: int
    turns: list[Message] = field(default_factory=list)
    answers: int = 0

    def answer(self, line: str) -> str:
        """The policy's answer to a line; raises ValueError when the line is too long for its context."""
        from rlhf.generation import generate

        prompt: PromptText = line
        if self.policy.tokenizer.chat_template:
            prompt = self._fit([*self.turns, Message(role="user", content=line)])
        [completion] = generate(self.policy, [prompt], [self.sampling], [self.seed + self.answers])
        self.answers += 1
        if not isinstance(prompt, str):
            self.turns = [*prompt, Message(role="assistant", content=completion.text)]
        return completion.text

    def _fit(self, turns: list[Message]) -> list[Message]:
        """The turns, without the first questions and answers where the context is too short for all."""
        from rlhf.generation import check_context

        while len(turns) > 1:
            try:
                check_context(self.policy, [self.policy.encode_prompt(turns)], [self.sampling])
                break
            except ValueError:
                turns = turns[2:]
        return turns
