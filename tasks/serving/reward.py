"""The reward model behind MLflow's pyfunc: prompts with completions in, scores out.

Logged as code by `python -m tasks register`, with the checkpoint and the rlhf package beside it, so the model
answers wherever it is loaded. A row is `{prompt, completion}`; a higher score is a better completion.
"""

from __future__ import annotations

from typing import Any

import pandas as pd
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel


class ServedReward(PythonModel):
    """Scores a completion for each row."""

    def load_context(self, context: Any) -> None:
        """Loads the checkpoint onto CUDA where there is one, else onto the CPU."""
        from rlhf.reward import load_reward_model

        self.reward_model = load_reward_model(context.artifacts["checkpoint"])

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """Rows `{prompt, completion}` to rows `{score}`, in the reward model's normalised units."""
        from rlhf.records import Message

        prompts = [
            value if isinstance(value, str) else [Message(**dict(turn)) for turn in value]
            for value in model_input["prompt"]
        ]
        scores = self.reward_model.score(prompts, list(model_input["completion"]))
        return pd.DataFrame({"score": [float(score) for score in scores]})


set_model(ServedReward())
