"""Losses of reward models on pairs and on ratings; scores in, a scalar out. N pairs or completions."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import logsigmoid


def pairwise_loss(
    chosen: Float[Tensor, " N"],
    rejected: Float[Tensor, " N"],
    margins: Float[Tensor, " N"] | float = 0.0,
    label_smoothing: float = 0.0,
) -> Float[Tensor, ""]:
    """The negative log-likelihood of Bradley and Terry's model, with margins, where a share ε of labels is swapped.

    Mean of (1 − ε)·ℓ(Δ) + ε·ℓ(−Δ), with Δ = r_chosen − r_rejected and ℓ(Δ) = −log σ(Δ − m).

    Source: Bradley and Terry (1952), Ouyang et al. (2022), equation 1; margins: Touvron et al. (2023), Llama 2,
    equation 2; swapped labels: Chowdhury et al. (2024), Provably Robust DPO, the conservative loss of Mitchell (2023).
    Differs from the last: with a margin, a swapped label asks for it too.

    Args:
        chosen: scores of the preferred completions.
        rejected: scores of the others.
        margins: m, by how much the preferred one is to score more.
        label_smoothing: ε, the share of pairs whose label is taken to be swapped.
    """
    difference = chosen - rejected
    as_labelled, swapped = -logsigmoid(difference - margins), -logsigmoid(-difference - margins)
    return ((1.0 - label_smoothing) * as_labelled + label_smoothing * swapped).mean()


def regression_loss(scores: Float[Tensor, " N"], ratings: Float[Tensor, " N"]) -> Float[Tensor, ""]:
    """The mean squared error of scores to ratings: mean of (r − z)².

    Source: Wang et al. (2024), HelpSteer2, whose regression reward models learn people's ratings so.

    Args:
        scores: of the completions.
        ratings: z, what people gave them, with mean 0 and deviation 1: scores start near 0.
    """
    return (scores - ratings).square().mean()


def centring_loss(chosen: Float[Tensor, " N"], rejected: Float[Tensor, " N"]) -> Float[Tensor, ""]:
    """Draws the scores of every prompt's completions to 0: mean of (r_chosen + r_rejected)².

    A pairwise loss leaves each prompt an offset of its own; without one, scores of different prompts compare.
    Source: Eisenstein et al. (2023), section 2.
    """
    return (chosen + rejected).square().mean()
