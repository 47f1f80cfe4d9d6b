"""The reward model as others use it: text in, normalised scores out; with its constants it loads and saves."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from rlhf.models import ANYWHERE
from rlhf.records import Message
from rlhf.reward.encoder import EncoderReward
from rlhf.reward.scalar import ScalarReward
from rlhf.settings import ComputeSettings

KINDS: dict[str, type[ScalarReward] | type[EncoderReward]] = {"scalar": ScalarReward, "encoder": EncoderReward}


@dataclass
class RewardModel:
    """A network and the constants that bring its scores to mean 0 and deviation 1 on SFT's completions."""

    network: ScalarReward | EncoderReward
    mean: float = 0.0
    deviation: float = 1.0

    @torch.no_grad()
    def score(
        self, prompts: Sequence[str | Sequence[Message]], completions: Sequence[str], batch_size: int = 64
    ) -> Float[Tensor, " B"]:
        """Scores completions of prompts: (r − mean) / deviation, on the CPU.

        Raises:
            ValueError: there is not one prompt per completion.
        """
        if len(prompts) != len(completions):
            raise ValueError(f"found {len(prompts)} prompts for {len(completions)} completions; give one each")
        self.network.eval()
        order = sorted(range(len(completions)), key=lambda row: len(completions[row]))
        scores = torch.zeros(len(completions))
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            batch = self.network.encode([prompts[row] for row in rows], [completions[row] for row in rows])
            scores[rows] = self.network(batch).float().cpu()
        return (scores - self.mean) / self.deviation

    def normalise(self, prompts: Sequence[str | Sequence[Message]], completions: Sequence[str]) -> None:
        """Sets the constants so that these completions have mean 0 and deviation 1.

        Raises:
            ValueError: the scores do not differ, so there is nothing to learn from.
        """
        self.mean, self.deviation = 0.0, 1.0
        scores = self.score(prompts, completions)
        deviation = float(scores.std(correction=0))
        if not deviation > 1e-6:
            raise ValueError("the reward model gives every completion the same score; it has learnt nothing")
        self.mean, self.deviation = float(scores.mean()), deviation

    def save(self, path: Path) -> None:
        """Writes the network, its head and reward.json."""
        from safetensors.torch import save_file

        path.mkdir(parents=True, exist_ok=True)
        self.network.save(path)
        heads = {name: weight.detach().float().contiguous().cpu() for name, weight in self.network.heads().items()}
        save_file(heads, path / "head.safetensors")
        description = {"mean": self.mean, "deviation": self.deviation, **_describe(self.network)}
        (path / "reward.json").write_text(json.dumps(description, indent=2, sort_keys=True) + "\n")


def load_reward_model(path: str | Path, compute: ComputeSettings = ANYWHERE) -> RewardModel:
    """Loads what `RewardModel.save` wrote.

    Raises:
        FileNotFoundError: the folder holds no reward model.
    """
    from safetensors.torch import load_file

    path = Path(path)
    if not (path / "reward.json").is_file():
        raise FileNotFoundError(f"{path}: no reward.json here; give a folder that the reward stage wrote")
    description = json.loads((path / "reward.json").read_text(encoding="utf-8"))
    network: ScalarReward | EncoderReward = KINDS[description["kind"]].load(path, description, compute)
    weights = load_file(path / "head.safetensors")
    with torch.no_grad():
        for name, weight in network.heads().items():
            weight.copy_(weights[name])
    network.eval()
    return RewardModel(network, description["mean"], description["deviation"])


def _describe(network: ScalarReward | EncoderReward) -> dict[str, str | int | bool]:
    if isinstance(network, ScalarReward):
        return {
            "kind": "scalar",
            "loglikelihood": network.loglikelihood,
            "max_completion_tokens": network.max_completion_tokens,
        }
    return {"kind": "encoder", "max_tokens": network.max_tokens, "frozen": network.frozen}
