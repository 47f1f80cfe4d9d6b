"""Losses on pairs by the policy's own logprobs; who calls them takes the mean over the pairs of a step. N pairs."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import logsigmoid


def sigmoid_losses(log_ratios: Float[Tensor, " N"], beta: float) -> Float[Tensor, " N"]:
    """−log σ(β·h): Bradley and Terry's likelihood of the pair, with β·log(π / π_ref) as the reward.

    Source: Rafailov et al. (2023), equation 7.

    Args:
        log_ratios: h = log π(y_w)/π_ref(y_w) − log π(y_l)/π_ref(y_l), logprobs summed over each response.
        beta: β, the KL coefficient of the objective whose optimum this seeks.
    """
    return -logsigmoid(beta * log_ratios)


def ipo_losses(log_ratios: Float[Tensor, " N"], beta: float) -> Float[Tensor, " N"]:
    """(h − 1/(2β))²: least at a finite h, so that a pair which is never contradicted does not drive π from π_ref.

    Source: Azar et al. (2024), equation 17; τ there is β.

    Args:
        log_ratios: h, as for `sigmoid_losses`.
        beta: β.
    """
    return (log_ratios - 1.0 / (2.0 * beta)).square()


LOSSES = {"sigmoid": sigmoid_losses, "ipo": ipo_losses}
"""By the names that settings call them."""


def preference_losses(
    log_ratios: Float[Tensor, " N"], beta: float, loss: str = "sigmoid", label_smoothing: float = 0.0
) -> Float[Tensor, " N"]:
    """(1 − ε)·ℓ(h) + ε·ℓ(−h): the loss where a share ε of the labels is taken to be swapped.

    Source: Mitchell (2023), "A note on DPO with noisy preferences", equation 3, for the sigmoid. Of IPO it is the same
    expectation over labels, whose minimum is at (1 − 2ε)/(2β).

    Args:
        log_ratios: h, as for `sigmoid_losses`.
        beta: β.
        loss: sigmoid or ipo.
        label_smoothing: ε.
    """
    losses = LOSSES[loss]
    return (1.0 - label_smoothing) * losses(log_ratios, beta) + label_smoothing * losses(-log_ratios, beta)
