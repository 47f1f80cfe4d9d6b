"""seeds: trains the whole night anew for several seeds, in folders of their own, and tells how far they differ.

A single lucky run proves nothing. Reads what the params name; writes below nights/seeds and changes nothing else:
no DVC, no MLflow, no registry. With a file of variants (params by name that differ from params.yaml) each of them is
trained for each seed; what they have in common, from the first stage on, is trained once a seed.

    nightjar seeds 0 1 2
    nightjar seeds 0 1 2 3 4 --variants docs/algorithms.yaml
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean, median, stdev

from tasks.params.whole import Params
from tasks.paths import Paths
from tasks.stages import STAGES, VERSIONED, sections

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
    "iterations": "PPO iterations",
    "monitor_kept_iteration": "iteration that the monitor kept",
    "sft.reward": "SFT reward",
    "policy.reward": "policy reward",
    "accuracy": "reward accuracy on test pairs",
    "judge.accuracy": "judge accuracy on test pairs",
    "reward.gold_accuracy": "reward accuracy against gold",
    "reward.gold_auc": "reward AUC against gold",
    "reward.probe_accuracy": "reward accuracy on swapped values",
}


Results = dict[str, list[dict[str, float]]]
"""By variant, the figures of each seed."""


def run_seeds(
    paths: Paths,
    variants: Mapping[str, Params],
    seeds: Sequence[int],
    run_stage: Callable[[str, Paths, Params], object],
) -> Results:
    """Runs all versioned stages once per seed and variant, and returns their figures."""
    results: Results = {name: [] for name in variants}
    first, *_ = variants.values()
    for seed in seeds:
        done: Paths | None = None
        for name, params in variants.items():
            scratch = _scratch(paths, seed, name)
            shared = 0 if done is None else _same_stages(first, params)
            started = time.perf_counter()
            for stage in VERSIONED[:shared]:
                _adopt(stage, done or scratch, scratch)
            for stage in VERSIONED[shared:]:
                run_stage(stage, scratch, with_seed(params, seed))
            figures = {"wall_s": time.perf_counter() - started} if not shared else {}
            for stage in ("reward", "policy", "evaluate"):
                figures |= json.loads(scratch.metrics(stage).read_text(encoding="utf-8"))
            results[name].append(figures)
            done = done or scratch
    return results


def with_seed(params: Params, seed: int) -> Params:
    """The params with this seed in every section that has one."""
    fields = {field: getattr(params, field) for field in type(params).model_fields}
    seeded = {
        field: section.model_copy(update={"seed": seed})
        for field, section in fields.items()
        if "seed" in type(section).model_fields
    }
    return params.model_copy(update=seeded)


def _scratch(paths: Paths, seed: int, variant: str) -> Paths:
    """An empty workspace for one night, on the team's own data."""
    scratch = Paths(paths.nights / "seeds" / str(seed) / variant)
    shutil.rmtree(scratch.root, ignore_errors=True)
    for folder, target in zip(scratch.external, paths.external, strict=True):
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.symlink_to(target.resolve())
    return scratch


def _same_stages(first: Params, other: Params) -> int:
    """How many stages, from the first on, would do the very same under both."""
    for place, stage in enumerate(VERSIONED):
        if any(first.section(name) != other.section(name) for name in sections(stage)):
            return place
    return len(VERSIONED)


def _adopt(stage: str, done: Paths, scratch: Paths) -> None:
    """Takes a stage's outputs over from another workspace, as links: the stages that follow write elsewhere."""
    names = [*STAGES[stage].writes, f"data/metrics/{stage}.json"]
    for source, target in ((done.root / name, scratch.root / name) for name in names):
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, copy_function=os.link)
        else:
            os.link(source, target)


def render(seeds: Sequence[int], results: Results) -> str:
    """A line per figure: of one variant its value for each seed and the median; of several, mean ± deviation."""
    if len(results) == 1:
        (rows,) = results.values()
        columns = [f"seed {seed}" for seed in seeds] + ["median"]
        cells = {key: _with_median([row[key] for row in rows if key in row]) for key in FIGURES}
    else:
        columns = list(results)
        cells = {key: [_spread([row[key] for row in rows if key in row]) for rows in results.values()]
                 for key in FIGURES}  # fmt: skip
    width = max(10, *(len(name) + 2 for name in columns), *(len(cell) + 2 for row in cells.values() for cell in row))
    lines = [f"{'':<36}" + "".join(f"{name:>{width}}" for name in columns)]
    for key, row in cells.items():
        if any(row):
            lines.append(f"{FIGURES[key]:<36}" + "".join(f"{cell:>{width}}" for cell in row))
    return "\n".join(lines)


def _with_median(values: Sequence[float]) -> list[str]:
    return [f"{value:.3f}" for value in [*values, median(values)]] if values else []


def _spread(values: Sequence[float]) -> str:
    if not values:
        return ""
    return f"{fmean(values):.3f} ± {stdev(values):.3f}" if len(values) > 1 else f"{values[0]:.3f}"


def save(path: Path, seeds: Sequence[int], results: Results) -> None:
    """Writes every figure of every variant and seed as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    table = {name: dict(zip(map(str, seeds), rows, strict=True)) for name, rows in results.items()}
    path.write_text(json.dumps(table, indent=2, sort_keys=True) + "\n", encoding="utf-8")
