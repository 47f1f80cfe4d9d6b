"""What a later stage would refuse after hours of training is refused before any model trains.

Reads data/validated and every section of params.yaml, and writes nothing. A night is checked before each stage that
trains, for params may have changed since validate ran; where stages are run by hand, it warns once validate is done.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from rlhf.algorithms import ALGORITHMS
from rlhf.annotator import has_gold
from rlhf.corpus import read_prompt
from rlhf.records import (
    Demonstration,
    Message,
    Pair,
    Prompt,
    PromptText,
    Ranking,
    prompt_identity,
    prompt_key,
    prompt_text,
)
from rlhf.settings.model import ModelSettings
from tasks import evaluate, pairs, rank, reward, rollouts, stages
from tasks.files import read_records
from tasks.params.whole import Params
from tasks.paths import Paths
from tasks.progress import warn
from tasks.training.general import read_general
from tasks.training.monitor import watched_prompts
from tasks.trials import selection, standings

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

AFTER, BEFORE = ("validate",), ("sft", "reward", "policy")
"""The stages after which it is told, and before which a night is refused."""


class Reader(NamedTuple):
    """A stage that has a model answer prompts.

    Attributes:
        file: where the prompts stand, for messages.
        rows: the prompts.
        param: what bounds the answers.
        max_new_tokens: its value.
    """

    file: str
    rows: Sequence[Prompt | Ranking]
    param: str
    max_new_tokens: int


def check(paths: Paths, params: Params) -> None:
    """Checks what validate wrote against what the other stages ask of it.

    Raises:
        FileNotFoundError: a feedback file that params name is not there.
        ValueError: a split of the pairs would be empty, no test prompt could be evaluated or judged, the data that a
            param asks for are missing, or a prompt and its completion exceed the model's context.
    """
    files = {split: paths.validated / split / "prompts.jsonl" for split in ("train", "dev", "test")}
    if not all(file.is_file() for file in files.values()):  # a stage by itself, which tells what it misses
        return
    prompts = {split: read_records(file, Prompt, may_be_empty=True) for split, file in files.items()}
    by_people = params.rank.annotator == "people"
    rankings = (
        rank.gather(stages.files("rank", paths), params.rank.feedback) if by_people else _expected(prompts, params)
    )
    splits = pairs.split_pairs(rankings, params.pairs).pairs
    learnt = {prompt_key(pair.prompt) for split in ("train", "dev", "judge") for pair in splits[split]}
    unseen, seen = evaluate.divide_prompts(prompts["test"], learnt, params.evaluate.max_prompts)
    _check_judge(unseen, splits["judge"])
    if by_people:
        _check_pairs(splits, params)
    if params.policy.monitor is not None:
        watched_prompts(paths.validated / "dev", params.policy.monitor)
    if standings.has_several(params):
        selection.dev_prompts(paths, params)
    if params.policy.ptx_coefficient > 0:
        read_general(paths.validated / "train", "policy.ptx_coefficient")
    answered = {**prompts, "test": unseen + seen}
    check_context(paths, params, list(_readers(answered, rankings, splits, params)))


def tell(paths: Paths, params: Params) -> None:
    """Warns of what `check` refuses."""
    try:
        check(paths, params)
    except (ValueError, FileNotFoundError) as error:
        warn(f"a whole night would end before anything is trained: {error}")


def _expected(prompts: dict[str, list[Prompt]], params: Params) -> list[Ranking]:
    """A ranking for each prompt that rollouts will sample for, as far as splits go; of its ties nothing is known.

    Raises:
        ValueError: the simulated annotator knows nothing of a prompt.
    """
    chosen = rollouts.choose_prompts(prompts["train"], params.rollouts.max_prompts, params.rollouts.seed)
    return [
        Ranking(id=row.id, prompt=row.prompt, completions=["a", "b"], ranks=[1, 2], annotator="simulated")
        for row in chosen
        if read_prompt(prompt_text(row.prompt))
    ]


def _check_judge(unseen: Sequence[Prompt], held_out: Sequence[Pair]) -> None:
    if not held_out and not has_gold([row.prompt for row in unseen]):
        raise ValueError(
            "no pair is held out for a judge, and the test prompts have no gold score, so only the reward model that "
            "the policy was trained on could judge it; name files in rank.feedback.judge, or raise pairs.judge_share"
        )


def _check_pairs(splits: Mapping[str, Sequence[Pair]], params: Params) -> None:
    from rlhf.reward.training import check_pairs

    for split in ("train", "dev", "judge"):
        if splits[split]:
            check_pairs(splits[split], params.reward)


def _readers(
    prompts: dict[str, list[Prompt]], rankings: Sequence[Ranking], splits: Mapping[str, Sequence[Pair]], params: Params
) -> Iterator[Reader]:
    files = {split: f"data/validated/{split}/prompts.jsonl" for split in prompts}
    feedback = "data/validated/feedback" if params.rank.annotator == "people" else files["train"]
    policy = params.policy

    def ranked(split: str, limit: int | None = None) -> list[Ranking]:
        """The rankings of the first prompts of a split's pairs."""
        keys = set(list(dict.fromkeys(prompt_key(pair.prompt) for pair in splits[split]))[:limit])
        return [row for row in rankings if prompt_key(row.prompt) in keys]

    sampled = rollouts.choose_prompts(prompts["train"], params.rollouts.max_prompts, params.rollouts.seed)
    longest = max(sampling.max_new_tokens for sampling in params.rollouts.sampling)
    yield Reader(files["train"], sampled, "rollouts.sampling.max_new_tokens", longest)
    completion = params.reward.max_completion_tokens
    yield Reader(feedback, ranked("train", reward.NORMALISED_ON), "reward.max_completion_tokens", completion)
    if ALGORITHMS[policy.algorithm].learns_from == "pairs":
        yield Reader(feedback, ranked("dev"), "policy.max_new_tokens", policy.max_new_tokens)
    else:
        yield Reader(files["train"], prompts["train"], "policy.max_new_tokens", policy.max_new_tokens)
    if policy.monitor is not None:
        watched = prompts["dev"][: policy.monitor.prompts]
        yield Reader(files["dev"], watched, "policy.max_new_tokens", policy.max_new_tokens)
    yield Reader(files["test"], prompts["test"], "evaluate.max_new_tokens", params.evaluate.max_new_tokens)


