"""Generation explained: what is shown is what is sampled, and every stage is what its control makes of the last."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

from rlhf.adapters import attach
from rlhf.drawing.controls import as_controls, warp
from rlhf.drawing.inversion import cumulate, invert
from rlhf.explain import SamplerStage, explain_step, readable_token, trace
from rlhf.generation import sample
from rlhf.models import Policy
from rlhf.records import Sampling
from rlhf.settings.adapters import AdapterSettings

ALL = Sampling(
    temperature=0.7,
    top_k=6,
    top_p=0.9,
    min_p=0.02,
    repetition_penalty=1.3,
    min_new_tokens=2,
    max_new_tokens=6,
)
CPU = torch.device("cpu")
# They sum to 1, so that their logs are logits.
CHANCES = torch.tensor([0.40, 0.25, 0.15, 0.10, 0.06, 0.04])


def stages_of(sampling: Sampling, history: tuple[int, ...] = (5,), step: int = 0) -> list[SamplerStage]:
    """The stages over the six probabilities above; EOS is token 5."""
    return list(explain_step(CHANCES.log(), history, sampling, step, stop_ids=[5]))


@pytest.fixture
def tuned(llama: Policy, clone: Callable[[Policy], Policy]) -> Policy:
    """A llama with learnt embeddings before every prompt."""
    return attach(clone(llama), AdapterSettings(kind="prompt", prompt_tokens=3), seed=0)


def drawn(policy: Policy, prompt: list[int], sampling: Sampling, seed: int) -> list[int]:
    """What the sampler draws."""
    samples = sample(policy, [prompt], [sampling], [seed])
    return samples.tokens[0, : int(samples.lengths[0])].tolist()


def test_top_k_keeps_three_and_shares_their_mass_anew() -> None:
    """(.40, .25, .15, …) → (.5, .3125, .1875): .40/.80, .25/.80, .15/.80; .20 is cut."""
    raw, kept = stages_of(Sampling(top_k=3))
    assert (raw.control, kept.control) == ("raw", "top_k")
    assert raw.probabilities.tolist() == pytest.approx(CHANCES.tolist(), abs=1e-6)
    assert kept.probabilities.tolist() == pytest.approx([0.5, 0.3125, 0.1875, 0, 0, 0], abs=1e-6)
    assert (raw.cut, kept.cut) == (0.0, pytest.approx(0.20, abs=1e-6))
    expected = 0.5 * math.log(2) + 0.3125 * math.log(3.2) + 0.1875 * math.log(16 / 3)
    assert kept.entropy == pytest.approx(expected, abs=1e-6)
    assert raw.entropy == pytest.approx(-sum(p * math.log(p) for p in CHANCES.tolist()), abs=1e-6)


def test_each_filter_counts_the_mass_that_it_alone_cut() -> None:
    """Of the top 4, (.40, .25, .15, .10)/.90, top-p .8 keeps .80/.90 = .889; min-p .5 of .5 cuts .1875."""
    cuts = {row.control: row.cut for row in stages_of(Sampling(top_k=4, top_p=0.8, min_p=0.5))}
    assert cuts == {
        "raw": 0.0,
        "top_k": pytest.approx(0.10, abs=1e-6),
        "top_p": pytest.approx(0.10 / 0.90, abs=1e-6),
        "min_p": pytest.approx(0.15 / 0.80, abs=1e-6),
    }


def test_controls_that_move_mass_cut_none() -> None:
    """Temperature 1/2 squares the chances: .16 / Σp² = .16/.2602; a penalty of 2 squares (log p < 0) the seen one's."""
    _, warm = stages_of(Sampling(temperature=0.5))
    assert (warm.cut, float(warm.probabilities[0])) == (0.0, pytest.approx(0.16 / 0.2602, abs=1e-6))
    _, penalised = stages_of(Sampling(repetition_penalty=2.0), history=(0,))
    assert penalised.cut == 0.0
    assert float(penalised.probabilities[0]) == pytest.approx(0.16 / 0.76, abs=1e-6)
    assert float(penalised.probabilities[1]) == pytest.approx(0.25 / 0.76, abs=1e-6)


