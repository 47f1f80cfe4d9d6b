"""The sampler, held to Hugging Face's: same greedy text, same distributions, same beams; and to its own seed."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from scipy.stats import chisquare
from transformers import LogitsProcessorList, MinNewTokensLengthLogitsProcessor, RepetitionPenaltyLogitsProcessor
from transformers.generation.logits_process import (
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from rlhf.batches import make_batch
from rlhf.drawing.controls import Controls, warp
from rlhf.drawing.inversion import cumulate, invert
from rlhf.generation import beam_search, generate, sample
from rlhf.heads import response_logprobs
from rlhf.models import Policy
from rlhf.records import Sampling
from rlhf.soft_prompt import add_soft_prompt

PROMPTS = ["name[Kestrel]", "name[Bellwether], kind[bistro], dish[tapas]", "kind[diner], price[fair]", "area[old town]"]
ENCODED = [[3, 4, 5], [6], [7, 3, 3, 5, 6, 4], [5, 7]]
GREEDY = Sampling(temperature=0.0, max_new_tokens=12)


def hugging_face(policy: Policy, prompt: Sequence[int], **settings: Any) -> list[int]:
    """What `transformers` generates for one prompt on its own, without padding, up to and with EOS."""
    settings = {"do_sample": False, "eos_token_id": policy.eos_id, "pad_token_id": policy.eos_id, **settings}
    input_ids = torch.tensor([list(prompt)])
    model: Any = policy.model
    output = model.generate(input_ids=input_ids, attention_mask=torch.ones_like(input_ids), **settings)
    tokens = output[0, len(prompt) :].tolist()
    return tokens[: tokens.index(policy.eos_id) + 1] if policy.eos_id in tokens else tokens


def responses(policy: Policy, prompts: Sequence[Sequence[int]], sampling: Sequence[Sampling]) -> list[list[int]]:
    """Our tokens, cut to their lengths."""
    samples = sample(policy, prompts, sampling, range(len(prompts)))
    return samples.responses()


@pytest.mark.parametrize("name", ["llama", "gpt2", "speller"])
@pytest.mark.parametrize(
    "settings",
    [{}, {"repetition_penalty": 1.4}, {"min_new_tokens": 6}, {"repetition_penalty": 2.5, "min_new_tokens": 9}],
)
def test_greedy_text_equals_hugging_faces(name: str, settings: dict[str, Any], request: pytest.FixtureRequest) -> None:
    """Four prompts of unlike lengths in one padded batch give what each gives there alone."""
    policy: Policy = request.getfixturevalue(name)
    ours = responses(policy, ENCODED, [GREEDY.model_copy(update=settings)] * len(ENCODED))
    assert ours == [hugging_face(policy, prompt, max_new_tokens=12, **settings) for prompt in ENCODED]


FILTERS = [
    Sampling(),
    Sampling(temperature=0.6),
    Sampling(top_k=3),
    Sampling(top_p=0.8),
    Sampling(top_p=1.0e-9),  # the likeliest token stays all the same
    Sampling(min_p=0.2),
    Sampling(repetition_penalty=1.8),
    Sampling(min_new_tokens=4),
    Sampling(temperature=1.6, top_k=6, top_p=0.9),
    Sampling(temperature=0.8, top_p=0.7, min_p=0.05, repetition_penalty=0.7),
    Sampling(temperature=1.3, top_k=100, top_p=0.95, min_p=0.1, repetition_penalty=1.2, min_new_tokens=3),
]


def hugging_face_warp(
    settings: Sampling, history: Sequence[int], prompt_length: int, logits: torch.Tensor
) -> torch.Tensor:
    """The logits of one row after `transformers`' own processors, in the order in which its `generate` has them."""
    steps = LogitsProcessorList()
    if settings.repetition_penalty != 1.0:
        steps.append(RepetitionPenaltyLogitsProcessor(settings.repetition_penalty))
    if settings.min_new_tokens:
        steps.append(MinNewTokensLengthLogitsProcessor(prompt_length, settings.min_new_tokens, 1, device="cpu"))
    if settings.temperature != 1.0:
        steps.append(TemperatureLogitsWarper(settings.temperature))
    if settings.top_k:
        steps.append(TopKLogitsWarper(settings.top_k))
    if settings.top_p < 1.0:
        steps.append(TopPLogitsWarper(settings.top_p))
    if settings.min_p:
        steps.append(MinPLogitsWarper(settings.min_p))
    return steps(torch.tensor([list(history)]).long(), logits[None].clone())[0]  # type: ignore[arg-type]


