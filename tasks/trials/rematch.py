"""The rematch: a new policy against the champion, on the very prompts, seeds and settings of its evaluation.

Reads data/evaluation (samples.jsonl, and the settings in scores.json), data/validated/test and, where no gold judges,
data/models/judge; the champion comes from the registry, never from the workspace.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from rlhf.records import Prompt, PromptText
from rlhf.settings.model import ModelSettings
from tasks.files import read_records, read_rows
from tasks.paths import Paths
from tasks.registry.gates import Rematch
from tasks.tracking import mlflow_store

if TYPE_CHECKING:
    from rlhf.models import Policy


class Game(NamedTuple):
    """What the champion has to play.

    Attributes:
        prompts: those that the policy answered.
        scores: the referee's score of each of the policy's samples, per prompt.
        sft_scores: the same of SFT's.
        settings: `referee`, and how the samples were drawn.
    """

    prompts: list[PromptText]
    scores: list[list[float]]
    sft_scores: list[list[float]]
    settings: dict[str, Any]


def play(paths: Paths, champion: Any, model: ModelSettings, floor: float = 0.5) -> Rematch:
    """Samples the champion as evaluate sampled the policy, has the same referee score it, and counts the wins.

    Args:
        paths: the workspace, evaluated.
        champion: the policy version in the registry.
        model: on what device it runs.
        floor: what the win rate should lie above.

    Raises:
        FileNotFoundError: the evaluation left no samples.
        ValueError: the champion cannot be loaded.
    """
    game = read_game(paths)

    from rlhf.evaluation.answers import sampled_answers
    from rlhf.evaluation.compare import score_samples
    from rlhf.evaluation.intervals import evidence_above, share_interval
    from rlhf.evaluation.winrate import win_shares
    from rlhf.reward import load_reward_model

    referee = game.settings["referee"]
    policy = load_champion(paths, champion, model)
    drawn = (game.settings[name] for name in ("samples", "max_new_tokens", "seed", "batch_size"))
    texts = sampled_answers(policy, game.prompts, *drawn)
    scorers = {} if referee == "gold" else {referee: load_reward_model(paths.models / referee, model)}
    champion_scores = score_samples(game.prompts, texts, scorers, gold=not scorers)[referee]
    shares = win_shares(np.array(game.scores), np.array(champion_scores))
    return Rematch(int(champion.version), *share_interval(shares), evidence_above(shares, floor))


def evidence_over_sft(paths: Paths, floor: float) -> float:
    """The evidence that the policy's win rate over SFT lies above a floor; raises FileNotFoundError as `read_game`."""
    game = read_game(paths)
    from rlhf.evaluation.intervals import evidence_above
    from rlhf.evaluation.winrate import win_shares

    return evidence_above(win_shares(np.array(game.scores), np.array(game.sft_scores)), floor)


def read_game(paths: Paths) -> Game:
    """What evaluate left behind; raises FileNotFoundError when it is of a time that left no samples."""
    samples = paths.evaluation / "samples.jsonl"
    if not samples.is_file():
        raise FileNotFoundError(f"{samples}: no samples to hold the champion's against; run: nightjar stage evaluate")
    rows = [row for _, row in read_rows(samples)]
    settings = json.loads((paths.evaluation / "scores.json").read_text(encoding="utf-8"))["sampling"]
    prompts = {row.id: row.prompt for row in read_records(paths.validated / "test" / "prompts.jsonl", Prompt)}
    scores, sft = ([row[name]["scores"][settings["referee"]] for row in rows] for name in ("policy", "sft"))
    return Game([prompts[row["id"]] for row in rows], scores, sft, settings)


def load_champion(paths: Paths, champion: Any, model: ModelSettings) -> Policy:
    """The champion's checkpoint out of the registry; raises ValueError that names the way out."""
    from rlhf.models import load_policy

    try:
        return load_policy(mlflow_store.checkpoint_of(paths, champion), model)
    except Exception as error:  # a damaged file raises what its library likes
        raise ValueError(
            f"{champion.name} version {champion.version} is the champion and cannot be loaded, so no policy can be "
            f"compared with it: {error}; make another version champion with: nightjar rollback --to VERSION"
        ) from error
