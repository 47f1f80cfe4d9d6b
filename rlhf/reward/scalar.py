"""A reward model on a policy's backbone: a scalar head at the last token, and the log-likelihood as a feature.

The head alone sees what a completion covers, but hardly sees a wrong value in it. The log-likelihood under a
language-model head that is tuned with it compares every token with the prompt, so it does see one.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from rlhf.batches import Batch, make_batch, response_positions, response_states
from rlhf.heads import response_logprobs
from rlhf.models import Policy, load_policy, save_policy
from rlhf.records import Message
from rlhf.reward.head import score_states
from rlhf.settings.model import ComputeSettings

CACHED_COMPLETIONS = 2**16
"""How many completions' tokens are kept."""


class ScalarReward(nn.Module):
    """r(x, y) = w·h_last + a·Σ log p(y_t) + b·mean log p(y_t); without the feature a = b = 0.

    Args:
        policy: the backbone with its tokenizer; it is trained in place, so hand over a copy.
        loglikelihood: whether the two log-likelihood terms are there.
        max_completion_tokens: longer completions are cut, EOS included.
    """

    def __init__(self, policy: Policy, loglikelihood: bool, max_completion_tokens: int) -> None:
        super().__init__()
        self.policy, self.loglikelihood = policy, loglikelihood
        self.max_completion_tokens = max_completion_tokens
        # Training sees each completion once an epoch, and encoding it takes longer than looking it up.
        self.encode_response = lru_cache(CACHED_COMPLETIONS)(
            partial(policy.encode_response, max_tokens=max_completion_tokens)
        )
        self.backbone = policy.model
        self.head = nn.Linear(policy.hidden, 1)
        nn.init.normal_(self.head.weight, std=1.0 / (policy.hidden + 1))  # Stiennon et al. (2020), appendix B
        nn.init.zeros_(self.head.bias)
        self.likelihood_weights = nn.Parameter(torch.tensor([0.1, 1.0]), requires_grad=loglikelihood)
        self.to(policy.device)

    def encode(self, prompts: Sequence[str | Sequence[Message]], completions: Sequence[str]) -> Batch:
        """Tokens of prompts and completions, EOS included where it fits."""
        responses = [self.encode_response(text) for text in completions]
        return make_batch(self.policy.encode_prompts(prompts), responses, self.policy.device)

    def reads(self, prompts: Sequence[str | Sequence[Message]], completions: Sequence[str]) -> list[tuple[int, ...]]:
        """The tokens that it reads of each completion: two that have the same ones score the same."""
        return [tuple(self.encode_response(text)) for text in completions]

    def forward(self, batch: Batch) -> Float[Tensor, " B"]:
        """One raw score per row."""
        lengths = batch.response_mask.sum(1, keepdim=True)
        positions = response_positions(batch.response_mask, with_end=True) if self.loglikelihood else lengths
        states = response_states(self.backbone, batch, positions)
        score = score_states(self.head, states[:, -1])  # each row's last state has read all of it
        if not self.loglikelihood:
            return score
        total = response_logprobs(self.backbone, batch, states=states[:, :-1]).sum(1, keepdim=True)
        return score + (torch.cat([total, total / lengths.clamp(min=1)], dim=1) * self.likelihood_weights).sum(1)

    def heads(self) -> dict[str, Tensor]:
        """The weights that the backbone's own files do not hold."""
        return {"weight": self.head.weight, "bias": self.head.bias, "likelihood": self.likelihood_weights}

    def save(self, path: Path) -> None:
        """Writes the backbone with its tokenizer; an adapter is to be merged into it by then."""
        save_policy(self.policy, path)

    @classmethod
    def load(cls, path: Path, description: dict[str, Any], compute: ComputeSettings) -> ScalarReward:
        """Reads the backbone back; the heads are filled in by the caller."""
        policy = load_policy(path, compute)
        return cls(policy, description["loglikelihood"], description["max_completion_tokens"])
