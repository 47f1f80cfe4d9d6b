"""The reward model as others use it: text in, normalised scores out; with its constants it loads and saves.

Dimensions: B completions, M members of an ensemble.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from rlhf.finite import check_state, check_tensors
from rlhf.models import ANYWHERE
from rlhf.records import Message
from rlhf.reward.encoder import EncoderReward
from rlhf.reward.scalar import ScalarReward
from rlhf.settings.model import ComputeSettings

KINDS: dict[str, type[ScalarReward] | type[EncoderReward]] = {"scalar": ScalarReward, "encoder": EncoderReward}


class Assessment(NamedTuple):
    """What a reward model says of completions.

    Attributes:
        scores: normalised, less the penalty on uncertainty.
        spread: the members' standard deviation, in the units of the scores; 0 for a single network.
    """

    scores: Float[Tensor, " B"]
    spread: Float[Tensor, " B"]


@dataclass
class RewardModel:
    """A network and the constants that bring its scores to mean 0 and deviation 1 on SFT's completions."""

    network: ScalarReward | EncoderReward
    mean: float = 0.0
    deviation: float = 1.0
    members: Sequence[RewardModel] = field(init=False, repr=False, compare=False)
    """The reward models of an ensemble; a single network is its own."""

    def __post_init__(self) -> None:
        self.members = [self]

    def score(
        self, prompts: Sequence[str | Sequence[Message]], completions: Sequence[str], batch_size: int = 64
    ) -> Float[Tensor, " B"]:
        """The normalised scores of completions of prompts, on the CPU.

        Raises:
            ValueError: there is not one prompt per completion.
        """
        return self.assess(prompts, completions, batch_size).scores

    def assess(
        self, prompts: Sequence[str | Sequence[Message]], completions: Sequence[str], batch_size: int = 64
    ) -> Assessment:
        """The scores of completions with their uncertainty, on the CPU.

        Raises:
            ValueError: there is not one prompt per completion.
        """
        if len(prompts) != len(completions):
            raise ValueError(f"found {len(prompts)} prompts for {len(completions)} completions; give one each")
        raw = [_raw_scores(member.network, prompts, completions, batch_size) for member in self.members]
        return self.combine(torch.stack(raw))

    def combine(self, raw: Float[Tensor, "M B"]) -> Assessment:
        """(r − mean) / deviation, and no spread.

        Args:
            raw: each member's raw scores, here one row.
        """
        return Assessment((raw[0] - self.mean) / self.deviation, torch.zeros_like(raw[0]))

    def normalise(self, prompts: Sequence[str | Sequence[Message]], completions: Sequence[str]) -> None:
        """Sets the constants so that these completions have mean 0 and deviation 1.

        Raises:
            ValueError: the scores do not differ, so there is nothing to learn from, or are not finite.
        """
        self.mean, self.deviation = 0.0, 1.0
        scores = self.score(prompts, completions)
        check_tensors({"scores of the reward model": scores})
        deviation = float(scores.std(correction=0))
        if not deviation > 1e-6:
            raise ValueError("the reward model gives every completion the same score; it has learnt nothing")
        self.mean, self.deviation = float(scores.mean()), deviation

    def save(self, path: Path) -> None:
        """Writes the network, its head and reward.json.

        Raises:
            ValueError: a weight or a constant is not finite.
        """
        from safetensors.torch import save_file

        constants = {"mean": self.mean, "deviation": self.deviation}
        check_state(constants | dict(self.network.named_parameters()), str(path))
        path.mkdir(parents=True, exist_ok=True)
        self.network.save(path)
        heads = {name: weight.detach().float().contiguous().cpu() for name, weight in self.network.heads().items()}
        save_file(heads, path / "head.safetensors")
        _write(path, {**constants, **_describe(self.network)})


