"""Forgetting: how much worse a policy has become at other tasks while it learnt its own."""

from __future__ import annotations

from collections.abc import Mapping


def forgetting(losses: Mapping[str, float]) -> dict[str, float]:
    """By how much the loss on other tasks rose from one model of a night to a later one.

    forgetting = L(policy) − L(base) = sft_forgetting + policy_forgetting, with sft_forgetting = L(sft) − L(base) and
    policy_forgetting = L(policy) − L(sft).

    Args:
        losses: the loss of `sft`, `policy` and, where SFT did not start from random weights, `base`; nats per token.

    Returns:
        The rises, nats per token; without a base, that of PPO alone.
    """
    rises = {"policy_forgetting": losses["policy"] - losses["sft"]}
    if "base" in losses:
        rises["sft_forgetting"] = losses["sft"] - losses["base"]
        rises["forgetting"] = losses["policy"] - losses["base"]
    return rises