def controls(sampling: Sequence[Sampling]) -> Controls:
    """The settings as columns, written out here so that the sampler's own way of doing it is not the oracle."""
    columns = {
        field: torch.tensor([[getattr(row, field)] for row in sampling])
        for field in Controls._fields
        if field != "greedy"
    }
    return Controls(greedy=columns["temperature"] == 0.0, **columns)


@pytest.mark.parametrize("step", [1, 2, 3])
def test_filtered_distributions_equal_hugging_faces_row_by_row(step: int) -> None:
    """Eleven settings in one batch: each row has the probabilities that its own processors would give it."""
    logits = torch.randn(len(FILTERS), 12, generator=torch.Generator().manual_seed(step)) * 2
    history = torch.randint(0, 12, (len(FILTERS), 6), generator=torch.Generator().manual_seed(9))
    mask = torch.ones_like(history, dtype=torch.bool)
    mask[::2, :2] = False  # left padding, of every other row
    before = logits.clone()
    ours = warp(logits, controls(FILTERS), history, mask, step, stop_ids=[1]).softmax(-1)
    for row, settings in enumerate(FILTERS):
        past = history[row][mask[row]].tolist()
        theirs = hugging_face_warp(settings, past, len(past) - step, logits[row]).softmax(-1)
        torch.testing.assert_close(ours[row], theirs, atol=1e-5, rtol=1e-5)
    assert torch.equal(logits, before)


def test_the_filters_of_this_table_each_remove_or_move_something() -> None:
    """Every setting but the plain one changes the distribution, so the comparison above means something."""
    logits = torch.randn(1, 12, generator=torch.Generator().manual_seed(2)) * 2
    history, mask = torch.tensor([[1, 4, 5]]), torch.ones(1, 3, dtype=torch.bool)
    plain = logits.softmax(-1)
    for settings in FILTERS[1:]:
        warped = warp(logits, controls([settings]), history, mask, 2, stop_ids=[1]).softmax(-1)
        assert (warped - plain).abs().max() > 1e-3, settings


@pytest.mark.parametrize(
    ("settings", "before", "after"),
    [
        # The three likeliest hold .8; each divided by it: .4/.8, .25/.8, .15/.8.
        (Sampling(top_k=3), [0.40, 0.25, 0.15, 0.12, 0.08], [0.5, 0.3125, 0.1875, 0.0, 0.0]),
        # The first holds .95 ≥ .9 on its own.
        (Sampling(top_p=0.9), [0.95, 0.03, 0.02], [1.0, 0.0, 0.0]),
        # Four hold .78 < .9, five .90; each divided by .9.
        (
            Sampling(top_p=0.9),
            [0.25, 0.20, 0.18, 0.15, 0.12, 0.06, 0.04],
            [0.25 / 0.9, 0.20 / 0.9, 0.18 / 0.9, 0.15 / 0.9, 0.12 / 0.9, 0.0, 0.0],
        ),
        # A fifth of .5 is .1: .08 goes, and the rest is divided by .92.
        (Sampling(min_p=0.2), [0.5, 0.3, 0.12, 0.08], [0.5 / 0.92, 0.3 / 0.92, 0.12 / 0.92, 0.0]),
    ],
)
def test_filters_by_hand(settings: Sampling, before: list[float], after: list[float]) -> None:
    """What is kept is divided by its sum; what is not has no chance."""
    history, mask = torch.tensor([[0]]), torch.ones(1, 1, dtype=torch.bool)
    warped = warp(torch.tensor([before]).log(), controls([settings]), history, mask, 0, stop_ids=[0])
    assert warped.softmax(-1)[0].tolist() == pytest.approx(after, abs=1e-6)
    assert torch.isneginf(warped[0]).tolist() == [chance == 0.0 for chance in after]


