"""The candidates of a night or of a comparison of seeds: params.yaml with other settings and other seeds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.params.night import UNCHANGED
from tasks.params.whole import Params, check, dump, read_sections

SEEDED = ("sft", "rollouts", "reward", "policy")
"""The sections that a further seed of a night goes to: what learns and what samples, but not the data."""


@dataclass(frozen=True)
class Candidate:
    """One way to train a night: params.yaml with some params changed.

    Attributes:
        name: tells it from the others of its night; a folder and a run are called so.
        variant: the name of its settings; candidates of one variant differ by seed alone.
        seed: a further seed; None is the settings' own.
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
    text = path.read_text(encoding="utf-8")
    unchanged = check(content, str(path))
    night, found = unchanged.night, [Candidate(UNCHANGED, UNCHANGED, None, unchanged, text)]
    for variant, changes in {UNCHANGED: {}, **night.variants}.items():
        for seed in (None, *night.seeds):
            if (variant, seed) == (UNCHANGED, None):
                continue
            parts = [variant] * (variant != UNCHANGED) + [f"seed-{seed}"] * (seed is not None)
            found.append(_candidate("-".join(parts), variant, seed, _merge(content, changes), path))
    for index, candidate in enumerate(found):
        for other in found[:index]:
            if candidate.name == other.name or _settings(candidate) == _settings(other):
                raise ValueError(
                    f"{path}: night.seeds and night.variants: {candidate.name} would train the same as {other.name}, "
                    "or is called the same; leave one of them out"
                )
    return found


def _candidate(name: str, variant: str, seed: int | None, content: dict[str, Any], path: Path) -> Candidate:
    """A candidate by its params; what surrounds its night is params.yaml's, but it has no candidates of its own."""
    seeded = _merge(content, {section: {"seed": seed} for section in SEEDED} if seed is not None else {})
    night = {key: value for key, value in (seeded.get("night") or {}).items() if key not in ("seeds", "variants")}
    seeded = {key: value for key, value in seeded.items() if key != "night"} | ({"night": night} if night else {})
    params = check(seeded, f"{path}: night.variants: {name}")
    return Candidate(name, variant, seed, params, dump(seeded))


def _settings(candidate: Candidate) -> dict[str, Any]:
    return candidate.params.model_dump(exclude={"night"})


def read_checked(path: Path) -> Params:
    """params.yaml, once every candidate of its nights is checked too; raises as `read_candidates`."""
    return read_candidates(path)[0].params


def read_variants(path: Path, base: Path) -> dict[str, Params]:
    """Params by name, each params.yaml with some params changed.

    Args:
        path: YAML, from name to the sections and params that differ: `short: {sft: {steps: 100}}`.
        base: the params.yaml that they differ from.

    Raises:
        FileNotFoundError: one of the files is missing.
        ValueError: it is not YAML, or a variant's params are misspelt, of a wrong type or out of range.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; give YAML that names variants, each with the params it changes")
    content = read_sections(base)
    return {
        str(name): check(_merge(content, changes or {}), f"{path}: {name}")
        for name, changes in read_sections(path).items()
    }


def _merge(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """The base with the changes in it, group by group."""
    merged = dict(base)
    for key, value in changes.items():
        both = isinstance(value, dict) and isinstance(base.get(key), dict)
        merged[key] = _merge(base[key], value) if both else value
    return merged
