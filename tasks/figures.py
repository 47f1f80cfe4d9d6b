"""Every figure that people are shown: what it is called, its unit and format, which way is better, what has a gate.

The keys are those of metrics, curves and MLflow. A figure of several models or stages stands here once and is asked
for by its whole key: `policy.rougeL` is the row `rougeL`, told of the policy. Where a stage means something of its own
by a key, the row has the stage before it (`sft.loss`).
"""

from __future__ import annotations

from dataclasses import dataclass

from tasks.roles import ROLES


@dataclass(frozen=True)
class Figure:
    """One row of the table.

    Attributes:
        key: its name in files; the last part, or the last parts, of a whole key.
        title: what people read.
        unit: empty where the figure is a share, a score or a count of what its title says.
        format: of a value, as `format` takes it.
        higher_is_better: None where neither way is.
        gate: whether a policy's promotion depends on it (tasks/registry/gates.py).
    """

    key: str
    title: str
    unit: str = ""
    format: str = ".3f"
    higher_is_better: bool | None = None
    gate: bool = False

    @property
    def label(self) -> str:
        """The title with its unit, for the head of a column and for an axis."""
        return f"{self.title} ({self.unit})" if self.unit else self.title

    @property
    def heading(self) -> str:
        """The title as a sentence begins."""
        return self.title[0].upper() + self.title[1:]

    def show(self, value: float, sign: str = "") -> str:
        """A value as text; `sign` is `+` where a plus is to be shown."""
        return format(value, f"{sign}{self.format}")

    def interval(self, value: float, low: float, high: float, sign: str = "") -> str:
        """A value with the ends of its interval: `0.833 [0.811, 0.855]`."""
        return f"{self.show(value, sign)} [{self.show(low, sign)}, {self.show(high, sign)}]"


