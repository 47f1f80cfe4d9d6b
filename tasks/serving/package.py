"""What goes into a served model: its script, checkpoint, code, signature, input example and requirements."""

from __future__ import annotations

from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any

import rlhf
from tasks.files import read_rows
from tasks.paths import Paths

REQUIREMENTS = ("mlflow", "torch", "transformers", "pydantic", "jaxtyping", "numpy", "pandas", "safetensors")
EXAMPLES = 2
TEXT = {"type": "string"}
CHAT = {
    "type": "array",
    "items": {
        "type": "object",
        "properties": {
            "role": {"type": "string", "required": True},
            "content": {"type": "string", "required": True},
        },
    },
}
SAMPLING = (
    ("max_new_tokens", "long", 64),
    ("temperature", "double", 1.0),
    ("top_k", "long", 0),
    ("top_p", "double", 1.0),
    ("seed", "long", 0),
)


def package(kind: str, paths: Paths) -> dict[str, Any]:
    """The arguments for mlflow_store.log_pyfunc that make a model of a checkpoint.

    Args:
        kind: `policy` or `reward`.

    Raises:
        FileNotFoundError: there is no held-out prompt to take as the example.
    """
    import pandas as pd

    rows = [row for _, row in islice(read_rows(paths.validated / "test" / "prompts.jsonl"), EXAMPLES)]
    prompts = [row["prompt"] for row in rows]
    example: dict[str, list[Any]] = {"prompt": prompts}
    if kind == "reward":
        example["completion"] = [(row.get("references") or [""])[0] for row in rows]
    return {
        "python_model": str(Path(__file__).with_name(f"{kind}.py")),
        "artifacts": {"checkpoint": str(paths.models / kind)},
        "code_paths": [str(Path(rlhf.__file__).parent)],
        "signature": signature(kind, is_chat=not isinstance(prompts[0], str)),
        "input_example": pd.DataFrame(example),
        "pip_requirements": [f"{name}=={version(name).partition('+')[0]}" for name in REQUIREMENTS],
    }


def signature(kind: str, is_chat: bool) -> dict[str, Any]:
    """The inputs, outputs and params of a served model, as MLflow's JSON schemas."""
    prompt = _column("prompt", CHAT if is_chat else TEXT)
    if kind == "reward":
        return {
            "inputs": [prompt, _column("completion", TEXT)],
            "outputs": [_column("score", {"type": "double"})],
        }
    params = [{"name": name, "type": kind_, "default": value, "shape": None} for name, kind_, value in SAMPLING]
    return {
        "inputs": [prompt],
        "outputs": [_column("completion", TEXT), _column("finish_reason", TEXT)],
        "params": params,
    }


def _column(name: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "required": True, **schema}
