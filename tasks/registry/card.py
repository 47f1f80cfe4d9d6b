"""The model card of a registered version: what it is, its data, params and figures, the gates, and its limits.

Figures that the evaluation gives are as it gave them; what made the version comes from its lineage.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rlhf.algorithms import ALGORITHMS
from tasks.figures import FIGURES, find, show
from tasks.registry.gates import Finding
from tasks.registry.lineage import Lineage, describe_start
from tasks.reports import summary
from tasks.roles import ROLES

MAX_DESCRIPTION = 5000
"""Characters that MLflow's database keeps of a version's description."""
PARAMS = (
    *("model.name", "model.precision", "sft.start", "sft.steps", "sft.batch_size", "sft.learning_rate"),
    *("sft.adapter", "sft.adapter.kind", "sft.replay", "rollouts.completions", "rank.annotator"),
    *("reward.kind", "reward.loss", "reward.steps", "reward.members", "policy.algorithm", "policy.iterations"),
    *(
        "policy.prompts_per_iteration",
        "policy.learning_rate",
        "policy.kl.coefficient",
        "policy.kl.target",
        "policy.ptx_coefficient",
    ),
    *("policy.adapter", "policy.adapter.kind", "policy.seed"),
)
"""The params that matter most; all of them are in its runs."""
COUNTS = {
    "validate": ("rows_in", "rows_kept", "rows_rejected"),
    "rollouts": ("completions",),
    "pairs": ("pairs",),
}
OVER = "95 % over prompts"
ON_PAIRS = ("accuracy", "auc", "spearman", "pearson", "ece", "accuracy_by_length")


@dataclass(frozen=True)
class Facts:
    """What the cards of a night's policy and reward model are written from.

    Attributes:
        lineage: of the policy.
        referee: who judged the win rate: `gold` or `judge`.
        evaluation: the figures of evaluate, and of the match against the champion where there was one.
        findings: of the gates.
        reason: the decision in a sentence.
        signatures: how the figures of the references were computed, a line each.
    """

    lineage: Lineage
    referee: str
    evaluation: Mapping[str, float]
    findings: Sequence[Finding]
    reason: str
    signatures: Sequence[str] = ()


def render(kind: str, facts: Facts) -> str:
    """The whole card in Markdown.

    Args:
        kind: `policy` or `reward`.
        facts: what the card reports.
    """
    lineage = facts.lineage
    version = lineage.version if kind == "policy" else lineage.tags.get("reward_version", "")
    sections = {
        "What it is": _what(kind, lineage),
        "Metrics": _metrics(facts) if kind == "policy" else _reward_metrics(facts),
        "Gates": _gates(facts.findings),
        "Limits": "\n".join(f"- {limit}" for limit in limits(facts)),
        "Data": _data(facts),
        "Params": _table(["param", "value"], [(key, lineage.params[key]) for key in PARAMS if key in lineage.params]),
        "Lineage": _lineage(lineage),
    }
    parts = [f"# {lineage.name}-{kind} version {version}", facts.reason]
    return "\n\n".join([*parts, *(f"## {title}\n{text}" for title, text in sections.items() if text)]) + "\n"


def describe(card: str, source: str) -> str:
    """The card as a version's description: complete where it fits, else its first sections and where the rest is."""
    if len(card) <= MAX_DESCRIPTION:
        return card
    rest = f"\n\nThe rest is in {source}.\n"
    kept = card[: MAX_DESCRIPTION - len(rest)]
    return (kept[: kept.rfind("\n\n## ")] if "\n\n## " in kept else kept) + rest


def limits(facts: Facts) -> list[str]:
    """What nobody measured, and what the figures do not say."""
    params, figures = facts.lineage.params, facts.evaluation
    lines = [
        "Measured on held-out prompts of the same kind as those it learnt from; of other prompts the figures say "
        "nothing. Nobody looked at safety, bias or facts about the world.",
    ]
    if facts.referee == "gold":
        lines.append("Gold is the rule of a generated corpus: it ranks these sentences, and no text that people wrote.")
    else:
        lines.append("The win rate is judged by a model of people's rankings held out from PPO, not by people.")
    if params.get("rank.annotator") == "simulated":
        lines.append("No person ranked anything: the rankings are a simulated annotator's.")
    if "policy_forgetting" not in figures:
        lines.append("Whether it forgot other tasks was not measured (ingest.general names none).")
    if params.get("policy.monitor") == "null":
        lines.append("Nothing watched for reward hacking while the policy was trained (policy.monitor).")
    if any(finding.name == "steady" and finding.text.startswith("one seed") for finding in facts.findings):
        lines.append("One run of one seed: the intervals are over prompts, not over trainings (nightjar seeds).")
    if not any(name.startswith("champion.") for name in figures):
        lines.append("It was compared with no other champion, only with the SFT model that it started from.")
    if "git.commit" not in facts.lineage.tags:
        lines.append("It was made outside a git checkout: no commit records its code.")
    elif facts.lineage.tags["git.dirty"] == "yes":
        lines.append(
            "Code or params differed from the git commit; the night's experiment holds them, where there is one."
        )
    return lines


