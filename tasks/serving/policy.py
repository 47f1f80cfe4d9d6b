"""The policy behind MLflow's pyfunc: prompts in, completions out.

Logged as code by `python -m tasks register`, with the checkpoint and the rlhf package beside it, so the model
answers wherever it is loaded. A row is `{prompt}`: text, or chat messages where the policy learned from them.
"""

from __future__ import annotations

from typing import Any

import pandas as pd
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel

BATCH_SIZE = 64


class ServedPolicy(PythonModel):
    """Generates a completion for each row."""

    def load_context(self, context: Any) -> None:
        """Loads the checkpoint onto CUDA where there is one, else onto the CPU."""
        from rlhf.models import load_policy

        self.policy = load_policy(context.artifacts["checkpoint"])

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """Rows `{prompt}` to rows `{completion, finish_reason}`.

        Args:
            context: MLflow's, unused: the checkpoint is loaded already.
            model_input: a DataFrame with the column `prompt`.
            params: `max_new_tokens`, `temperature` (0 is greedy), `top_k`, `top_p`, `seed`; row i is drawn
                with the seed `seed + i`, so that a prompt given twice gets two answers.
        """
        from rlhf.generation import generate
        from rlhf.records import Sampling

        controls = dict(params or {})
        first_seed = int(controls.pop("seed", 0))
        prompts = [_prompt(value) for value in model_input["prompt"]]
        sampling, seeds = [Sampling(**controls)] * len(prompts), range(first_seed, first_seed + len(prompts))
        drawn = generate(self.policy, prompts, sampling, list(seeds), BATCH_SIZE)
        rows = [{"completion": each.text, "finish_reason": each.finish_reason} for each in drawn]
        return pd.DataFrame(rows, columns=["completion", "finish_reason"])


def _prompt(value: Any) -> Any:
    """A cell as text or as the messages of a chat."""
    from rlhf.records import Message

    return value if isinstance(value, str) else [Message(**dict(turn)) for turn in value]


set_model(ServedPolicy())
