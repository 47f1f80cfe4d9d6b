"""What is known once validate is done is told then, by the row or the param: no model is trained first."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from rlhf.corpus import make_prompts
from rlhf.records import Prompt
from rlhf.tokenizers import encode_prompt, train_tokenizer
from tasks import preflight, runner
from tasks.files import read_records, write_records, write_rows
from tasks.params.whole import check
from tasks.paths import Paths
from tasks.tracking import tracker

PEOPLE: dict[str, Any] = {
    "model": {"config": {"model_type": "llama", "max_position_embeddings": 64}, "vocab_size": 300},
    "ingest": {"source": "data/source"},
    "sft": {"steps": 1, "batch_size": 1, "learning_rate": 1.0e-3},
    "rollouts": {"sampling": [{"max_new_tokens": 16}]},
    "rank": {
        "annotator": "people",
        "feedback": {name: [f"{name}.jsonl"] for name in ("train", "dev", "test", "judge")},
    },
    "reward": {"steps": 1, "batch_size": 1, "learning_rate": 1.0e-3, "max_completion_tokens": 16},
    "policy": {"iterations": 1, "prompts_per_iteration": 1, "critic_warmup": 0, "max_new_tokens": 16},
    "evaluate": {"max_new_tokens": 16},
}
SIMULATED = {**PEOPLE, "rank": {"annotator": "simulated"}, "pairs": {"dev_share": 0.2, "test_share": 0.2}}
CHINESE = "问" * 560
"""One word, of 1,680 bytes."""
Change = Callable[[Paths, dict[str, Any]], None]


def ranking(name: str, prompt: str, ranks: list[int], **fields: object) -> dict[str, Any]:
    row = {"id": name, "prompt": prompt, "completions": ["a", "b"], "ranks": ranks, "annotator": "ann"}
    return {**row, **fields}


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    """What validate leaves of a small night of people's data that every stage can work with."""
    found = Paths(tmp_path)
    for split in ("train", "dev", "test"):
        rows = [{"id": f"{split}{n}", "prompt": f"{split} ask {n}", "references": ["fine"]} for n in range(2)]
        write_rows(found.validated / split / "prompts.jsonl", rows)
        write_rows(
            found.validated / split / "demonstrations.jsonl",
            [{"id": row["id"], "prompt": row["prompt"], "response": "fine"} for row in rows],
        )
    for name in ("train", "dev", "test", "judge"):
        write_rows(found.validated / "feedback" / f"{name}.jsonl", [ranking(name, f"{name} ranked", [1, 2])])
    return found


def put(split: str, *rows: dict[str, Any]) -> Change:
    """Prompts in place of a split's."""
    return lambda paths, params: void(write_rows(paths.validated / split / "prompts.jsonl", rows))


def ranked(name: str, *rows: dict[str, Any]) -> Change:
    """Rankings in place of a file's."""
    return lambda paths, params: void(write_rows(paths.validated / "feedback" / f"{name}.jsonl", rows))


def param(section: str, **values: Any) -> Change:
    """Params beside those that there are."""
    return lambda paths, params: params.update({section: params.get(section, {}) | values})


def watched(params: dict[str, Any]) -> None:
    """The policy is watched for reward hacking."""
    params["policy"] |= {"monitor": {}}


def several(params: dict[str, Any], **night: Any) -> None:
    """A night of two seeds."""
    params["night"] = {"seeds": [1], **night}


def void(value: object) -> None:
    """Nothing, whatever was returned."""


