"""The sampler: one for rollouts, PPO and evaluation, over any language model.

A row's text depends on its own seed and settings alone, not on the batch it is drawn in: each row has its own
stream of uniform numbers, one a token, and tokens are drawn by inverting the cumulative distribution.
Dimensions: B batch, P prompt tokens, T new tokens, V vocabulary.
"""

from rlhf.generation.beams import beam_search
from rlhf.generation.context import check_context
from rlhf.generation.sampler import generate, sample

__all__ = ["beam_search", "check_context", "generate", "sample"]
