"""Reward models: text in, one score per completion out, learnt from pairs."""

from rlhf.reward.model import RewardModel, load_reward_model

__all__ = ["RewardModel", "load_reward_model"]
