"""Params of ingest."""

from __future__ import annotations

from rlhf.settings.base import NonNegative, Positive, Settings


class IngestParams(Settings):
    """Where demonstrations and prompts come from."""

    source: str = "builtin"
    """`builtin`, a path below data/source/ (JSONL, CSV, TSV, Parquet or a folder of them), or `hub:ORG/NAME`."""
    demonstrations: Positive = 2500
    """builtin: demonstrations to generate (and as many general ones)."""
    prompts: Positive = 900
    """builtin: prompts to generate (train, dev and test together)."""
    limit: Positive | None = None
    """Keep at most this many demonstrations, and at most this many general ones."""
    general: str | None = None
    """Demonstrations of other tasks, which the policy must not forget: a source as above; null is none.

    evaluate then measures how much was forgotten; sft.replay and policy.ptx_coefficient work against it.
    """
    seed: NonNegative = 0
