"""Candidates, enumerated: params.yaml with each variant and each seed, of a night or of a comparison aside."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rlhf.settings.base import Settings
from tasks.params.night import UNCHANGED
from tasks.params.whole import Params, check, dump, read_sections

LEARNING = ("sft", "rollouts", "reward", "policy")
"""The sections that a further seed of a night goes to: what learns and what samples, but not the data."""
SEEDED = tuple(
    info.alias or name
    for name, info in Params.model_fields.items()
    if isinstance(section := info.annotation, type) and issubclass(section, Settings) and "seed" in section.model_fields
)
"""Every section that has a seed."""


@dataclass(frozen=True)
class Candidate:
    """One way to train: params.yaml with some params changed.

    Attributes:
        name: tells it from the others; a folder and a run are called so.
        variant: the name of its settings; candidates of one variant differ by seed alone.
        seed: the seed that it was given; None is the settings' own.
        params: as checked.
        text: the params.yaml that it is trained by.
    """

    name: str
    variant: str
    seed: int | None
    params: Params
    text: str


def read_candidates(path: Path) -> list[Candidate]:
    """The candidates of a night: params.yaml as it is first, each variant, and all of them with each further seed.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: as read_params, also for what a variant makes of the params; or two candidates are the same.
    """
    content = read_sections(path)
    unchanged = check(content, str(path))
    night = unchanged.night
    variants = {UNCHANGED: {}, **night.variants}
    first, *others = enumerate_candidates(
        content, (None, *night.seeds), variants, LEARNING, f"{path}: night.seeds and night.variants"
    )
    return [replace(first, params=unchanged, text=path.read_text(encoding="utf-8")), *others]


def read_checked(path: Path) -> Params:
    """params.yaml, once every candidate of its nights is checked too; raises as `read_candidates`."""
    return read_candidates(path)[0].params


def read_trials(path: Path, seeds: Sequence[int], file: Path | None = None) -> list[Candidate]:
    """The candidates of a comparison aside from nights: each seed reaches every section that has one, the data's too.

    Args:
        path: params.yaml.
        seeds: at least one.
        file: YAML, from a variant's name to the sections and params that differ: `short: {sft: {steps: 100}}`; without
            one, params.yaml is the only variant.

    Raises:
        FileNotFoundError: one of the files is missing.
        ValueError: as `read_candidates`.
    """
    content = read_sections(path)
    check(content, str(path))
    if file is None:
        return enumerate_candidates(content, seeds, {UNCHANGED: {}}, SEEDED, str(path))
    if not file.is_file():
        raise FileNotFoundError(f"{file}: no such file; give YAML that names variants, each with the params it changes")
    variants = {str(name): changes or {} for name, changes in read_sections(file).items()}
    return enumerate_candidates(content, seeds, variants, SEEDED, str(file))


def enumerate_candidates(
    content: Mapping[str, Any],
    seeds: Iterable[int | None],
    variants: Mapping[str, Mapping[str, Any]],
    sections: Iterable[str],
    source: str,
) -> list[Candidate]:
    """Every variant with every seed, variant by variant.

    What surrounds a night is as in `content`, but a candidate has no candidates of its own.

    Args:
        content: the sections of params.yaml.
        seeds: None leaves the seeds as they are.
        variants: by name, the sections and params that differ.
        sections: those that a seed goes to.
        source: opens an error's message.

    Raises:
        ValueError: a variant's params are misspelt, of a wrong type or out of range, or two candidates are the same.
    """
    seeds, sections = tuple(seeds), tuple(sections)
    candidates: list[Candidate] = []
    for variant, changes in variants.items():
        for seed in seeds:
            seeded = {section: {"seed": seed} for section in sections} if seed is not None else {}
            merged = _without_candidates(_merge(_merge(content, changes), seeded))
            params = check(merged, source if variant == UNCHANGED else f"{source}: {variant}")
            candidates.append(Candidate(_name(variant, seed), variant, seed, params, dump(merged)))
    for index, candidate in enumerate(candidates):
        for other in candidates[:index]:
            if candidate.name == other.name or _settings(candidate) == _settings(other):
                raise ValueError(
                    f"{source}: {candidate.name} would train the same as {other.name}, or is called the same; leave "
                    "one of them out"
                )
    return candidates


def _name(variant: str, seed: int | None) -> str:
    """Names a folder too, whatever people call a variant."""
    parts = [re.sub(r"[^A-Za-z0-9._-]+", "-", variant)] * (variant != UNCHANGED) + [f"seed-{seed}"] * (seed is not None)
    return "-".join(parts) or UNCHANGED


def _settings(candidate: Candidate) -> dict[str, Any]:
    return candidate.params.model_dump(exclude={"night"})


def _without_candidates(content: dict[str, Any]) -> dict[str, Any]:
    night = {key: value for key, value in (content.get("night") or {}).items() if key not in ("seeds", "variants")}
    return {key: value for key, value in content.items() if key != "night"} | ({"night": night} if night else {})


def _merge(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """The base with the changes in it, group by group."""
    merged = dict(base)
    for key, value in changes.items():
        both = isinstance(value, dict) and isinstance(base.get(key), dict)
        merged[key] = _merge(base[key], value) if both else value
    return merged
