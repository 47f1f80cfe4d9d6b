"""The sampler: one for rollouts, PPO and evaluation, over any language model.

A row's text depends on its own seed and settings alone, not on the batch it is drawn in: each row has its own
stream of uniform numbers, one a token, and tokens are drawn by inverting the cumulative distribution.
Dimensions: B batch, P prompt tokens, T new tokens, V vocabulary.
"""

from rlhf.generation.beams import beam_search
from rlhf.generation.controls import Controls, WarpStage, as_controls, warp, warp_stages
from rlhf.generation.sampler import generate, sample
from rlhf.generation.samples import Samples, check_context

__all__ = [
    "Controls",
    "Samples",
    "WarpStage",
    "as_controls",
    "beam_search",
    "check_context",
    "generate",
    "sample",
    "warp",
    "warp_stages",
]