CASES: dict[str, tuple[Change, str]] = {
    "no reference in any test prompt": (
        put("test", {"id": "t7", "prompt": "x"}, {"id": "t8", "prompt": "y"}),
        "none of the 2 test prompts, such as t7, has a reference to be evaluated against; write references",
    ),
    "every test prompt is learnt from": (
        ranked("train", ranking("r", "test ask 0", [1, 2]), ranking("s", "test ask 1", [1, 2])),
        "found 2 test prompts with references, but every one of them has rankings that the reward model",
    ),
    "all rankings are tied": (
        ranked("train", ranking("r", "x", [1, 1]), ranking("s", "y", [1, 1])),
        "no pair falls in train (5 rankings give 0 train, 1 dev, 1 test, 1 judge pairs; 2 couples are tied)",
    ),
    "a split without a pair": (
        ranked("dev", ranking("r", "x", [1, 2], completions=["same", "same"])),
        "no pair falls in dev (4 rankings give 1 train, 0 dev",
    ),
    "nothing for the judge": (
        ranked("judge", ranking("r", "x", [1, 1])),
        "no pair is held out for a judge, and the test prompts have no gold score",
    ),
    "ratings are asked for and missing": (
        param("reward", loss="regression"),
        "reward.loss is regression, but 1 of 1 pairs have no ratings",
    ),
    "too few dev prompts to watch": (
        lambda paths, params: (put("dev", {"id": "d", "prompt": "x"})(paths, params), watched(params))[1],
        "found 1 prompts, but policy.monitor needs at least 2",
    ),
    "too few dev prompts to choose by": (
        lambda paths, params: (put("dev", {"id": "d", "prompt": "x"})(paths, params), several(params))[1],
        "1 prompts cannot choose among candidates; raise validate.dev_share",
    ),
    "no dev reference to choose by": (
        lambda paths, params: (
            put("dev", {"id": "d", "prompt": "x"}, {"id": "e", "prompt": "y"})(paths, params),
            several(params, rouge_weight=5.0),
        )[1],
        "0 prompts with references cannot choose among candidates; raise validate.dev_share, or empty night.rouge",
    ),
    "nothing to keep from being forgotten": (
        param("policy", ptx_coefficient=1.0),
        "policy.ptx_coefficient is above 0, but there are no general demonstrations",
    ),
    "a long test prompt": (
        put(
            "test",
            {"id": "t0", "prompt": "x", "references": ["r"]},
            {"id": "t1", "prompt": CHINESE, "references": ["r"]},
        ),
        "data/validated/test/prompts.jsonl: t1: the prompt takes 1682 tokens and evaluate.max_new_tokens is 16, but "
        "the model's context is 64; lower evaluate.max_new_tokens, or model.max_prompt_tokens",
    ),
    "a long train prompt": (
        put("train", {"id": "t0", "prompt": "x"}, {"id": "t1", "prompt": CHINESE}),
        "data/validated/train/prompts.jsonl: t1: the prompt takes 1682 tokens and rollouts.sampling.max_new_tokens is",
    ),
    "a long prompt that was ranked": (
        ranked("train", ranking("r", CHINESE, [1, 2])),
        "data/validated/feedback: r: the prompt takes 1682 tokens and reward.max_completion_tokens is 16",
    ),
    "a limit above the context": (
        param("policy", max_new_tokens=64),
        "data/validated/train/prompts.jsonl: train0: the prompt takes 4 tokens and policy.max_new_tokens is 64, but",
    ),
    "a learnt prompt that leaves no room": (
        lambda paths, params: params.update(
            model={"name": str(named(paths))}, sft=params["sft"] | {"adapter": {"kind": "prompt", "prompt_tokens": 50}}
        ),
        "rollouts.sampling.max_new_tokens is 16, but the model's context is 64",
    ),
}


def named(paths: Paths) -> Path:
    """A folder with the configuration and the tokenizer of a model."""
    from transformers import LlamaConfig

    LlamaConfig(max_position_embeddings=64).save_pretrained(paths.root / "base")
    train_tokenizer(["ask"], 300).save_pretrained(paths.root / "base")
    return paths.root / "base"


@pytest.mark.parametrize("case", CASES)
def test_what_a_later_stage_would_refuse_is_refused(paths: Paths, case: str) -> None:
    """With the words of a user's file: the row, the param, and what to do."""
    change, message = CASES[case]
    params = {section: dict(values) for section, values in PEOPLE.items()}
    change(paths, params)
    with pytest.raises(ValueError, match=re.escape(message)):
        preflight.check(paths, check(params, "params.yaml"))


