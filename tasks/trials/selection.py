"""The selection among a night's candidates: each is scored by a held-out scorer, and the best goes on.

The score is that of whom training never asks (the judge of the first candidate, or the simulated annotator), on dev
prompts: test prompts decide the gates, so they must not choose who comes before them. With night.rouge_weight its
verdict is traded against ROUGE-L (rlhf/evaluation/trade_off.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import sqrt
from pathlib import Path
from statistics import fmean, stdev
from typing import TYPE_CHECKING, NamedTuple

from rlhf.records import Prompt
from tasks import digests
from tasks.files import read_records
from tasks.params.whole import Params
from tasks.paths import Paths
from tasks.stages import STAGES, VERSIONED
from tasks.tracking import mlflow_store, tracker
from tasks.training import monitor
from tasks.trials import standings, workspaces
from tasks.trials.candidates import Candidate
from tasks.trials.standings import Selection, Standing
from tasks.versioning import dvc_repo

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Float
    from torch import Tensor

    from rlhf.evaluation.language import Tokenization
    from rlhf.policy.rollouts import Scorer


class Trade(NamedTuple):
    """What a score with night.rouge_weight is made of.

    Attributes:
        sft_rouge: ROUGE-L of the SFT model whom all are compared with.
        win_rates: by candidate, its share of wins over that one.
        rouge: by candidate, its ROUGE-L.
    """

    sft_rouge: float
    win_rates: dict[str, float]
    rouge: dict[str, float]


class HeldOut(NamedTuple):
    """Scores of some policies on the same prompts.

    Attributes:
        referee: who scored.
        scores: by candidate, the score of each prompt: the mean of its samples', or what it is in the trade.
        trade: with night.rouge_weight.
    """

    referee: str
    scores: dict[str, list[float]]
    trade: Trade | None = None


def decide(paths: Paths, candidates: Sequence[Candidate], errors: Mapping[str, str], night_id: str) -> Selection:
    """Scores every candidate that was trained to the end, and keeps how all of them stand.

    Args:
        paths: the workspace that they belong to; its own params are the first candidate.
        candidates: all of them.
        errors: by name, why a candidate was not trained to the end.
        night_id: the night's MLflow run.
    """
    trained = {row.name: workspaces.of_night(paths, row.name) for row in candidates if row.name not in errors}
    held_out = score(paths, candidates[0].params, trained)
    results = [
        _standing(paths, row, held_out).model_copy(
            update={"error": errors.get(row.name), "run_id": tracker.find_candidate(paths, night_id, row.name)}
        )
        for row in candidates
    ]
    weight = candidates[0].params.night.rouge_weight
    selection = Selection(
        key=standings.key(paths, candidates),
        winner=best(results, weight),
        referee=held_out.referee,
        prompts=len(next(iter(held_out.scores.values()))),
        rouge_weight=weight,
        sft_rouge=held_out.trade.sft_rouge if held_out.trade else None,
        candidates=results,
    )
    standings.write(paths, selection)
    client = mlflow_store.open_client(paths)
    for row in results:
        if row.run_id and row.name in held_out.scores:
            points = [(name, value, 0) for name, value in figures_of(held_out, row.name).items()]
            mlflow_store.log(client, row.run_id, metrics=points)
    return selection


def record(paths: Paths, selection: Selection, night_id: str) -> None:
    """Writes to the night's run who won, and that one's figures, pictures and runs."""
    client = mlflow_store.open_client(paths)
    client.log_artifact(night_id, str(paths.candidates))
    mlflow_store.log(client, night_id, tags={"winner": selection.winner})
    workspace = workspaces.of_night(paths, selection.winner)
    for stage in VERSIONED:
        made = dvc_repo.digests(stage, workspace.root).outputs
        written = {name: made[name] for name in STAGES[stage].writes}
        tracker.record_skipped(workspace, stage, f"by {selection.winner}", written)


def best(results: Sequence[Standing], weight: float | None = None) -> str:
    """The name of the candidate with the highest score; of equals the first.

    Args:
        results: all candidates.
        weight: night.rouge_weight. With one the settings are chosen first, over their seeds, so that a lucky seed
            carries none that the others do not bear out; then the best of their seeds.
    """
    if weight is not None:
        groups = standings.by_variant(results)
        results = groups[max(groups, key=lambda variant: standings.rank(groups[variant]))]
    scored = {row.name: row.score for row in results if row.score is not None}
    return max(scored, key=scored.__getitem__)


def figures_of(held_out: HeldOut, name: str) -> dict[str, float]:
    """A candidate's score with its standard error, and the parts that it has."""
    scores, trade = held_out.scores[name], held_out.trade
    figures = {"held_out.score": fmean(scores), "held_out.standard_error": stdev(scores) / sqrt(len(scores))}
    if trade is None:
        return figures
    rouge = trade.rouge[name]
    return figures | {
        "held_out.win_rate": trade.win_rates[name],
        "held_out.rougeL": rouge,
        "held_out.rougeL_change": rouge - trade.sft_rouge,
    }