def test_the_drawn_token_is_where_the_uniform_number_falls() -> None:
    """Probabilities .2, .5, 0, .3: .1 → 0, .2001 → 1, .69 → 1, .7001 → 3, .9999999 → 3."""
    logits = torch.tensor([0.2, 0.5, 0.0, 0.3]).log().expand(5, 4)
    uniform = torch.tensor([0.1, 0.2001, 0.69, 0.7001, 0.9999999])
    assert invert(cumulate(logits), uniform).tolist() == [0, 1, 1, 3, 3]


def test_a_filtered_token_is_never_drawn_at_the_edges() -> None:
    """With the first and the last token filtered out, uniform 0 and almost 1 draw the ones between."""
    logits = torch.tensor([float("-inf"), 0.0, 0.0, float("-inf")]).expand(2, 4)
    assert invert(cumulate(logits), torch.tensor([0.0, 1 - 2**-24])).tolist() == [1, 2]


def exact_pairs(policy: Policy, prompt: list[int], settings: Sampling) -> dict[tuple[int, ...], float]:
    """The probability of every response of two tokens, from plain forwards and Hugging Face's processors."""
    chances: dict[tuple[int, ...], float] = {}
    words = len(policy.tokenizer)
    with torch.no_grad():
        first = hugging_face_warp(settings, prompt, len(prompt), policy.model(torch.tensor([prompt])).logits[0, -1])
        for one, chance in enumerate(first.softmax(-1).tolist()):
            if one == policy.eos_id:
                chances[(one,)] = chance
                continue
            logits = policy.model(torch.tensor([[*prompt, one]])).logits[0, -1]
            second = hugging_face_warp(settings, [*prompt, one], len(prompt), logits).softmax(-1).tolist()
            chances.update({(one, two): chance * second[two] for two in range(words)})
    return chances


@pytest.mark.parametrize(
    "settings", [Sampling(max_new_tokens=2), Sampling(temperature=0.7, top_p=0.9, top_k=6, max_new_tokens=2)]
)
def test_sampled_frequencies_are_the_models_probabilities(speller: Policy, settings: Sampling) -> None:
    """A chi-square over every response of two tokens, 4,000 draws with consecutive seeds; none is impossible."""
    prompt, draws = [3, 2], 4000
    chances = exact_pairs(speller, prompt, settings)
    counts = dict.fromkeys(chances, 0)
    for tokens in responses(speller, [prompt] * draws, [settings] * draws):
        counts[tuple(tokens)] += 1
    assert all(chances[key] > 0 for key, count in counts.items() if count)
    common = [key for key, chance in chances.items() if chance * draws >= 5]
    rest = 1 - sum(chances[key] for key in common)
    observed = [counts[key] for key in common] + [draws - sum(counts[key] for key in common)] * (rest * draws > 5)
    expected = [chances[key] * draws for key in common] + [rest * draws] * (rest * draws > 5)
    scale = sum(observed) / sum(expected)
    assert len(common) > 8
    assert chisquare(observed, [value * scale for value in expected]).pvalue > 1e-3


MIXED = [
    Sampling(max_new_tokens=5),
    Sampling(temperature=0.8, top_k=20, max_new_tokens=30),
    Sampling(top_p=0.9, repetition_penalty=1.3, max_new_tokens=17),
    Sampling(temperature=0.0, max_new_tokens=9),
]


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_a_completion_depends_on_its_own_seed_and_settings_alone(name: str, request: pytest.FixtureRequest) -> None:
    """Alone, by twos, all at once, or in reverse order: the same texts, reasons and logprobs."""
    policy: Policy = request.getfixturevalue(name)
    prompts, sampling = PROMPTS * 2, [*MIXED, *MIXED[::-1]]
    seeds = [11, 2**62, 3, 11, 5, 6, 7, 8]
    whole = generate(policy, prompts, sampling, seeds)
    assert len({row.text for row in whole}) > 4
    backwards = generate(policy, prompts[::-1], sampling[::-1], seeds[::-1])[::-1]
    for other in (
        generate(policy, prompts, sampling, seeds, batch_size=1),
        generate(policy, prompts, sampling, seeds, batch_size=2),
        backwards,
    ):
        assert [row.text for row in other] == [row.text for row in whole]
        assert [row.finish_reason for row in other] == [row.finish_reason for row in whole]
        assert [row.logprob for row in other] == pytest.approx([row.logprob for row in whole], abs=2e-4)