PER_TOKEN = "nats per token"
FIGURES = {
    figure.key: figure
    for figure in (
        # What evaluate says of each model.
        Figure("rouge1", "ROUGE-1", "", ".4f", True),
        Figure("rouge2", "ROUGE-2", "", ".4f", True),
        Figure("rougeL", "ROUGE-L", "", ".4f", True, gate=True),
        Figure("bleu", "BLEU", "", ".2f", True, gate=True),
        Figure("bleu_lc", "BLEU, lower-cased", "", ".2f", True),
        Figure("bleu_lc_all", "BLEU, lower-cased, all test prompts", "", ".2f", True),
        Figure("chrf", "chrF", "", ".2f", True),
        Figure("reward", "reward", "", ".3f", True),
        Figure("reward_mean", "training reward", "", ".3f", True),
        Figure("gold", "gold", "", ".3f", True),
        Figure("judge", "judge", "", ".3f", True),
        Figure("score", "score", "", ".3f", True),
        Figure("held_out.score", "held-out score", "", ".4f", True),
        Figure("held_out.win_rate", "dev win rate over SFT", "", ".3f", True),
        Figure("held_out.rougeL", "dev ROUGE-L", "", ".4f", True),
        Figure("held_out.rougeL_change", "dev ROUGE-L over SFT's", "", ".4f", True),
        Figure("kl", "KL", "nats", ".2f", False, gate=True),
        Figure("length", "length", "words", ".1f"),
        Figure("reward_greedy", "reward, greedy", "", ".3f", True),
        Figure("gold_greedy", "gold, greedy", "", ".3f", True),
        Figure("judge_greedy", "judge, greedy", "", ".3f", True),
        Figure("general_loss", "loss on other tasks", PER_TOKEN, ".3f", False),
        # What it says of the policy beside others, and of the reward model.
        Figure("win_rate", "win rate", "", ".3f", True, gate=True),
        Figure("win_rate_low", "win rate, lower bound", "", ".3f", True),
        Figure("win_rate_high", "win rate, upper bound", "", ".3f", True),
        Figure("lc_win_rate", "length-controlled win rate", "", ".3f", True, gate=True),
        Figure("lc_win_rate_low", "length-controlled win rate, lower bound", "", ".3f", True),
        Figure("lc_win_rate_high", "length-controlled win rate, upper bound", "", ".3f", True),
        Figure("gates_passed", "would be promoted", "", ".2f", True),
        Figure("rougeL_p", "p of the difference in ROUGE-L", "", ".3f", False),
        Figure("bleu_p", "p of the difference in BLEU", "", ".3f", False),
        Figure("chrf_p", "p of the difference in chrF", "", ".3f", False),
        Figure("win_rate_detectable", "win rate that the prompts tell from even", "", ".3f", False),
        Figure("win_rate_power", "chance to find a win rate of .6", "", ".3f", True),
        Figure("policy_forgetting", "forgetting", PER_TOKEN, ".3f", False, gate=True),
        Figure("gold_accuracy", "accuracy against gold", "", ".4f", True),
        Figure("gold_auc", "AUC against gold", "", ".4f", True),
        Figure("probe_accuracy", "accuracy on swapped values", "", ".4f", True),
        Figure("evaluate.prompts", "test prompts of the evaluation", "", ".0f"),
        # Training: curves, and what is left at the end.
        Figure("loss", "loss", "", ".3f", False),
        Figure("sft.loss", "loss", PER_TOKEN, ".3f", False),
        Figure("sft.eval_loss", "dev loss", PER_TOKEN, ".3f", False),
        Figure("sft.perplexity", "perplexity", "", ".3f", False),
        Figure("learning_rate", "learning rate", "", ".2e"),
        Figure("accuracy", "accuracy", "", ".4f", True),
        Figure("accuracy_low", "accuracy, lower bound", "", ".4f", True),
        Figure("accuracy_high", "accuracy, upper bound", "", ".4f", True),
        Figure("eval_accuracy", "dev accuracy", "", ".4f", True),
        Figure("margin", "margin of the implicit reward", "", ".3f", True),
        Figure("auc", "AUC", "", ".4f", True),
        Figure("spearman", "Spearman", "", ".4f", True),
        Figure("pearson", "Pearson", "", ".4f", True),
        Figure("ece", "ECE", "", ".4f", False),
        Figure("accuracy_by_length", "accuracy by length", "", ".4f"),
        Figure("entropy", "entropy", PER_TOKEN, ".3f"),
        Figure("clip_fraction", "clip fraction", "", ".3f"),
        Figure("explained_variance", "explained variance", "", ".3f", True),
        Figure("response_tokens", "length", "tokens", ".1f"),
        Figure("proxy_gain", "reward model (optimised)", "deviations at the start", ".3f", True),
        Figure("held_out_gain", "held-out score", "deviations at the start", ".3f", True),
        Figure("monitor_kept_iteration", "iteration kept by the monitor", "", ".0f"),
        # How far data, labels and the reward model drifted from those before.
        Figure("prompts.words", "words of prompts"),
        Figure("prompts.length", "length of prompts"),
        Figure("prompts.language", "languages of prompts"),
        Figure("demonstrations.length", "length of demonstrations"),
        Figure("demonstrations.language", "languages of demonstrations"),
        Figure("rankings.length", "length of ranked completions"),
        Figure("rankings.language", "languages of ranked completions"),
        Figure("rankings.annotator", "annotators"),
        Figure("rankings.ties", "share of tied completions"),
        Figure("rankings.agreement", "agreement of annotators"),
        Figure("fixed_texts.order", "order of fixed texts by reward"),
        Figure("fixed_texts.level", "reward of fixed texts", "deviations before"),
        Figure("drift.p", "chance without drift", "", ".2g"),
        # Counts.
        Figure("iterations", "iterations", "", ".0f"),
        Figure("skipped_batches", "batches skipped", "", ".0f", False),
        Figure("rows_in", "rows in", "", ".0f"),
        Figure("rows_kept", "rows kept", "", ".0f"),
        Figure("rows_rejected", "rows rejected", "", ".0f"),
        Figure("prompts", "prompts", "", ".0f"),
        Figure("completions", "completions", "", ".0f"),
        Figure("pairs", "pairs", "", ".0f"),
        Figure("tie_share", "share of ties", "", ".4f"),
        Figure("wall_s", "wall time", "s", ".1f", False),
    )
}


def find(key: str) -> Figure:
    """The row of a whole key, such as `policy.rougeL`, `sft.loss` or `sft.shot2.bleu`.

    Raises:
        ValueError: the table has no such figure.
    """
    parts = key.split(".")
    for start in range(len(parts)):
        if figure := FIGURES.get(".".join(parts[start:])):
            return figure
    raise ValueError(f"{key}: no such figure; give it a row in tasks/figures.py")


def title(key: str) -> str:
    """The figure's title after that of the model that it is told of: `SFT dev loss`, `policy ROUGE-L`."""
    first, *rest = key.split(".")
    return f"{ROLES[first].title} {find(key).title}" if rest and first in ROLES else find(key).title


def label(key: str) -> str:
    """The same with the unit: `SFT dev loss (nats per token)`."""
    unit = find(key).unit
    return f"{title(key)} ({unit})" if unit else title(key)


def show(key: str, value: float) -> str:
    """A value in its figure's format."""
    return find(key).show(value)