class Ensemble(RewardModel):
    """Reward models that were trained from different seeds, as one; where they disagree, none has seen similar text.

    u(x, y) = mean of z_i − λ·deviation of z_i over the members' normalised scores z_i; the score is u, normalised in
    turn. Source: Coste et al. (2024), Reward model ensembles help mitigate overoptimization, the uncertainty-weighted
    objective (theirs penalises the variance).

    Args:
        members: at least two; the first one's network stands for all where one is needed (`network`).
        uncertainty_penalty: λ.
    """

    def __init__(
        self,
        members: Sequence[RewardModel],
        uncertainty_penalty: float = 0.0,
        mean: float = 0.0,
        deviation: float = 1.0,
    ) -> None:
        super().__init__(members[0].network, mean, deviation)
        self.members, self.uncertainty_penalty = members, uncertainty_penalty

    def combine(self, raw: Float[Tensor, "M B"]) -> Assessment:
        """u, normalised, and the deviation of the members' normalised scores in the same units."""
        pairs = zip(self.members, raw, strict=True)
        normalised = torch.stack([member.combine(scores[None]).scores for member, scores in pairs])
        spread = normalised.std(0, correction=0)
        penalised = normalised.mean(0) - self.uncertainty_penalty * spread
        return Assessment((penalised - self.mean) / self.deviation, spread / self.deviation)

    def normalise(self, prompts: Sequence[str | Sequence[Message]], completions: Sequence[str]) -> None:
        """Sets the constants of every member, whose offsets and scales training leaves to chance, then its own."""
        for member in self.members:
            member.normalise(prompts, completions)
        super().normalise(prompts, completions)

    def save(self, path: Path) -> None:
        """Writes each member to a folder of its own, and reward.json with what makes them one."""
        constants = {"mean": self.mean, "deviation": self.deviation, "uncertainty_penalty": self.uncertainty_penalty}
        check_state(constants, str(path))
        for index, member in enumerate(self.members):
            member.save(path / f"member_{index}")
        _write(path, {"members": len(self.members), **constants})


def load_reward_model(path: str | Path, compute: ComputeSettings = ANYWHERE) -> RewardModel:
    """Loads what `RewardModel.save` or `Ensemble.save` wrote.

    Raises:
        FileNotFoundError: the folder holds no reward model.
    """
    from safetensors.torch import load_file

    path = Path(path)
    if not (path / "reward.json").is_file():
        raise FileNotFoundError(f"{path}: no reward.json here; give a folder that the reward stage wrote")
    description = json.loads((path / "reward.json").read_text(encoding="utf-8"))
    mean, deviation = description["mean"], description["deviation"]
    if "members" in description:
        members = [load_reward_model(path / f"member_{index}", compute) for index in range(description["members"])]
        return Ensemble(members, description["uncertainty_penalty"], mean, deviation)
    network: ScalarReward | EncoderReward = KINDS[description["kind"]].load(path, description, compute)
    weights = load_file(path / "head.safetensors")
    with torch.no_grad():
        for name, weight in network.heads().items():
            weight.copy_(weights[name])
    network.eval()
    return RewardModel(network, mean, deviation)


@torch.no_grad()
def _raw_scores(
    network: ScalarReward | EncoderReward,
    prompts: Sequence[str | Sequence[Message]],
    completions: Sequence[str],
    batch_size: int,
) -> Float[Tensor, " B"]:
    """The network's scores in the order of the completions; texts of like length share a batch."""
    network.eval()
    order = sorted(range(len(completions)), key=lambda row: len(completions[row]))
    scores = torch.zeros(len(completions))
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        batch = network.encode([prompts[row] for row in rows], [completions[row] for row in rows])
        scores[rows] = network(batch).float().cpu()
    return scores


def _write(path: Path, description: dict[str, str | int | float | bool | None]) -> None:
    (path / "reward.json").write_text(json.dumps(description, indent=2, sort_keys=True) + "\n")


def _describe(network: ScalarReward | EncoderReward) -> dict[str, str | int | float | bool | None]:
    if isinstance(network, ScalarReward):
        return {
            "kind": "scalar",
            "loglikelihood": network.loglikelihood,
            "max_completion_tokens": network.max_completion_tokens,
        }
    return {
        "kind": "encoder",
        "max_tokens": network.max_tokens,
        "frozen": network.frozen,
        "max_completion_tokens": network.max_completion_tokens,
    }
