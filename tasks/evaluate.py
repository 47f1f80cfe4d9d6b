"""evaluate: sets SFT, policy and best-of-n side by side on test prompts that no other stage saw.

Reads data/validated/test, the models below data/models and the prompts of data/pairs (to leave out what a reward
model has seen); writes data/evaluation: completions side by side (completions.jsonl), the samples that the win rate
is counted on (samples.jsonl), what the reward model says of texts that stay from night to night (fixed_texts.jsonl),
and every number with its signature (scores.json). The win rate is judged by what
PPO did not optimise: gold where the corpus has it, else the judge, a second reward model trained on rankings held out
from the first; never the proxy alone. General demonstrations, where ingest brought some, tell what was forgotten of
other tasks. With evaluate.shots, demonstrations of data/validated/train go into the prompt too
(tasks/evaluation/few_shot.py).

    python -m tasks evaluate
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rlhf.records import Demonstration, Pair, Prompt, prompt_key, prompt_text
from rlhf.settings.model import ModelSettings
from tasks.evaluation import curves, few_shot, fixed_texts, forgetting
from tasks.evaluation.few_shot import FewShot
from tasks.files import read_records, write_curve, write_json, write_rows
from tasks.params.evaluate import EvaluateParams
from tasks.progress import follow, warn
from tasks.stage_files import StageFiles
from tasks.training.base import load_base
from tasks.training.general import read_general

if TYPE_CHECKING:
    from rlhf.evaluation.compare import Contestant
    from rlhf.evaluation.language import Tokenization

SAMPLING = {"samples", "max_new_tokens", "batch_size", "seed"}
"""How the samples were drawn: another policy can be measured in the same way later."""


def run(files: StageFiles, params: EvaluateParams, model: ModelSettings) -> dict[str, float]:
    """Evaluates, writes tables and pictures, and returns the contract's metrics.

    Raises:
        ValueError: there is no unseen test prompt with a reference, one's references hold no word, or there is nothing
            independent to judge by.
    """
    unseen, seen = split_prompts(files, params.max_prompts)

    from rlhf.annotator import has_gold
    from rlhf.evaluation.compare import mean_scores, text_metrics
    from rlhf.evaluation.language import choose_tokens
    from rlhf.evaluation.length_control import length_controlled_win_rate
    from rlhf.evaluation.power import detectable, power_at, warning
    from rlhf.evaluation.significance import text_differences
    from rlhf.evaluation.winrate import win_rate, win_shares

    tokens = choose_tokens(params.language, [row.references for row in unseen + seen], params.bleu_tokens)
    judge = None if has_gold([row.prompt for row in unseen]) else find_judge(files.inputs["judge"])
    shots = few_shot.prepare(files.inputs["train"], params, unseen, gold=judge is None)
    bench = Bench(files, params, model, unseen, seen, read_general(files.inputs["test"]), shots, judge, tokens)
    steps = 3 + (judge is None) + 2 * bool(seen) + bool(bench.general) + (2 + bool(model.name)) * len(shots.counts)
    metrics: dict[str, float] = {}
    for row in follow(_measure(bench), "evaluate", steps):
        metrics |= {key: value for key, value in row.items() if key != "step"}
    references = [row.references for row in unseen]
    for name, entry in bench.entries.items():
        figures = text_metrics(entry.answers, references, tokens) | mean_scores(entry.scores)
        metrics |= {f"{name}.{key}": value for key, value in figures.items()}
    challenger, base = bench.entries["policy"], bench.entries["sft"]
    tested = text_differences(challenger.answers, base.answers, references, tokens)
    metrics |= {f"policy.{key}": p for key, p in tested.items()}
    referee = "gold" if judge is None else "judge"
    policy, sft = (np.array(bench.entries[name].scores[referee]) for name in ("policy", "sft"))
    verdict = win_rate(policy, sft)
    metrics |= {"win_rate": verdict.value, "win_rate_low": verdict.low, "win_rate_high": verdict.high}
    controlled = length_controlled_win_rate(policy, sft, challenger.sample_lengths(), base.sample_lengths())
    metrics |= {"lc_win_rate": controlled.value, "lc_win_rate_low": controlled.low, "lc_win_rate_high": controlled.high}
    shares = win_shares(policy, sft)
    metrics |= {"win_rate_detectable": detectable(shares, verdict), "win_rate_power": power_at(shares, verdict)}
    metrics |= {"prompts": float(len(unseen)), "prompts_seen_by_reward": float(len(seen))}
    if text := warning(len(unseen), metrics["win_rate_power"], metrics["win_rate_detectable"]):
        warn(text)
    _write(bench, metrics, referee)
    return metrics


def split_prompts(files: StageFiles, limit: int | None) -> tuple[list[Prompt], list[Prompt]]:
    """The test prompts with references that no reward model has learnt from, and those that one has."""
    learnt = set()
    for name in ("train", "dev", "judge"):
        pairs = read_records(files.inputs[f"{name}_pairs"], Pair, may_be_empty=True)
        learnt |= {prompt_key(pair.prompt) for pair in pairs}
    return divide_prompts(read_records(files.inputs["test"] / "prompts.jsonl", Prompt), learnt, limit)


def divide_prompts(
    prompts: Sequence[Prompt], learnt: Container[str], limit: int | None
) -> tuple[list[Prompt], list[Prompt]]:
    """The prompts with references that are not learnt from, at most `limit`, and those that are.

    Raises:
        ValueError: no prompt has a reference, or all that have are learnt from.
    """
    rows = [row for row in prompts if row.references]
    if not rows:
        raise ValueError(
            f"none of the {len(prompts)} test prompts, such as {prompts[0].id}, has a reference to be evaluated "
            "against; write references for some of them"
        )
    unseen = [row for row in rows if prompt_key(row.prompt) not in learnt][:limit]
    seen = [row for row in rows if prompt_key(row.prompt) in learnt]
    if not unseen:
        raise ValueError(
            f"found {len(rows)} test prompts with references, but every one of them has rankings that the reward "
            "model or the judge learns from; hold the rankings of some test prompts back (rank.feedback.test)"
        )
    return unseen, seen


def find_judge(judge: Path) -> Path:
    """The judge's folder, where one is there; raises ValueError when no rankings were held out for one."""
    if not (judge / "reward.json").is_file():
        raise ValueError(
            f"{judge}: no judge here, and these prompts have no gold score, so only the reward model that PPO "
            "optimised could judge, which would prove nothing; hold rankings out for a judge: name files in "
            "rank.feedback.judge, or raise pairs.judge_share"
        )
    return judge