def test_another_seed_gives_another_text(llama: Policy) -> None:
    """And the same seed the same one; the seed is recorded with it."""
    rows = generate(llama, [PROMPTS[0]] * 3, [MIXED[1]] * 3, [1, 2, 1])
    assert rows[0].text == rows[2].text != rows[1].text
    assert [row.seed for row in rows] == [1, 2, 1]


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_recorded_logprobs_equal_those_of_a_fresh_forward(name: str, request: pytest.FixtureRequest) -> None:
    """At the row's temperature, before any filter, though sampled with a key-value cache and with filters on."""
    policy: Policy = request.getfixturevalue(name)
    sampling = [Sampling(temperature=0.7, top_k=9, top_p=0.9, repetition_penalty=1.2, max_new_tokens=11)] * 4
    samples = sample(policy, ENCODED, sampling, [1, 2, 3, 4])
    rows = samples.responses()
    with torch.no_grad():
        fresh = response_logprobs(policy.model, make_batch(ENCODED, rows, response_width=11), temperature=0.7)
    width = samples.logprobs.shape[1]
    torch.testing.assert_close(samples.logprobs, fresh[:, :width], atol=2e-5, rtol=1e-5)
    assert fresh[:, width:].abs().sum() == 0.0


def finisher(policy: Policy, bias: float) -> Policy:
    """A policy whose every next-token distribution has `bias` added to EOS's logit."""
    weight = policy.model.get_output_embeddings().weight
    head = torch.nn.Linear(weight.shape[1], weight.shape[0])
    with torch.no_grad():
        head.weight.copy_(weight)
        head.bias.zero_()
        head.bias[policy.eos_id] = bias
    policy.model.lm_head = head
    return policy


def test_finish_reasons_and_lengths(speller: Policy, clone: Any) -> None:
    """Always EOS: one token, reason eos, no text. Never EOS: as many as allowed, reason length."""
    settings = [Sampling(max_new_tokens=4), Sampling(max_new_tokens=2)]
    for row in generate(finisher(clone(speller), 1e4), ["a", "b c"], settings, [0, 1]):
        assert (row.finish_reason, row.tokens, row.text) == ("eos", 1, "")
        assert row.logprob == pytest.approx(0.0, abs=1e-4)
    rows = generate(finisher(clone(speller), -1e4), ["a", "b c"], settings, [0, 1])
    assert [(row.finish_reason, row.tokens) for row in rows] == [("length", 4), ("length", 2)]


def test_eos_as_the_last_allowed_token_is_finished(speller: Policy, clone: Any) -> None:
    """EOS is banned for three tokens and certain afterwards: the fourth of four is EOS, and the reason eos."""
    settings = Sampling(min_new_tokens=3, max_new_tokens=4)
    row = generate(finisher(clone(speller), 1e4), ["a"], [settings], [0])[0]
    assert (row.finish_reason, row.tokens) == ("eos", 4)


def test_nothing_is_written_past_a_rows_own_limit(speller: Policy, clone: Any) -> None:
    """EOS is certain as a third token, but two are allowed: beside a row of five, the first still ends unfinished."""
    sampling = [Sampling(min_new_tokens=2, max_new_tokens=2), Sampling(min_new_tokens=4, max_new_tokens=5)]
    samples = sample(finisher(clone(speller), 1e4), [[3, 2], [4, 2]], sampling, [0, 1])
    assert samples.finished.tolist() == [False, True]
    assert samples.lengths.tolist() == [2, 5]
    assert samples.tokens[0, 2:].tolist() == [0, 0, 0]
    assert samples.logprobs[0, 2:].tolist() == [0.0, 0.0, 0.0]


def test_a_row_that_is_done_does_not_run_out_of_the_context(gpt2: Policy) -> None:
    """A prompt that fills the context but for 2 tokens may share its batch with a row that draws 50 more."""
    prompts, sampling = [[5] * 62, [6, 7]], [Sampling(max_new_tokens=2), Sampling(max_new_tokens=52)]
    together = sample(gpt2, prompts, sampling, [1, 2])
    alone = sample(gpt2, prompts[:1], sampling[:1], [1])
    assert together.tokens[0, :2].tolist() == alone.tokens[0].tolist()