def test_good_data_pass_and_a_stage_by_itself_is_let_be(paths: Paths, tmp_path: Path) -> None:
    """The same night without any of that; and a folder in which validate never ran."""
    preflight.check(paths, check(PEOPLE, "params.yaml"))
    preflight.check(Paths(tmp_path / "elsewhere"), check(PEOPLE, "params.yaml"))


def test_the_tokens_counted_are_those_of_the_tokenizer_that_sft_trains(paths: Paths) -> None:
    """Trained by hand on the same texts; a context of one token less than is needed is refused, and no other."""
    rows = read_records(paths.validated / "train" / "prompts.jsonl", Prompt)
    texts = [text for row in rows for text in (row.prompt, "fine") if isinstance(text, str)]
    tokenizer, prompt = train_tokenizer(texts, 300), "train ask " + "问题" * 9
    tokens = len(encode_prompt(tokenizer, prompt))
    assert tokens < len(prompt.encode())
    put("test", {"id": "t", "prompt": prompt, "references": ["r"]})(paths, {})
    for room, fits in ((tokens + 16, True), (tokens + 15, False)):
        model = {"config": {"model_type": "llama", "max_position_embeddings": room}, "vocab_size": 300}
        if fits:
            preflight.check(paths, check({**PEOPLE, "model": model}, "params.yaml"))
        else:
            with pytest.raises(ValueError, match=rf"t: the prompt takes {tokens} tokens .* context is {room}"):
                preflight.check(paths, check({**PEOPLE, "model": model}, "params.yaml"))


def test_the_simulated_annotator_is_known_to_rank_its_own_corpus_alone(paths: Paths) -> None:
    """Other prompts, and too few of its own for the pairs' splits, are told before SFT."""
    with pytest.raises(ValueError, match="'train ask 0' is no prompt of the builtin corpus"):
        preflight.check(paths, check(SIMULATED, "params.yaml"))
    prompts = make_prompts(40, seed=0)
    roomy = SIMULATED | {"model": {"config": {"model_type": "llama", "max_position_embeddings": 512}}}
    for split in ("train", "dev", "test"):
        write_records(paths.validated / split / "prompts.jsonl", prompts)
    write_records(paths.validated / "train" / "prompts.jsonl", prompts[:1])
    with pytest.raises(ValueError, match=r"no pair falls in .* \(1 rankings give"):
        preflight.check(paths, check(roomy, "params.yaml"))
    write_records(paths.validated / "train" / "prompts.jsonl", prompts)
    preflight.check(paths, check(roomy, "params.yaml"))


def test_a_night_does_not_begin_to_train(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    """In an open night SFT is refused before it begins; whoever runs SFT by hand may want no more than that."""
    put("test", {"id": "t7", "prompt": "x"})(paths, {})
    params, ran = check(PEOPLE, "params.yaml"), list[str]()
    (paths.root / "params.yaml").write_text(yaml.safe_dump(PEOPLE))
    paths.champion.mkdir(parents=True)
    monkeypatch.setattr(runner, "run_stage", lambda stage, *given: ran.append(stage) or {})
    monkeypatch.setenv(tracker.NIGHT_VARIABLE, "a night")
    with pytest.raises(ValueError, match="none of the 1 test prompts, such as t7, has a reference"):
        runner.run_tracked("sft", paths, params, "flow")
    assert ran == []


def test_a_stage_by_hand_is_told_what_a_night_would_refuse(paths: Paths, capsys: pytest.CaptureFixture[str]) -> None:
    """People who rank what SFT is yet to write have no rankings now, and no night either."""
    (paths.validated / "feedback" / "train.jsonl").unlink()
    preflight.tell(paths, check(PEOPLE, "params.yaml"))
    said = capsys.readouterr().err
    assert said.startswith("warning: a whole night would end before anything is trained: data/feedback/train.jsonl: no")
    write_rows(paths.validated / "feedback" / "train.jsonl", [ranking("train", "train ranked", [1, 2])])
    preflight.tell(paths, check(PEOPLE, "params.yaml"))
    assert capsys.readouterr().err == ""