@dataclass
class Bench:
    """What is compared: the models, the prompts, and (filled in by `_measure`) what came of it."""

    files: StageFiles
    params: EvaluateParams
    model: ModelSettings
    unseen: list[Prompt]
    seen: list[Prompt]
    general: list[Demonstration]
    """Demonstrations of other tasks, which may have been forgotten."""
    few_shot: FewShot
    judge: Path | None
    tokens: Tokenization
    """What ROUGE and BLEU count."""
    entries: dict[str, Contestant] = field(default_factory=dict)
    curves: dict[str, np.ndarray] = field(default_factory=dict)
    """By scorer, the expected score of the best of 1, 2, …, n, as the reward model chooses it."""
    fixed_texts: list[dict[str, Any]] = field(default_factory=list)
    """What the reward model says of texts that stay from night to night."""


def _measure(bench: Bench) -> Iterator[dict[str, float]]:
    """Fills the contestants in, yielding the figures that need a model as they come."""
    from rlhf.evaluation.answers import greedy_answers, sampled_answers, sequence_kl
    from rlhf.evaluation.best_of_n import expected_best, kl_best_of_n
    from rlhf.evaluation.compare import Contestant, best_of_n, mean_scores, score_samples, text_metrics
    from rlhf.evaluation.gold import agreement, probe_accuracy
    from rlhf.models import load_policy
    from rlhf.reward import load_reward_model

    params, gold = bench.params, bench.judge is None
    prompts = [row.prompt for row in bench.unseen]
    tokens, size = params.max_new_tokens, params.batch_size
    scorers = {"reward": load_reward_model(bench.files.inputs["reward"], bench.model)}
    if bench.judge is not None:
        scorers["judge"] = load_reward_model(bench.judge, bench.model)
    bench.fixed_texts = fixed_texts.score(scorers["reward"], bench.unseen)
    policies = {name: load_policy(bench.files.inputs[name], bench.model) for name in ("sft", "policy")}
    for name, policy in policies.items():
        answers = greedy_answers(policy, prompts, tokens, size)
        samples = sampled_answers(policy, prompts, params.samples, tokens, params.seed, size)
        grids = score_samples(prompts, samples, scorers, gold)
        likeliest = score_samples(prompts, [[text] for text in answers], scorers, gold)
        columns = {scorer: [row[0] for row in grid] for scorer, grid in likeliest.items()}
        bench.entries[name] = Contestant(answers, samples, grids, columns)
        yield {f"{name}.{scorer}_greedy": value for scorer, value in mean_scores(likeliest).items()}
    pool = sampled_answers(policies["sft"], prompts, params.best_of, tokens, params.seed + len(prompts), size)
    pool_scores = score_samples(prompts, pool, scorers, gold)
    bench.entries["best_of_n"] = best_of_n(pool, pool_scores)
    bench.curves = {name: expected_best(np.array(pool_scores["reward"]), np.array(grid))
                    for name, grid in pool_scores.items()}  # fmt: skip
    yield {"policy.kl": sequence_kl(policies["policy"], policies["sft"], prompts, tokens, params.seed, size),
           "best_of_n.kl": kl_best_of_n(params.best_of)}  # fmt: skip
    if gold:
        figures = agreement(pool_scores["reward"], pool_scores["gold"])
        figures["probe_accuracy"] = probe_accuracy(scorers["reward"], bench.unseen, params.seed)
        yield {f"reward.{key}": value for key, value in figures.items()}
    if bench.seen:
        references = [row.references for row in bench.unseen + bench.seen]
        for name, policy in policies.items():
            rest = greedy_answers(policy, [row.prompt for row in bench.seen], tokens, size)
            figures = text_metrics(bench.entries[name].answers + rest, references, bench.tokens)
            yield {
                f"{name}.{key}_all": figures[key] for key in ("rouge1", "rouge2", "rougeL", "bleu", "bleu_lc", "chrf")
            }
    if bench.general or params.shots:
        base = load_base(bench.model)
        family = policies if base is None else {"base": base, **policies}
        if bench.general:
            yield forgetting.measure(family, bench.general, params, bench.model.max_prompt_tokens)
        yield from few_shot.measure(bench.few_shot, family, bench.tokens)