def test_a_completion_that_would_not_fit_is_an_error(gpt2: Policy) -> None:
    """The context of 64 is named beside what is asked of it, before anything is drawn."""
    with pytest.raises(ValueError, match=r"take 65 tokens, but the model's context is 64; lower max_new_tokens"):
        sample(gpt2, [[5] * 60], [Sampling(max_new_tokens=5)], [0])
    with pytest.raises(ValueError, match="take 65 tokens"):
        beam_search(gpt2, [[5] * 60], [Sampling(num_beams=2, max_new_tokens=5)])


def test_one_setting_and_one_seed_are_needed_for_each_prompt(llama: Policy) -> None:
    """The three counts are named."""
    with pytest.raises(ValueError, match="found 2 prompts, 1 settings and 3 seeds"):
        generate(llama, PROMPTS[:2], [GREEDY], [1, 2, 3])


BEAMS = [
    {"num_beams": 3},
    {"num_beams": 4, "repetition_penalty": 1.5},
    {"num_beams": 2, "min_new_tokens": 5, "repetition_penalty": 1.2},
]


@pytest.mark.parametrize("name", ["llama", "gpt2", "speller"])
@pytest.mark.parametrize("settings", BEAMS)
def test_beam_search_equals_hugging_faces_without_padding(
    name: str, settings: dict[str, Any], request: pytest.FixtureRequest
) -> None:
    """Four prompts of unlike lengths in one batch give what each gives alone: the filler is not penalised."""
    policy: Policy = request.getfixturevalue(name)
    samples = beam_search(policy, ENCODED, [Sampling(max_new_tokens=8, **settings)] * 4)
    ours = samples.responses()
    assert ours == [hugging_face(policy, prompt, max_new_tokens=8, **settings) for prompt in ENCODED]
    with torch.no_grad():
        fresh = response_logprobs(policy.model, make_batch(ENCODED, ours))
    assert samples.logprobs.sum(1).tolist() == pytest.approx(fresh.sum(1).tolist(), abs=1e-4)


def test_a_beam_as_wide_as_the_vocabulary_finds_the_likeliest_response(speller: Policy) -> None:
    """Over all 49 responses of two tokens without EOS, the best by exhaustive count is the beam's."""
    prompt, words = [4, 2], range(len(speller.tokenizer))
    candidates = [list(pair) for pair in itertools.product(words, words) if speller.eos_id not in pair]
    with torch.no_grad():
        totals = response_logprobs(speller.model, make_batch([prompt] * len(candidates), candidates)).sum(1)
    settings = Sampling(num_beams=8, min_new_tokens=2, max_new_tokens=2)
    samples = beam_search(speller, [prompt], [settings])
    assert samples.tokens[0].tolist() == candidates[int(totals.argmax())]
    assert samples.logprobs.sum().item() == pytest.approx(totals.max().item(), abs=1e-5)


def test_beams_and_samples_share_a_call(llama: Policy) -> None:
    """Rows with beam search are searched, the others drawn, and all come back in the order of the prompts."""
    beams = Sampling(num_beams=2, max_new_tokens=6)
    sampling = [beams, MIXED[0], beams, MIXED[3]]
    rows = generate(llama, PROMPTS, sampling, [1, 2, 3, 4])
    assert [row.sampling for row in rows] == sampling
    for place in range(4):
        alone = generate(llama, [PROMPTS[place]], [sampling[place]], [place + 1])[0]
        assert alone.text == rows[place].text


def test_a_soft_prompt_is_no_part_of_what_was_said(llama: Policy, clone: Any) -> None:
    """Its ids lie past the vocabulary, so the repetition penalty counts the rest of the prompt alone."""
    policy = clone(llama)
    add_soft_prompt(policy.model, torch.randn(2, policy.hidden, generator=torch.Generator().manual_seed(0)))
    size = policy.model.config.vocab_size
    assert policy.soft_ids == [size, size + 1]
    settings = [Sampling(repetition_penalty=3.0, temperature=0.0, max_new_tokens=5)] * 2
    samples = sample(policy, [[size, size + 1, 5, 6], [size, size + 1, 9]], settings, [0, 1])
    assert int(samples.tokens.max()) < size


def test_a_policy_is_a_frozen_pair(llama: Policy) -> None:
    """Model and tokenizer cannot be swapped behind the sampler's back."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        llama.model = None  # type: ignore[misc, assignment]