def check_context(paths: Paths, params: Params, readers: Sequence[Reader]) -> None:
    """Raises ValueError for the first prompt that, with its completion, exceeds the model's context."""
    context, separate = context_of(params.model)
    if context is None:
        return
    at_most, exactly = _counters(paths, params, separate)
    for reader in readers:
        for row in reader.rows:
            together = max if separate else sum
            if together((at_most(row.prompt), reader.max_new_tokens)) <= context:
                continue
            tokens = exactly(row.prompt)
            if together((tokens, reader.max_new_tokens)) > context:
                raise ValueError(
                    f"{reader.file}: {row.id}: the prompt takes {tokens} tokens and {reader.param} is "
                    f"{reader.max_new_tokens}, but the model's context is {context}; lower {reader.param}, or "
                    "model.max_prompt_tokens, so that validate quarantines the row"
                )


def context_of(model: ModelSettings) -> tuple[int | None, bool]:
    """How many tokens the base model reads (None: nothing bounds it), and whether a prompt has that to itself."""
    from transformers import AutoConfig

    from rlhf.tokenizers import load_config

    if model.name is not None:
        config = load_config(model.name, model.trust_remote_code)
    else:
        try:
            config = AutoConfig.for_model(**model.config)
        except (ValueError, TypeError):  # sft says what is wrong with it
            return None, False
    return getattr(config, "max_position_embeddings", None), bool(config.is_encoder_decoder)


def _counters(
    paths: Paths, params: Params, for_encoder: bool
) -> tuple[Callable[[PromptText], int], Callable[[PromptText], int]]:
    """How many tokens a prompt has at most, cheaply, and how many it has; learnt ones before it are counted too."""
    from rlhf.tokenizers import corpus_of, encode_prompt, load_tokenizer, train_tokenizer

    adapter, model = params.sft.adapter, params.model
    learnt = adapter.prompt_tokens if adapter is not None and adapter.kind == "prompt" else 0
    champion = paths.champion if params.sft.start == "champion" and (paths.champion / "config.json").is_file() else None
    name: str | Path | None = champion or model.name

    @cache
    def tokenizer() -> PreTrainedTokenizerBase:
        if name is not None:
            return load_tokenizer(name, model.trust_remote_code)
        return train_tokenizer(corpus_of(_demonstrations(paths, params)), model.vocab_size)

    @cache
    def count(prompt: str | tuple[Message, ...]) -> int:
        return learnt + len(encode_prompt(tokenizer(), prompt, for_encoder))

    def exactly(prompt: PromptText) -> int:
        return count(prompt_identity(prompt))

    def at_most(prompt: PromptText) -> int:
        # A byte-level BPE has a token a byte at most, beside the space that opens a text and the separator.
        return exactly(prompt) if name is not None else learnt + len(prompt_text(prompt).encode()) + 2

    return at_most, exactly


def _demonstrations(paths: Paths, params: Params) -> list[Demonstration]:
    """What SFT trains a tokenizer on."""
    train = paths.validated / "train"
    replayed = read_general(train, "sft.replay") if params.sft.replay else []
    return [*read_records(train / "demonstrations.jsonl", Demonstration), *replayed]
