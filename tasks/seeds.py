"""seeds: trains the whole night anew for several seeds, in folders of their own, and tells how far they differ.

A single lucky run proves nothing. Reads what the params name; writes below nights/seeds and changes nothing else:
no DVC, no MLflow, no registry.

    nightjar seeds 0 1 2
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from tasks.params import Params
from tasks.paths import Paths
from tasks.stages import VERSIONED, run_stage

FIGURES = {
    "wall_s": "wall time (s)",
    "sft.gold": "SFT gold, sampled",
    "policy.gold": "policy gold, sampled",
    "sft.gold_greedy": "SFT gold, greedy",
    "policy.gold_greedy": "policy gold, greedy",
    "best_of_n.gold": "best-of-n gold",
    "sft.rougeL": "SFT ROUGE-L",
    "policy.rougeL": "policy ROUGE-L",
    "sft.bleu": "SFT BLEU",
    "policy.bleu": "policy BLEU",
    "policy.kl": "KL (nats per sequence)",
    "win_rate": "win rate",
    "win_rate_low": "win rate, lower bound",
    "accuracy": "reward accuracy on test pairs",
    "judge.accuracy": "judge accuracy on test pairs",
    "reward.gold_accuracy": "reward accuracy against gold",
    "reward.gold_auc": "reward AUC against gold",
    "reward.probe_accuracy": "reward accuracy on swapped values",
}


def run_seeds(paths: Paths, params: Params, seeds: Sequence[int]) -> list[dict[str, float]]:
    """Runs all versioned stages once per seed and returns each seed's figures."""
    results = []
    for seed in seeds:
        scratch = Paths(paths.nights / "seeds" / str(seed))
        shutil.rmtree(scratch.root, ignore_errors=True)
        for folder, target in ((scratch.source, paths.source), (scratch.feedback, paths.feedback)):
            folder.parent.mkdir(parents=True, exist_ok=True)
            folder.symlink_to(target.resolve())
        started = time.perf_counter()
        figures: dict[str, float] = {}
        for stage in VERSIONED:
            metrics = run_stage(stage, scratch, with_seed(params, seed))
            figures |= metrics if stage in ("reward", "evaluate") else {}
        results.append({**figures, "wall_s": time.perf_counter() - started})
    return results


def with_seed(params: Params, seed: int) -> Params:
    """The params with this seed in every section that has one."""
    sections = {field: getattr(params, field) for field in type(params).model_fields}
    seeded = {
        field: section.model_copy(update={"seed": seed})
        for field, section in sections.items()
        if "seed" in type(section).model_fields
    }
    return params.model_copy(update=seeded)


def render(seeds: Sequence[int], results: Sequence[dict[str, float]]) -> str:
    """A line per figure: its value for each seed, and the median."""
    lines = [f"{'':<36}" + "".join(f"{f'seed {seed}':>10}" for seed in seeds) + f"{'median':>10}"]
    for key, title in FIGURES.items():
        values = [result[key] for result in results if key in result]
        if values:
            lines.append(f"{title:<36}" + "".join(f"{value:>10.3f}" for value in [*values, median(values)]))
    return "\n".join(lines)


def save(path: Path, seeds: Sequence[int], results: Sequence[dict[str, float]]) -> None:
    """Writes every figure of every seed as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(dict(zip(map(str, seeds), results, strict=True)), indent=2, sort_keys=True) + "\n")
