"""Where a registered policy came from: reward model, pairs, rankings, rollouts, SFT, data, commit and params.

Read from the registry's tags and MLflow's runs alone, so that it works when data/ is gone. `nightjar lineage`
prints it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from io import StringIO
from typing import TYPE_CHECKING, Any

from tasks import digests
from tasks.figures import find
from tasks.registry import versions
from tasks.roles import ROLES
from tasks.stages import STAGES
from tasks.tracking import mlflow_store

if TYPE_CHECKING:
    from rich.tree import Tree

CHAIN = ("policy", "reward", "pairs", "rank", "rollouts", "sft")
"""The stages between a policy and its data, the last one first."""
SHOWN = {
    "policy": ("iterations", "reward_mean", "kl"),
    "reward": ("accuracy", "auc", "ece"),
    "pairs": ("pairs",),
    "rank": ("tie_share",),
    "rollouts": ("prompts", "completions"),
    "sft": ("eval_loss", "perplexity"),
    "validate": ("rows_in", "rows_kept", "rows_rejected"),
}
"""The figures that are shown of a stage."""
DATA = (
    *("data/validated/train", "data/validated/dev", "data/validated/test", "data/validated/feedback"),
    *("data/raw", "data/source", "data/feedback"),
)
"""The folders of data, the latest first."""


@dataclass(frozen=True)
class Step:
    """One stage of the night that made a version.

    Attributes:
        run_id: its MLflow run; None where this database does not know it.
        params: what that run was given, by dotted name.
        metrics: its final figures.
        digests: what it wrote, by path.
    """

    run_id: str | None
    params: dict[str, str]
    metrics: dict[str, float]
    digests: dict[str, str]


@dataclass(frozen=True)
class Lineage:
    """A policy version and all that made it; `tags` are the version's own."""

    name: str
    version: int
    aliases: list[str]
    tags: dict[str, str]
    steps: dict[str, Step]
    start: int | None
    """The policy version that SFT started from; None where it started from the base model."""
    reward_deleted: bool = False
    """Whether its reward model is no longer in the registry."""

    @property
    def params(self) -> dict[str, str]:
        """Every param that a step was given, by dotted name."""
        return {name: value for step in self.steps.values() for name, value in step.params.items()}

    @property
    def data(self) -> dict[str, str]:
        """The digest of each folder of data, by path, the latest first; empty folders are left out."""
        digest_of = {path: self.tags.get(f"data.{path}", digests.EMPTY) for path in DATA}
        return {path: digest for path, digest in digest_of.items() if digest != digests.EMPTY}

    @property
    def annotators(self) -> dict[str, int]:
        """Who made the rankings, and how many each."""
        counts: dict[str, int] = json.loads(self.tags.get("annotators", "{}"))
        return counts


def trace(client: Any, version: Any) -> Lineage:
    """Follows the tags of a policy version to the runs behind it."""
    steps = {name: _find_step(client, version.tags, name) for name in STAGES}
    start = None
    if steps["sft"].params.get("sft.start") == "champion" and (content := version.tags.get("data.data/champion")):
        start = versions.find_version(client, version.name, content)
    reward, name = version.tags.get("reward_version"), version.name.removesuffix("-policy")
    return Lineage(
        name=name,
        version=int(version.version),
        aliases=sorted(version.aliases),
        tags=version.tags,
        steps=steps,
        start=None if start is None else int(start.version),
        reward_deleted=reward is not None and not versions.exists(client, f"{name}-reward", reward),
    )


def _find_step(client: Any, tags: Mapping[str, str], stage: str) -> Step:
    run = mlflow_store.get_run(client, tags[f"run.{stage}"]) if f"run.{stage}" in tags else None
    digests = {path: tags[f"data.{path}"] for path in STAGES[stage].writes if f"data.{path}" in tags}
    if run is None:
        return Step(None, {}, {}, digests)
    return Step(run.info.run_id, run.data.params, run.data.metrics, digests)


def render(lineage: Lineage) -> str:
    """The lineage as a tree of text: the policy at the root, and below each node what it was made from.

    Digests and run ids are there to be copied, so no line is folded, whatever the terminal.
    """
    from rich.console import Console

    console = Console(file=StringIO(), width=10_000, color_system=None, highlight=False, markup=False)
    with console.capture() as text:
        console.print(_tree(lineage))
    return "\n".join(line.rstrip() for line in text.get().splitlines())


def _tree(lineage: Lineage) -> Tree:
    from rich.tree import Tree

    tags = lineage.tags
    aliases = f" ({', '.join(lineage.aliases)})" if lineage.aliases else ""
    root = Tree(f"{lineage.name}-policy version {lineage.version}{aliases}")
    if versions.RETIRED in tags:
        root.add(f"retired: {tags[versions.RETIRED]}")
    root.add(tags.get("reason", "not judged yet"))
    node = root
    # People rank what they were shown, wherever it came from; the annotator ranks this night's rollouts.
    by_people = lineage.params.get("rank.annotator") == "people"
    for name in (name for name in CHAIN if not (by_people and name == "rollouts")):
        node = node.add(_title(lineage, name))
        for path, digest in lineage.steps[name].digests.items():
            node.add(f"{path} {digest}")
    data = node.add(_data_title(lineage))
    for path, digest in lineage.data.items():
        data.add(f"{path} {digest}")
    root.add(_commit(tags))
    root.add(f"params.yaml {tags.get('params.md5', 'unknown')}, kept in run {tags.get('run', 'unknown')}")
    libraries = {key.removeprefix("version."): value for key, value in tags.items() if key.startswith("version.")}
    root.add("with " + ", ".join(f"{name} {version}" for name, version in sorted(libraries.items())))
    return root


def _title(lineage: Lineage, stage: str) -> str:
    """A step's name, its figures, and its run."""
    step = lineage.steps[stage]
    title = ROLES[stage].title if stage in ROLES else "rankings" if stage == "rank" else stage
    if stage == "reward":
        title += f": {lineage.name}-reward version {lineage.tags.get('reward_version', 'unknown')}"
        if lineage.reward_deleted:
            title += ", deleted from the registry (a night with its weights registers them again)"
    if stage == "rank" and lineage.annotators:
        title += " by " + ", ".join(f"{who} ({count})" for who, count in lineage.annotators.items())
    if stage == "sft":
        title += f", started from {describe_start(lineage)}"
    return ", ".join([title, *_figures(step, stage), f"run {step.run_id or 'not in this database'}"])


def _data_title(lineage: Lineage) -> str:
    source = lineage.steps["ingest"].params.get("ingest.source")
    return ", ".join([f"data from {source}" if source else "data", *_figures(lineage.steps["validate"], "validate")])


def _figures(step: Step, stage: str) -> list[str]:
    rows = {name: find(f"{stage}.{name}") for name in SHOWN[stage] if name in step.metrics}
    return [f"{row.title} {row.show(step.metrics[name])}" for name, row in rows.items()]


def describe_start(lineage: Lineage) -> str:
    """What SFT started from, in a few words."""
    params = lineage.steps["sft"].params
    if lineage.start is not None:
        return f"{lineage.name}-policy version {lineage.start}"
    if params.get("model.name", "null") != "null":
        return params["model.name"]
    return f"random weights ({params.get('model.config.model_type', 'unknown model')})"


def _commit(tags: Mapping[str, str]) -> str:
    if "git.commit" not in tags:
        return "no git commit: it was made outside a checkout"
    changed = ", with changes that it does not hold" if tags.get("git.dirty") == "yes" else ""
    return f"git commit {tags['git.commit']}{changed}"