def side_by_side(bench: Bench, referee: str) -> list[dict[str, Any]]:
    """A row per prompt: each contestant's answer, and the reward and the referee's score of that answer."""
    rows = []
    for index, prompt in enumerate(bench.unseen):
        row: dict[str, Any] = {"id": prompt.id, "prompt": prompt_text(prompt.prompt), "references": prompt.references}
        for name, entry in bench.entries.items():
            row[name] = entry.answers[index]
            for scorer in ("reward", referee):
                row[f"{name}_{scorer}"] = round(entry.answer_scores[scorer][index], 4)
        rows.append(row)
    return rows


def sampled(bench: Bench) -> list[dict[str, Any]]:
    """A row per prompt: the samples of SFT and policy, and every scorer's score of each."""
    rows = []
    for index, prompt in enumerate(bench.unseen):
        row: dict[str, Any] = {"id": prompt.id, "prompt": prompt_text(prompt.prompt), "references": prompt.references}
        for name in ("sft", "policy"):
            entry = bench.entries[name]
            scores = {scorer: grid[index] for scorer, grid in entry.scores.items()}
            row[name] = {"texts": entry.samples[index], "scores": scores}
        rows.append(row)
    return rows


def _write(bench: Bench, metrics: dict[str, float], referee: str) -> None:
    """Writes the tables below data/evaluation and data/plots/evaluate."""
    from rlhf.evaluation.compare import text_signatures
    from rlhf.evaluation.significance import differences_signature
    from rlhf.evaluation.winrate import SIGNATURE

    folder, rows = bench.files.outputs["evaluation"], side_by_side(bench, referee)
    signatures = {
        **text_signatures([row.references for row in bench.unseen], bench.tokens),
        "rougeL_p, bleu_p, chrf_p": differences_signature(),
        "best_of_n.kl": f"upper bound log n - (n - 1)/n|n:{bench.params.best_of}",
        "win_rate": f"judge:{referee}|samples:{bench.params.samples}|interval:{SIGNATURE}, 95%",
        "lc_win_rate": f"judge:{referee}|samples:{bench.params.samples}|lengths:characters|interval:sandwich, t, 95%",
    }
    if bench.general:
        signatures["general_loss"] = forgetting.signature(bench.general, bench.params)
    if bench.params.shots:
        signatures["few_shot"] = few_shot.signature(bench.few_shot, base=bench.model.name is not None)
        write_rows(folder / "few_shot.jsonl", bench.few_shot.rows)
    write_rows(folder / "completions.jsonl", rows)
    write_rows(folder / "samples.jsonl", sampled(bench))
    write_rows(folder / "fixed_texts.jsonl", bench.fixed_texts)
    sampling = {"referee": referee, **bench.params.model_dump(include=SAMPLING)}
    write_json(folder / "scores.json", {"metrics": metrics, "signatures": signatures, "sampling": sampling})
    plots = bench.files.outputs["plots"]
    curves.write_lengths(plots / "lengths.csv", {name: bench.entries[name].samples for name in ("sft", "policy")})
    curves.write_rouge(plots / "rouge.csv", metrics, list(bench.entries))
    steps = [{"step": n + 1, **{name: float(curve[n]) for name, curve in bench.curves.items()}}
             for n in range(bench.params.best_of)]  # fmt: skip
    write_curve(plots / "best_of_n.csv", steps)
