"""Generation explained: for a prompt, what each model would write next, before and after each control, token by token.

One model's continuation is followed and forced on the others, so that all predict from the same text.
Reads the models below data/models, or others by path or Hub id; writes a page and a picture on request.

    nightjar explain "PROMPT"
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from rlhf.records import Sampling
from rlhf.settings.model import ModelSettings
from tasks.paths import Paths
from tasks.roles import POLICIES, ROLES

if TYPE_CHECKING:
    from rlhf.explain import SamplerStage
    from rlhf.models import Policy

TITLES = {
    "repetition_penalty": "repetition penalty",
    "min_new_tokens": "min. length",
    "top_k": "top-k",
    "top_p": "top-p",
    "min_p": "min-p",
}


@dataclass(frozen=True)
class Question:
    """What is to be explained.

    Attributes:
        prompt: the prompt as text.
        models: `sft`, `policy`, or paths or Hub ids of others.
        follow: the model whose continuation is followed, one of `models`.
        sampling: the controls; its `max_new_tokens` is the number of steps.
        seed: of the continuation.
        top: how many tokens are shown at each step.
    """

    prompt: str
    models: tuple[str, ...]
    follow: str
    sampling: Sampling
    seed: int = 0
    top: int = 8


class Bar(NamedTuple):
    """A token with its probability at each stage."""

    token: str
    probabilities: list[float]
    chosen: bool


class Prediction(NamedTuple):
    """What one model would write next.

    Attributes:
        model: its name.
        stages: `raw`, then the controls with their values.
        bars: the likeliest tokens at any stage and the chosen one, falling as in `raw`.
        entropies: nats, one per stage.
        cuts: the mass that each stage cut, one per stage.
    """

    model: str
    stages: list[str]
    bars: list[Bar]
    entropies: list[float]
    cuts: list[float]


class ExplainedToken(NamedTuple):
    """One token: the text before it, the token that was written, and what each model predicted."""

    before: str
    chosen: str
    predictions: list[Prediction]


class Explanation(NamedTuple):
    """A continuation, token by token."""

    prompt: str
    how: str
    steps: list[ExplainedToken]


def explain(paths: Paths, question: Question, model: ModelSettings) -> Explanation:
    """Writes the continuation with one model and reads it with each.

    Raises:
        ValueError: `follow` is none of the models, one of them cannot be loaded or has another vocabulary, or the
            prompt and the steps exceed a context.
        FileNotFoundError: a model of the night that has not been made.
    """
    if question.follow not in question.models:
        raise ValueError(f"found follow {question.follow}; give one of the models shown: {', '.join(question.models)}")
    folders = {name: _folder(paths, name) for name in question.models}

    import torch

    from rlhf.explain import readable_token, trace
    from rlhf.generation import check_context, sample
    from rlhf.models import load_policy

    if model.threads is not None:
        torch.set_num_threads(model.threads)
    policies = {name: load_policy(folder, model) for name, folder in folders.items()}
    _check_vocabularies(policies)
    writer, settings = policies[question.follow], question.sampling
    prompts = {name: policy.encode_prompt(question.prompt) for name, policy in policies.items()}
    for name, policy in policies.items():
        check_context(policy, [prompts[name]], [settings])
    [tokens] = sample(writer, [prompts[question.follow]], [settings], [question.seed]).responses()
    traces = {name: trace(policy, prompts[name], tokens, settings) for name, policy in policies.items()}
    shown = [readable_token(writer, token) for token in tokens]
    steps = [
        ExplainedToken(
            before="".join(shown[:index]),
            chosen=shown[index],
            predictions=[
                _prediction(policy, name, traces[name][index], token, question) for name, policy in policies.items()
            ],
        )
        for index, token in enumerate(tokens)
    ]
    return Explanation(question.prompt, _how(question), steps)


def _folder(paths: Paths, name: str) -> str | Path:
    """The folder of a night's model, which must be there, or what was given."""
    if name not in POLICIES:
        return name
    folder = paths.root / str(ROLES[name].path)
    if not folder.is_dir():
        raise FileNotFoundError(
            f"{folder}: no such model yet; make it with: nightjar stage {ROLES[name].stage} "
            "(or the whole night: nightjar run), or choose others with --model"
        )
    return folder


def _check_vocabularies(policies: dict[str, Policy]) -> None:
    first, *others = policies
    for name in others:
        if policies[name].tokenizer.get_vocab() != policies[first].tokenizer.get_vocab():
            raise ValueError(
                f"{first} and {name} have different vocabularies, so one cannot read the other's tokens; "
                "explain them one at a time"
            )


def _prediction(
    writer: Policy, name: str, stages: Sequence[SamplerStage], token: int, question: Question
) -> Prediction:
    """The likeliest tokens at any stage, and the chosen one, in the order of the raw distribution."""
    import torch

    from rlhf.explain import readable_token

    table = torch.stack([stage.probabilities for stage in stages])
    likeliest = table.amax(0).topk(min(question.top, table.shape[1])).indices.tolist()
    shown = sorted({*likeliest, token}, key=lambda index: (-float(table[0, index]), index))
    return Prediction(
        model=name,
        stages=[_titled(stage.control, question.sampling) for stage in stages],
        bars=[Bar(readable_token(writer, index), table[:, index].tolist(), index == token) for index in shown],
        entropies=[stage.entropy for stage in stages],
        cuts=[stage.cut for stage in stages],
    )


def _titled(control: str, sampling: Sampling) -> str:
    """`raw`, or a control with its value, such as `top-k 20`."""
    value = getattr(sampling, control, None)
    return control if value is None else f"{TITLES.get(control, control)} {value:g}"


def _how(question: Question) -> str:
    """A sentence: whose continuation it is and how its tokens were chosen."""
    greedy = question.sampling.temperature == 0.0
    chosen = "each time its likeliest token" if greedy else f"sampled with seed {question.seed}"
    readers = [name for name in question.models if name != question.follow]
    read = f"; {', '.join(readers)} reads the same text" if readers else ""
    return f"{question.follow} writes, {chosen}{read}"
