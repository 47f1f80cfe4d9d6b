"""Encoder–decoder policies: what the encoder reads, what the decoder writes, and that padding changes neither."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from rlhf.batches import encoder_inputs, make_batch, response_states
from rlhf.demonstrations import encode_demonstrations
from rlhf.evaluation.answers import greedy_answers, sequence_kl
from rlhf.generation import beam_search, generate, sample
from rlhf.heads import response_logits, response_logprobs
from rlhf.models import Policy, build_policy, load_policy, save_policy
from rlhf.ppo.critic import Critic
from rlhf.ppo.trainer import PpoTrainer
from rlhf.records import Demonstration, Message, Sampling
from rlhf.settings.model import ComputeSettings
from rlhf.settings.policy import KlSettings, PolicySettings
from rlhf.settings.sft import SftSettings
from rlhf.sft import train_sft

PROMPTS = ["name[Kestrel]", "name[Bellwether], kind[bistro], dish[tapas]", "kind[diner], price[fair]", "area[old]"]
ENCODED = [[3, 4, 5], [6], [7, 3, 3, 5, 6, 4], [5, 7]]
RESPONSES = [[9, 3], [4, 5, 0, 1], [8], [1]]
CPU = ComputeSettings(device="cpu")


@pytest.fixture(params=["t5", "bart"])
def policy(request: pytest.FixtureRequest) -> Policy:
    """Either family."""
    return request.getfixturevalue(request.param)


def hugging_face(policy: Policy, prompt: Sequence[int], **settings: Any) -> list[int]:
    """What `transformers` writes for one prompt on its own, without padding or the start token, up to and with EOS."""
    model: Any = policy.model
    input_ids = torch.tensor([list(prompt)])
    output = model.generate(input_ids=input_ids, attention_mask=torch.ones_like(input_ids), do_sample=False, **settings)
    tokens = output[0, 1:].tolist()
    return tokens[: tokens.index(policy.eos_id) + 1] if policy.eos_id in tokens else tokens


def cut(samples: Any) -> list[list[int]]:
    """Tokens up to each row's length."""
    return samples.responses()


def test_an_encoder_reads_prompts_that_are_padded_on_the_right() -> None:
    """The same tokens in the same order, moved to the first columns; a token of id 0 counts."""
    inputs = encoder_inputs(make_batch([[5, 0, 7], [8]], [[9], [3, 4]], prompt_width=4))
    assert inputs.input_ids.tolist() == [[5, 0, 7, 0], [8, 0, 0, 0]]
    assert inputs.attention_mask.tolist() == [[1, 1, 1, 0], [1, 0, 0, 0]]


def test_an_encoder_gets_what_its_tokenizer_frames(t5: Policy, bart: Policy) -> None:
    """EOS at the end for T5, a token on either side for BART, and no separator; messages are lines with their roles."""
    text = "name[Quill]"
    bare = t5.tokenizer.encode(text, add_special_tokens=False)
    sep = t5.tokenizer.convert_tokens_to_ids("<sep>")
    assert t5.encode_prompt(text) == [*bare, t5.eos_id]
    assert bart.encode_prompt(text) == [sep, *bare, bart.eos_id]
    messages = [Message(role="system", content="Be brief."), Message(role="user", content="Hi")]
    assert t5.encode_prompt(messages) == t5.encode_prompt("system: Be brief.\nuser: Hi")