def _what(kind: str, lineage: Lineage) -> str:
    algorithm = lineage.steps["policy"].params.get("policy.algorithm", "ppo")
    on_pairs = ALGORITHMS[algorithm].learns_from == "pairs"
    if kind == "reward":
        form = lineage.steps["reward"].params.get("reward.kind", "")
        return (
            f"A reward model ({form or 'kind unknown'}), trained on pairs out of rankings. It scores a completion of a "
            f"prompt; a higher score is a better one, in deviations of the SFT model's completions. "
            f"{lineage.name}-policy version {lineage.version} {'was measured by' if on_pairs else 'learnt from'} it."
        )
    source = f"{lineage.name}-reward version {lineage.tags.get('reward_version', 'unknown')}"
    return (
        f"A language model that continues a prompt. It started from {describe_start(lineage)}, learnt from "
        f"demonstrations (SFT), then by {algorithm} from {'pairs' if on_pairs else source}."
    )


def _metrics(facts: Facts) -> str:
    figures = facts.evaluation
    header, *rows = summary.table(dict(figures))
    rate, baseline = FIGURES["win_rate"].heading, ROLES["sft"].title
    lines = [f"{rate} over {baseline}, judged by {facts.referee}: {summary.interval(figures, 'win_rate')}, {OVER}"]
    if "lc_win_rate" in figures:
        lines.append(
            f"{FIGURES['lc_win_rate'].heading} over {baseline}: {summary.interval(figures, 'lc_win_rate')}, {OVER}"
        )
    if "champion.win_rate" in figures:
        lines.append(f"{rate} over the champion before it: {summary.interval(figures, 'champion.win_rate')}, {OVER}")
    if "policy_forgetting" in figures:
        loss = FIGURES["general_loss"]
        rise = loss.show(figures["policy_forgetting"], sign="+")
        lines.append(f"{loss.heading}: {rise} {loss.unit} to {baseline}'s")
    lines += summary.differences(figures)
    return "\n\n".join([_table(header, rows), *lines, *(f"`{signature}`" for signature in facts.signatures)])


def _reward_metrics(facts: Facts) -> str:
    measured = facts.lineage.steps["reward"].metrics
    rows = [(f"{FIGURES[key].title}, on test pairs", show(key, measured[key])) for key in ON_PAIRS if key in measured]
    evaluated = {key: value for key, value in facts.evaluation.items() if key.startswith("reward.")}
    return _table(["figure", "value"], rows + [(find(key).title, show(key, value)) for key, value in evaluated.items()])


def _gates(findings: Sequence[Finding]) -> str:
    rows = [(finding.name, "passed" if finding.passed else "failed", finding.text) for finding in findings]
    return _table(["gate", "", "result"], rows)


def _data(facts: Facts) -> str:
    lineage = facts.lineage
    counts = [
        (f"{stage}: {FIGURES[key].title}", show(key, lineage.steps[stage].metrics[key]))
        for stage, keys in COUNTS.items()
        for key in keys
        if key in lineage.steps[stage].metrics
    ]
    counts += [(f"rankings by {who}", str(count)) for who, count in lineage.annotators.items()]
    if "prompts" in facts.evaluation:
        prompts = FIGURES["evaluate.prompts"]
        counts.append((prompts.title, prompts.show(facts.evaluation["prompts"])))
    digests = [(path, f"`{digest}`") for path, digest in lineage.data.items()]
    return _table(["data", "rows or digest"], counts + digests)


def _lineage(lineage: Lineage) -> str:
    tags = lineage.tags
    rows = [
        ("git commit", tags.get("git.commit", "none")),
        ("night run", tags.get("night", "none")),
        ("md5 of params.yaml", tags.get("params.md5", "unknown")),
        ("the whole of it", f"`nightjar lineage {lineage.version}`"),
        ("to make it again", f"`nightjar reproduce {lineage.version}`"),
    ]
    return _table(["from", ""], rows)


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; empty without rows."""
    lines = [header, ["---"] * len(header), *rows] if rows else []
    cells = [[cell.replace("|", "\\|") for cell in line] for line in lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)
