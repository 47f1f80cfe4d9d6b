"""What every metric module of the project takes."""

from __future__ import annotations

import datasets


def texts_with_references() -> datasets.Features:
    """N texts, each with a list of one or more references."""
    return datasets.Features(
        {"predictions": datasets.Value("string"), "references": datasets.Sequence(datasets.Value("string"))}
    )
