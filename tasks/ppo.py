"""ppo: actor-critic PPO of the SFT model on the reward model's score, kept near its start by a KL penalty.

Reads data/models/sft, data/models/reward and data/validated/train/prompts.jsonl; writes data/models/policy and
curves of what was optimised and what it cost.

    python -m tasks ppo
"""

from __future__ import annotations

from statistics import fmean

from rlhf.records import Prompt
from rlhf.settings import ModelSettings, PpoSettings
from tasks.files import read_records, write_curve
from tasks.paths import Paths
from tasks.progress import follow
from tasks.report import plot_curves

CURVES = ("reward_mean", "kl", "entropy", "clip_fraction", "explained_variance", "response_tokens")


def run(paths: Paths, params: PpoSettings, model: ModelSettings) -> dict[str, float]:
    """Trains and saves the policy; returns figures averaged over the last fifth of the iterations.

    Raises:
        ValueError: the policy would never move, or did not.
    """
    if params.critic_warmup >= params.iterations:
        raise ValueError(
            f"ppo.critic_warmup takes {params.critic_warmup} of {params.iterations} ppo.iterations, so the policy "
            "would never move; lower the first or raise the second"
        )
    prompts = [row.prompt for row in read_records(paths.validated / "train" / "prompts.jsonl", Prompt)]

    from rlhf.models import autocast, load_policy, save_policy
    from rlhf.ppo.critic import Critic
    from rlhf.ppo.trainer import PpoTrainer
    from rlhf.reward import load_reward_model

    policy, reference = (load_policy(paths.models / "sft", model, training=True) for _ in range(2))
    reward_model = load_reward_model(paths.models / "reward", model)
    # The reward model's backbone already knows what is good; an encoder reads no prefix, so SFT's serves then.
    start = getattr(reward_model.network, "policy", reference)
    critic = Critic(start.model.base_model, start.hidden)
    trainer = PpoTrainer(policy, reference, critic, reward_model, prompts, params)
    with autocast(model.precision, policy.device):
        rows = follow(trainer.train(), "ppo", params.iterations, show=("reward_mean", "kl", "entropy"))
    trainer.check_learnt()
    save_policy(policy, paths.models / "policy")
    plot_curves(paths.plots("ppo") / "curves.png", rows, CURVES, "PPO, per iteration")
    for name in CURVES:
        write_curve(paths.plots("ppo") / f"{name}.csv", [{"step": row["step"], name: row[name]} for row in rows])
    last = rows[-max(1, len(rows) // 5) :]
    return {"iterations": float(len(rows))} | {
        name: fmean(row[name] for row in last) for name in rows[0] if name not in ("step", "ratio")
    }