@torch.no_grad()
def test_logits_are_those_of_a_plain_forward(policy: Policy) -> None:
    """Prompt into the encoder, start token and response into the decoder, row by row and without padding."""
    batch = make_batch(ENCODED, RESPONSES, prompt_width=9, response_width=6)
    logits = response_logits(policy.model, batch)
    start = policy.model.config.decoder_start_token_id
    for row, (prompt, response) in enumerate(zip(ENCODED, RESPONSES, strict=True)):
        written = torch.tensor([[start, *response[:-1]]])
        plain = policy.model(input_ids=torch.tensor([prompt]), decoder_input_ids=written).logits[0]
        torch.testing.assert_close(logits[row, : len(response)], plain, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_padding_changes_no_logprob(policy: Policy) -> None:
    """Alone or together, with 0 or 9 more columns left and right."""
    alone = [response_logprobs(policy.model, make_batch([p], [r]))[0] for p, r in zip(ENCODED, RESPONSES, strict=True)]
    for prompt_width, response_width in [(6, 4), (15, 4), (6, 13)]:
        batch = make_batch(ENCODED, RESPONSES, prompt_width=prompt_width, response_width=response_width)
        together = response_logprobs(policy.model, batch)
        for row, expected in enumerate(alone):
            torch.testing.assert_close(together[row, : len(expected)], expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("settings", [{}, {"repetition_penalty": 1.4}, {"min_new_tokens": 6}])
def test_greedy_text_equals_hugging_faces(policy: Policy, settings: dict[str, Any]) -> None:
    """Four prompts in one batch give what each gives there alone; the penalty counts what was written, alone."""
    greedy = Sampling(temperature=0.0, max_new_tokens=12, **settings)
    ours = cut(sample(policy, ENCODED, [greedy] * 4, range(4)))
    assert ours == [hugging_face(policy, prompt, max_new_tokens=12, **settings) for prompt in ENCODED]


def test_the_start_token_counts_as_written(bart: Policy, clone: Callable[[Policy], Policy]) -> None:
    """As in transformers: likely or not, it is penalised at every step, though the response does not hold it."""
    policy = clone(bart)
    start = policy.model.config.decoder_start_token_id
    policy.model.final_logits_bias[0, start] = policy.model.final_logits_bias.max() + 2.0
    sampling = [Sampling(temperature=0.0, max_new_tokens=8, repetition_penalty=penalty) for penalty in (1.0, 2.0)]
    plain, ours = (cut(sample(policy, ENCODED, [settings] * 4, range(4))) for settings in sampling)
    assert any(start in row for row in plain)
    assert ours == [hugging_face(policy, p, max_new_tokens=8, repetition_penalty=2.0) for p in ENCODED]


@pytest.mark.parametrize("settings", [{"num_beams": 3}, {"num_beams": 2, "repetition_penalty": 1.5}])
def test_beam_search_equals_hugging_faces(policy: Policy, settings: dict[str, Any]) -> None:
    """One batch gives what each prompt gives alone, with the logprobs of a fresh forward."""
    samples = beam_search(policy, ENCODED, [Sampling(max_new_tokens=8, **settings)] * 4)
    ours = cut(samples)
    assert ours == [hugging_face(policy, prompt, max_new_tokens=8, **settings) for prompt in ENCODED]
    with torch.no_grad():
        fresh = response_logprobs(policy.model, make_batch(ENCODED, ours))
    torch.testing.assert_close(samples.logprobs.sum(1), fresh.sum(1), atol=1e-4, rtol=1e-5)


def test_a_checkpoints_own_generation_settings_do_not_reach_the_beams(
    bart: Policy, clone: Callable[[Policy], Policy]
) -> None:
    """A summariser asks for EOS at the limit and for no trigram twice; the params alone say how to write here."""
    policy = clone(bart)
    policy.model.generation_config.update(forced_eos_token_id=policy.eos_id, no_repeat_ngram_size=2)
    settings = Sampling(max_new_tokens=6, num_beams=2, min_new_tokens=6)
    assert cut(beam_search(policy, ENCODED, [settings] * 4)) == cut(beam_search(bart, ENCODED, [settings] * 4))
    assert policy.model.generation_config.forced_eos_token_id == policy.eos_id


def test_the_same_seed_gives_the_same_text_whatever_the_batch(policy: Policy) -> None:
    """Alone, in pairs, all four together."""
    settings = [Sampling(max_new_tokens=9, top_p=0.9), Sampling(max_new_tokens=5)] * 2
    whole = generate(policy, PROMPTS, settings, [5, 6, 7, 8])
    for size in (1, 2):
        again = generate(policy, PROMPTS, settings, [5, 6, 7, 8], batch_size=size)
        assert [row.text for row in again] == [row.text for row in whole]
        assert [row.logprob for row in again] == pytest.approx([row.logprob for row in whole], abs=1e-4)


def test_recorded_logprobs_equal_those_of_a_fresh_forward(policy: Policy) -> None:
    """At the row's temperature, though drawn with a cache and with filters on."""
    samples = sample(policy, ENCODED, [Sampling(temperature=0.7, top_k=9, max_new_tokens=11)] * 4, range(4))
    with torch.no_grad():
        batch = make_batch(ENCODED, cut(samples), response_width=samples.tokens.shape[1])
        fresh = response_logprobs(policy.model, batch, temperature=0.7)
    torch.testing.assert_close(samples.logprobs, fresh, atol=1e-5, rtol=1e-5)


def test_prompt_and_completion_have_a_context_each(bart: Policy) -> None:
    """60 tokens and 60 tokens fit a context of 64; 65 of either do not."""
    sample(bart, [[5] * 60], [Sampling(max_new_tokens=60)], [0])
    for prompt, length in (([5] * 65, 2), ([5], 65)):
        with pytest.raises(ValueError, match=r"take 65 tokens, but the model's context is 64"):
            sample(bart, [prompt], [Sampling(max_new_tokens=length)], [0])


@torch.no_grad()
def test_a_value_is_read_off_the_decoders_states(policy: Policy) -> None:
    """The critic's head on the states of the policy's decoder, which its own backbone starts from."""
    critic = Critic(policy.model.base_model, policy.hidden)
    torch.nn.init.normal_(critic.head.weight, generator=torch.Generator().manual_seed(0))
    batch = make_batch(ENCODED, RESPONSES)
    expected = response_states(policy.model, batch) @ critic.head.weight[0]
    torch.testing.assert_close(critic(batch), torch.where(batch.response_mask, expected, 0.0), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_greedy_answers_and_the_kl_of_a_copy(policy: Policy, clone: Callable[[Policy], Policy]) -> None:
    """Answers are the decoder's text alone; a policy is at no distance from its copy."""
    answers = greedy_answers(policy, PROMPTS, 6, 4)
    assert answers == [policy.decode(hugging_face(policy, policy.encode_prompt(p), max_new_tokens=6)) for p in PROMPTS]
    assert sequence_kl(policy, clone(policy), PROMPTS, 6, seed=0, batch_size=4) == pytest.approx(0.0, abs=1e-5)


def test_sft_lowers_the_loss_and_what_is_saved_comes_back(
    policy: Policy, clone: Callable[[Policy], Policy], tmp_path: Path
) -> None:
    """Thirty steps on four demonstrations take a third off the loss; the saved model has the trained one's logprobs."""
    learner = clone(policy)
    rows = [Demonstration(id=text, prompt=text, response=f"{text} is good.") for text in PROMPTS]
    examples = encode_demonstrations(learner, rows, 40, 40)
    settings = SftSettings(steps=30, batch_size=4, learning_rate=1e-2)
    figures = list(train_sft(learner, examples, examples, settings))
    assert figures[-1]["eval_loss"] < figures[0]["loss"] * 2 / 3
    save_policy(learner, tmp_path)
    loaded, batch = load_policy(tmp_path, CPU), make_batch(ENCODED, RESPONSES)
    with torch.no_grad():
        assert torch.equal(response_logprobs(loaded.model, batch), response_logprobs(learner.model, batch))
    assert loaded.encode_prompt("a b") == learner.encode_prompt("a b")


class Length:
    """A scorer of our own: the more words, the better."""

    def score(self, prompts: Sequence[object], completions: Sequence[str], batch_size: int = 64) -> torch.Tensor:
        return torch.tensor([0.5 * len(text.split()) for text in completions])


def test_ppo_raises_the_reward(words: Any) -> None:
    """A T5 of eight words learns to write on in 12 iterations; it starts at no distance from its reference."""
    fields = {"model_type": "t5", "d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2}
    policy, reference = (build_policy(fields, words, seed=0) for _ in range(2))
    settings = PolicySettings(
        iterations=12,
        prompts_per_iteration=16,
        max_new_tokens=8,
        critic_warmup=1,
        learning_rate=1e-2,
        update_kl_ceiling=None,
        unfinished="reduce",
        unfinished_score=0.0,
        kl=KlSettings(coefficient=0.01),
    )
    critic = Critic(policy.model.base_model, policy.hidden)
    trainer = PpoTrainer(
        policy=policy,
        reference=reference,
        critic=critic,
        scorer=Length(),
        prompts=["a", "b c", "d", "e a b", "c", "b"],
        settings=settings,
    )
    figures = list(trainer.train())
    assert figures[0]["kl"] == pytest.approx(0.0, abs=1e-5)
    assert figures[-1]["reward_mean"] > figures[0]["reward_mean"] + 1.0


def test_a_t5_that_does_not_scale_comes_back_so(bpe: Any, tmp_path: Path) -> None:
    """T5 1.1 leaves the decoder's states as they are; a saved configuration must say so."""
    fields = {"model_type": "t5", "d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2}
    gated = {**fields, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}
    policy, batch = build_policy(gated, bpe, seed=0), make_batch(ENCODED, RESPONSES)
    save_policy(policy, tmp_path)
    assert not policy.model.config.scale_decoder_outputs
    with torch.no_grad():
        loaded = response_logprobs(load_policy(tmp_path, CPU).model, batch)
        torch.testing.assert_close(loaded, response_logprobs(policy.model, batch))