def score(paths: Paths, params: Params, trained: Mapping[str, Paths]) -> HeldOut:
    """What the held-out scorer says of samples of each policy, drawn with the same seeds on the same dev prompts.

    With night.rouge_weight every policy is compared with the SFT model of `paths`: with one and the same, for
    settings that spoil their own SFT must not look good beside it.

    Args:
        paths: whose dev prompts, judge and SFT model count.
        params: its params.
        trained: by name, the workspaces of the policies.

    Raises:
        ValueError: as `dev_prompts`, or there is nobody whom training never asked.
    """
    import numpy as np

    from rlhf.annotator import Annotator
    from rlhf.evaluation.language import choose_tokens
    from rlhf.evaluation.trade_off import traded_scores
    from rlhf.evaluation.winrate import win_shares

    rows, sampling, weight = dev_prompts(paths, params), params.evaluate, params.night.rouge_weight
    scorer = monitor.find_held_out(paths.models / "judge", params.model, [row.prompt for row in rows], sampling.seed)
    if scorer is None:
        raise ValueError(
            f"{paths.models / 'judge'}: no judge here, so that only the reward model that PPO optimised could choose "
            "among the candidates; hold rankings out for a judge (pairs.judge_share), or empty night.seeds and "
            "night.variants"
        )
    referee = "simulated annotator" if isinstance(scorer, Annotator) else "judge"
    folders = {name: workspace.models / "policy" for name, workspace in trained.items()}
    if weight is None:
        grids = {name: _grid(folder, params, rows, scorer) for name, folder in folders.items()}
        return HeldOut(referee, {name: grid.mean(dim=1).tolist() for name, grid in grids.items()})
    tokens = choose_tokens(sampling.language, [row.references for row in rows], sampling.bleu_tokens)
    baseline = paths.models / "sft"
    sft, sft_rouge = _grid(baseline, params, rows, scorer), _rouge(baseline, params, rows, tokens)
    wins = {name: win_shares(_grid(folder, params, rows, scorer), sft) for name, folder in folders.items()}
    rouge = {name: _rouge(folder, params, rows, tokens) for name, folder in folders.items()}
    scores = {name: traded_scores(wins[name], rouge[name], sft_rouge, weight).tolist() for name in folders}
    means = ({name: float(np.mean(values)) for name, values in part.items()} for part in (wins, rouge))
    return HeldOut(referee, scores, Trade(float(sft_rouge.mean()), *means))


def dev_prompts(paths: Paths, params: Params) -> list[Prompt]:
    """The prompts that choose; with night.rouge_weight those with references. Raises ValueError for too few of them."""
    file, weight = paths.validated / "dev" / "prompts.jsonl", params.night.rouge_weight
    rows = read_records(file, Prompt, may_be_empty=True)
    rows = [row for row in rows if row.references or weight is None][: params.evaluate.max_prompts]
    if len(rows) < 2:
        which, rest = ("", "") if weight is None else (" with references", ", or empty night.rouge_weight")
        raise ValueError(
            f"{file}: {len(rows)} prompts{which} cannot choose among candidates; raise validate.dev_share{rest}"
        )
    return rows


def _grid(folder: Path, params: Params, rows: Sequence[Prompt], scorer: Scorer) -> Float[Tensor, "N S"]:
    """The scores of a model's samples."""
    from rlhf.evaluation.answers import sampled_answers
    from rlhf.models import load_policy

    sampling, prompts = params.evaluate, [row.prompt for row in rows]
    drawn = sampling.samples, sampling.max_new_tokens, sampling.seed, sampling.batch_size
    texts = sampled_answers(load_policy(folder, params.model), prompts, *drawn)
    repeated = [prompt for prompt in prompts for _ in range(sampling.samples)]
    return scorer.score(repeated, [text for row in texts for text in row]).view(len(prompts), -1)


def _rouge(folder: Path, params: Params, rows: Sequence[Prompt], tokens: Tokenization) -> Float[np.ndarray, " N"]:
    """ROUGE-L of a model's likeliest answers."""
    import numpy as np

    from rlhf.evaluation.answers import greedy_answers
    from rlhf.evaluation.rouge import rouge_rows
    from rlhf.models import load_policy

    sampling, prompts = params.evaluate, [row.prompt for row in rows]
    policy = load_policy(folder, params.model)
    answers = greedy_answers(policy, prompts, sampling.max_new_tokens, sampling.batch_size)
    return np.array(rouge_rows(answers, [row.references for row in rows], words=tokens.words)["rougeL"])


def score_aside(paths: Paths, candidates: Sequence[Candidate], results: Sequence[Standing]) -> list[Standing]:
    """The same of candidates aside from nights: how they stand, with their scores and what those are made of.

    A seed goes to the data too, so candidates are measured within their seed: by the judge, on the dev prompts and
    against the SFT model of its first variant. Raises as `score`.
    """
    measured: dict[str, HeldOut] = {}
    for seed in dict.fromkeys(row.seed for row in candidates):
        group = [row for row in candidates if row.seed == seed]
        trained = {row.name: workspaces.aside(paths, row.name) for row in group}
        held_out = score(trained[group[0].name], group[0].params, trained)
        measured |= dict.fromkeys(trained, held_out)
    scored = []
    for row in results:
        figures = figures_of(measured[row.name], row.name)
        figures.pop("held_out.standard_error")
        update = {"score": figures["held_out.score"], "figures": row.figures | figures}
        scored.append(row.model_copy(update=update))
    return scored


def _standing(paths: Paths, candidate: Candidate, held_out: HeldOut) -> Standing:
    workspace = workspaces.of_night(paths, candidate.name)
    if candidate.name not in held_out.scores:
        return standings.standing(paths, workspace, candidate, [])
    figures = figures_of(held_out, candidate.name)
    measured = {
        "score": figures["held_out.score"],
        "standard_error": figures["held_out.standard_error"],
        "dev_win_rate": figures.get("held_out.win_rate"),
        "dev_rouge": figures.get("held_out.rougeL"),
        "policy": digests.digest(workspace.models / "policy"),
    }
    return standings.standing(paths, workspace, candidate, ["evaluate"]).model_copy(update=measured)