def test_before_the_minimum_length_eos_is_cut_and_afterwards_not() -> None:
    """At step 1 of a minimum of 2 its .04 go; at step 2 the distribution is the raw one."""
    _, early = stages_of(Sampling(min_new_tokens=2), history=(5, 0), step=1)
    raw, late = stages_of(Sampling(min_new_tokens=2), history=(5, 0, 1), step=2)
    assert (early.control, early.cut, float(early.probabilities[5])) == (
        "min_new_tokens",
        pytest.approx(0.04, abs=1e-6),
        0.0,
    )
    assert late.cut == 0.0
    assert torch.equal(late.probabilities, raw.probabilities)


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_the_last_stage_is_the_distribution_of_warp(name: str, request: pytest.FixtureRequest) -> None:
    """At every step, from the logits of a plain forward over the text so far: softmax(warp(…)) within 1e-6."""
    policy: Policy = request.getfixturevalue(name)
    prompt = policy.encode_prompt("name[Kestrel], food[Thai]")
    tokens = drawn(policy, prompt, ALL, seed=3)
    steps = trace(policy, prompt, tokens, ALL)
    assert len(steps) == len(tokens) > 1
    for step, stages in enumerate(steps):
        past = torch.tensor([prompt + tokens[:step]])
        with torch.no_grad():
            logits: Any = policy.model(past).logits[:, -1]
        mask = torch.ones_like(past, dtype=torch.bool)
        expected = warp(logits, as_controls([ALL], CPU), past, mask, step, policy.stop_ids).softmax(-1)[0]
        assert [row.control for row in stages] == [
            *("raw", "repetition_penalty", "min_new_tokens", "temperature", "top_k", "top_p", "min_p")
        ]
        torch.testing.assert_close(stages[0].probabilities, logits[0].softmax(-1), atol=1e-6, rtol=0)
        torch.testing.assert_close(stages[-1].probabilities, expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("sampling", [ALL, ALL.model_copy(update={"temperature": 0.0}), Sampling(max_new_tokens=6)])
@pytest.mark.parametrize("name", ["llama", "bart", "tuned"])
@pytest.mark.parametrize("seed", [0, 1])
def test_the_chosen_token_is_what_is_drawn_from_the_last_stage(
    name: str, sampling: Sampling, seed: int, request: pytest.FixtureRequest
) -> None:
    """Inverting the last stage's cumulative distribution at the seed's own uniform numbers gives the sampler's text."""
    policy: Policy = request.getfixturevalue(name)
    prompt = policy.encode_prompt("name[Kestrel]")
    tokens = drawn(policy, prompt, sampling, seed)
    uniform = torch.rand(sampling.max_new_tokens, generator=torch.Generator().manual_seed(seed))
    for token, chance, stages in zip(tokens, uniform, trace(policy, prompt, tokens, sampling), strict=False):
        last = stages[-1].probabilities
        at = last.argmax() if sampling.temperature == 0.0 else invert(cumulate(last.log()[None]), chance[None])
        assert int(at) == token
        assert last[token] > 0


def test_a_trace_counts_the_steps_of_the_continuation(llama: Policy) -> None:
    """A minimum of 2 bars EOS before the first and the second token, and not before the third."""
    steps = trace(llama, llama.encode_prompt("name[Kestrel]"), [5, 6, 7], Sampling(min_new_tokens=2))
    assert [float(stages[-1].probabilities[llama.eos_id]) > 0 for stages in steps] == [False, False, True]


def test_another_models_continuation_is_read_on_the_same_prefixes(llama: Policy, gpt2: Policy) -> None:
    """One stage list per token of what the other wrote, each its own model's raw distribution after that prefix."""
    prompt = llama.encode_prompt("name[Kestrel]")
    tokens = drawn(llama, prompt, ALL, seed=0)
    steps = trace(gpt2, prompt, tokens, Sampling())
    assert [len(stages) for stages in steps] == [1] * len(tokens)
    with torch.no_grad():
        logits: Any = gpt2.model(torch.tensor([prompt + tokens])).logits[0, len(prompt) - 1 : -1]
    torch.testing.assert_close(
        torch.stack([row[0].probabilities for row in steps]), logits.softmax(-1), atol=1e-6, rtol=0
    )


def test_controls_that_are_off_are_left_out() -> None:
    """None by default; at temperature 0 the temperature itself moves nothing."""
    assert [row.control for row in stages_of(Sampling())] == ["raw"]
    assert [row.control for row in stages_of(Sampling(temperature=0.0))] == ["raw"]
    assert [row.control for row in stages_of(Sampling(temperature=0.0, repetition_penalty=1.2))] == [
        "raw",
        "repetition_penalty",
    ]


def test_tokens_are_shown_readably(llama: Policy) -> None:
    """A space as ·, a line break as ⏎, EOS by its name, half a character as its piece, no token by its number."""
    encode = llama.tokenizer.encode
    assert readable_token(llama, encode("a", add_special_tokens=False)[0]) == "·a"
    assert readable_token(llama, encode("x\n", add_special_tokens=False)[-1]) == "⏎"
    assert readable_token(llama, llama.eos_id) == "<eos>"
    half = encode("é", add_special_tokens=False)[-1]
    assert readable_token(llama, half) == llama.tokenizer.convert_ids_to_tokens(half)
    assert readable_token(llama, len(llama.tokenizer) + 7) == f"#{len(llama.tokenizer) + 7}"


def test_a_sentencepiece_token_keeps_the_space_that_opens_it() -> None:
    """▁the is shown as ·the, though decoding the token alone drops the space."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.Unigram([("<eos>", 0.0), ("▁the", -1.0), ("re", -1.0)], unk_id=0))
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<eos>")
    policy = Policy(None, tokenizer)  # type: ignore[arg-type]
    assert tokenizer.decode([1]) == "the"
    assert [readable_token(policy, token) for token in range(3)] == ["<eos>", "·the", "re"]
