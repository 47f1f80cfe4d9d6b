"""Reward models: text in, one score per completion out, learnt from pairs."""

from rlhf.reward.model import Assessment, Ensemble, RewardModel, load_reward_model

__all__ = ["Assessment", "Ensemble", "RewardModel", "load_reward_model"]
