"""rollouts as a stage: every completion as params say, with a seed of its own, and honest counts."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from rlhf.records import Completion, Prompt, Rollout
from tasks import rollouts, stages
from tasks.files import read_records, write_records
from tasks.params.whole import Params
from tasks.paths import Paths
from tasks.rollouts import choose_prompts, rollout_seed


def drawn(paths: Paths) -> list[Rollout]:
    return read_records(paths.rollouts, Rollout)


def told(completion: Completion) -> tuple[object, ...]:
    """A completion without its logprob, whose last digit may depend on the batch it was drawn in."""
    return completion.text, completion.tokens, completion.finish_reason, completion.seed, completion.sampling


def test_each_prompt_has_its_completions_with_the_settings_in_turn(small_night: Paths, night_params: Params) -> None:
    """Three per prompt under two settings: the first, the second, the first again; and a seed for each of them all."""
    prompts = read_records(small_night.validated / "train" / "prompts.jsonl", Prompt)
    rows = drawn(small_night)
    assert [(row.prompt_id, row.prompt) for row in rows] == [(prompt.id, prompt.prompt) for prompt in prompts]
    first, second = night_params.rollouts.sampling
    for row in rows:
        assert [completion.sampling for completion in row.completions] == [first, second, first]
    seeds = [completion.seed for row in rows for completion in row.completions]
    assert len(set(seeds)) == len(seeds) == 3 * len(prompts)


def test_the_metrics_count_what_was_written(small_night: Paths) -> None:
    """Prompts, completions, their mean length in tokens and the share that ended by itself."""
    metrics = json.loads(small_night.metrics("rollouts").read_text())
    completions = [completion for row in drawn(small_night) for completion in row.completions]
    finished = sum(completion.finish_reason == "eos" for completion in completions)
    assert metrics["completions"] == len(completions)
    assert metrics["length"] == pytest.approx(sum(completion.tokens for completion in completions) / len(completions))
    assert metrics["finished_share"] == pytest.approx(finished / len(completions))
    assert 0 < finished < len(completions)
    assert {completion.tokens for completion in completions if completion.finish_reason == "length"} == {24}


def test_a_new_prompt_changes_no_other_completion(
    small_night: Paths, copied_night: Callable[..., Paths], night_params: Params
) -> None:
    """One more in front, in other batches: the old prompts keep text, seed and reason to end."""
    paths = copied_night("rollouts")
    before = drawn(small_night)
    file = paths.validated / "train" / "prompts.jsonl"
    added = Prompt(id="new", prompt="name: Quill; kind: diner; dish: tapas")
    write_records(file, [added, *read_records(file, Prompt)])
    rollouts.run(
        stages.files("rollouts", paths), night_params.rollouts.model_copy(update={"batch_size": 5}), night_params.model
    )
    new, *after = drawn(paths)
    assert new.prompt_id == "new"
    for ours, theirs in zip(after, before, strict=True):
        assert list(map(told, ours.completions)) == list(map(told, theirs.completions))
        logprobs = ([completion.logprob for completion in row.completions] for row in (ours, theirs))
        assert next(logprobs) == pytest.approx(next(logprobs), abs=1e-2)


def test_fewer_prompts_are_drawn_and_keep_their_completions(
    small_night: Paths, copied_night: Callable[..., Paths], night_params: Params
) -> None:
    """`max_prompts` takes some of them by the seed, in their old order, with the completions they had among all."""
    before = {row.prompt_id: row for row in drawn(small_night)}
    paths = copied_night("rollouts")
    figures = rollouts.run(
        stages.files("rollouts", paths), night_params.rollouts.model_copy(update={"max_prompts": 7}), night_params.model
    )
    after = drawn(paths)
    assert (figures["prompts"], figures["completions"]) == (7, 21)
    assert [row.prompt_id for row in after] == [name for name in before if name in {row.prompt_id for row in after}]
    for row in after:
        assert list(map(told, row.completions)) == list(map(told, before[row.prompt_id].completions))


def test_the_choice_of_prompts_follows_the_seed() -> None:
    """As many as asked for, not just the first ones, others with another seed, and all where there are no more."""
    prompts = [Prompt(id=str(place), prompt="p") for place in range(50)]
    first, again, other = (choose_prompts(prompts, 10, seed) for seed in (0, 0, 1))
    assert first == again != other
    assert len(first) == 10
    assert first != prompts[:10]
    assert first == sorted(first, key=lambda row: int(row.id))
    assert (
        choose_prompts(prompts, None, 0) == choose_prompts(prompts, 50, 0) == choose_prompts(prompts, 99, 0) == prompts
    )


def test_a_seed_belongs_to_run_prompt_and_place() -> None:
    """Any of the three changes it, and `1` with `12` is not `11` with `2`."""
    known = [rollout_seed(0, "a", 0), rollout_seed(1, "a", 0), rollout_seed(0, "b", 0), rollout_seed(0, "a", 1)]
    assert len(set(known)) == 4
    assert rollout_seed(0, "a", 0) == known[0]
    assert rollout_seed(1, "12", 0) != rollout_seed(11, "2", 0)
    assert all(0 <= seed < 2**48 for seed in known)
