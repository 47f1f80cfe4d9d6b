"""Prompt tuning: a few embeddings learn, stand before every prompt, and can never be written."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from rlhf.adapters import attach, is_adapted, merge, trainable_parameters, without_adapter
from rlhf.batches import make_batch
from rlhf.demonstrations import evaluate_loss
from rlhf.generation import generate, sample
from rlhf.heads import response_logits, response_logprobs
from rlhf.models import Policy, build_policy, load_policy, save_policy
from rlhf.records import Sampling
from rlhf.settings.adapters import AdapterSettings
from rlhf.settings.model import ComputeSettings
from rlhf.settings.sft import SftSettings
from rlhf.sft import train_sft
from rlhf.soft_prompt import draw_start, soft_prompt

CPU = ComputeSettings(device="cpu")
PROMPT = AdapterSettings(kind="prompt", prompt_tokens=3)
GEMMA: dict[str, Any] = {
    "model_type": "gemma2",  # scales its embeddings
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "initializer_range": 0.3,
}
T5 = {"model_type": "t5", "d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2}
BART = {
    "model_type": "bart", "d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2,
    "decoder_attention_heads": 2, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "max_position_embeddings": 64,
}  # fmt: skip
PROMPTS = ["food = Thai", "name = Blue House, food = Thai"]
RESPONSES = [[11, 12], [13, 14, 15]]


@pytest.fixture(params=["llama", "gpt2", "gemma2"])
def tuned(request: pytest.FixtureRequest, bpe: Any, clone: Callable[[Policy], Policy]) -> Policy:
    """A policy of some family with a soft prompt of 3."""
    if request.param == "gemma2":
        return attach(build_policy(GEMMA, bpe, seed=3), PROMPT, seed=0)
    return attach(clone(request.getfixturevalue(request.param)), PROMPT, seed=0)


def test_the_learnt_tokens_stand_before_every_prompt(llama: Policy, clone: Callable[[Policy], Policy]) -> None:
    """They have the ids past the vocabulary; the prompt itself and responses stay what they were."""
    tuned = attach(clone(llama), PROMPT, seed=0)
    size = len(llama.tokenizer)
    assert llama.soft_ids == []
    assert tuned.soft_ids == [size, size + 1, size + 2]
    assert tuned.encode_prompt("food = Thai") == tuned.soft_ids + llama.encode_prompt("food = Thai")
    assert tuned.encode_response("Thai.", 8) == llama.encode_response("Thai.", 8)


def test_they_are_embeddings_before_the_prompts_own(tuned: Policy) -> None:
    """The logits are those of a model that is handed the embeddings, and there are V of them."""
    prompts = [tuned.encode_prompt(prompt) for prompt in PROMPTS]
    prompt = soft_prompt(tuned.model)
    assert prompt is not None
    responses = [[11, 12], [prompt.embedding.num_embeddings - 1, 13, 14]]
    found = response_logits(tuned.model, make_batch(prompts, responses))
    assert found.shape[2] == prompt.embedding.num_embeddings
    for row, response in enumerate(responses):
        own = prompt.embedding(torch.tensor([prompts[row][3:] + response]))
        output = tuned.model(inputs_embeds=torch.cat([prompt.table[None], own], dim=1))
        expected = output.logits[0, len(prompts[row]) - 1 : -1]
        torch.testing.assert_close(found[row, : len(response)], expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("config", [T5, BART])
def test_an_encoder_reads_them_too(config: dict[str, Any], bpe: Any, tmp_path: Path) -> None:
    """Its prompt begins with them and what it writes depends on them; saved and loaded, it says the same."""
    tuned = attach(build_policy(config, bpe, seed=4), PROMPT, seed=0)
    prompts = [tuned.encode_prompt(prompt) for prompt in PROMPTS]
    assert [prompt[:3] for prompt in prompts] == [tuned.soft_ids] * 2
    before = response_logprobs(tuned.model, make_batch(prompts, RESPONSES))
    before.sum().backward()
    [table] = trainable_parameters(tuned)
    assert table.grad is not None
    assert table.grad.abs().max() > 0
    save_policy(tuned, tmp_path)
    loaded = load_policy(tmp_path, CPU)
    torch.testing.assert_close(
        response_logprobs(loaded.model, make_batch(prompts, RESPONSES)), before, atol=1e-6, rtol=0
    )


def test_only_they_learn(tuned: Policy) -> None:
    """SFT steps lower the loss; 3 rows of 16 require a gradient, and the model's own weights stay bit for bit."""
    assert [weight.shape for weight in trainable_parameters(tuned)] == [(3, 16)]
    before = copy.deepcopy(tuned.model.state_dict())
    prompts = [tuned.encode_prompt(prompt) for prompt in PROMPTS]
    examples = list(zip(prompts, RESPONSES, strict=True))
    settings = SftSettings(steps=30, batch_size=2, learning_rate=5e-2, eval_every=30)
    loss = evaluate_loss(tuned, examples)  # without the dropout that the steps have
    rows = list(train_sft(tuned, examples, examples, settings))
    assert rows[-1]["eval_loss"] < loss - 0.3
    changed = {name for name, weight in tuned.model.state_dict().items() if not torch.equal(weight, before[name])}
    assert [name.rpartition(".")[2] for name in changed] == ["table"]


def test_they_start_as_common_tokens(llama: Policy) -> None:
    """Each is the embedding of a token that is not special; the draw depends on its generator alone."""
    first, again, other = (
        draw_start(llama.model, 40, [0, 1, 2], torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    own = llama.model.get_input_embeddings().weight
    drawn = {int((own == row).all(1).nonzero()) for row in first}
    assert not drawn & {0, 1, 2}
    assert len(drawn) > 30


def test_they_learn_in_float32_beside_half_precision(llama: Policy, clone: Callable[[Policy], Policy]) -> None:
    """The frozen weights stay bfloat16, and so does what the model computes."""
    small = clone(llama)
    small.model.bfloat16()
    tuned = attach(small, PROMPT, seed=0)
    assert {weight.dtype for weight in trainable_parameters(tuned)} == {torch.float32}
    prompts = [tuned.encode_prompt(prompt) for prompt in PROMPTS]
    assert response_logits(tuned.model, make_batch(prompts, RESPONSES)).dtype == torch.bfloat16


def test_padding_changes_nothing(tuned: Policy) -> None:
    """Logprobs and texts are the same in a batch with longer prompts as alone."""
    prompts = [tuned.encode_prompt(prompt) for prompt in PROMPTS]
    alone = response_logprobs(tuned.model, make_batch(prompts[:1], RESPONSES[:1]))
    wide = response_logprobs(tuned.model, make_batch(prompts, RESPONSES))[:1, :2]
    torch.testing.assert_close(alone, wide, atol=1e-5, rtol=0)
    sampling = Sampling(max_new_tokens=8)
    together = generate(tuned, PROMPTS, [sampling] * 2, [1, 2])
    apart = [generate(tuned, [PROMPTS[row]], [sampling], [row + 1])[0] for row in range(2)]
    assert [row.text for row in together] == [row.text for row in apart]
    assert [row.logprob for row in together] == pytest.approx([row.logprob for row in apart], abs=2e-4)


def test_the_sampler_scores_what_it_draws(tuned: Policy) -> None:
    """With the cache its logprobs are a fresh forward's, and no learnt token is ever drawn."""
    prompts = [tuned.encode_prompt(prompt) for prompt in PROMPTS]
    drawn = sample(tuned, prompts, [Sampling(max_new_tokens=12)] * 2, [1, 2])
    assert int(drawn.tokens.max()) < tuned.soft_ids[0]
    responses = drawn.responses()
    with torch.no_grad():
        scored = response_logprobs(tuned.model, make_batch(prompts, responses))
    torch.testing.assert_close(drawn.logprobs[:, : scored.shape[1]], scored, atol=1e-5, rtol=0)


@pytest.mark.parametrize("num_beams", [1, 2])
def test_a_repetition_penalty_passes_them_by(num_beams: int, tuned: Policy) -> None:
    """What was seen is counted over the vocabulary, which they are not in."""
    sampling = Sampling(temperature=0.0, repetition_penalty=1.3, max_new_tokens=6, num_beams=num_beams)
    [completion] = generate(tuned, PROMPTS[:1], [sampling], [0])
    assert completion.tokens > 0


def test_a_saved_policy_has_them_again(tuned: Policy, tmp_path: Path) -> None:
    """The same ids and the same logits; transformers alone finds an ordinary model in the folder, the base."""
    from transformers import AutoModelForCausalLM

    with torch.no_grad():
        trainable_parameters(tuned)[0].add_(1.0)
    prompts = [tuned.encode_prompt(prompt) for prompt in PROMPTS]
    before = response_logits(tuned.model, make_batch(prompts, RESPONSES))
    save_policy(tuned, tmp_path)
    assert tuned.encode_prompt(PROMPTS[0]) == prompts[0]
    loaded = load_policy(tmp_path, CPU)
    assert [loaded.encode_prompt(prompt) for prompt in PROMPTS] == prompts
    torch.testing.assert_close(response_logits(loaded.model, make_batch(prompts, RESPONSES)), before, atol=1e-6, rtol=0)
    plain = AutoModelForCausalLM.from_pretrained(tmp_path)
    prompt = soft_prompt(tuned.model)
    assert prompt is not None
    embedding: Any = plain.get_input_embeddings()
    assert torch.equal(embedding.weight, prompt.embedding.weight)


def test_a_policy_without_them_leaves_none_behind(
    llama: Policy, clone: Callable[[Policy], Policy], tmp_path: Path
) -> None:
    """Saved over one that had some, it is loaded as the plain policy that it is."""
    save_policy(attach(clone(llama), PROMPT, seed=0), tmp_path)
    save_policy(llama, tmp_path)
    assert load_policy(tmp_path, CPU).soft_ids == []


def test_there_is_one_soft_prompt_or_none(tuned: Policy) -> None:
    """A second one would need ids that the first one has."""
    with pytest.raises(ValueError, match="has a soft prompt already; start from the model that it was learnt for"):
        attach(tuned, PROMPT, seed=0)


def test_lora_learns_beside_them(tuned: Policy, tmp_path: Path) -> None:
    """PPO's adapter on a prompt-tuned SFT model: the reference keeps the prompt, and so does the merged policy."""
    batch = make_batch([tuned.encode_prompt(prompt) for prompt in PROMPTS], RESPONSES)
    before = response_logits(tuned.model, batch)
    adapted = attach(tuned, AdapterSettings(rank=2), seed=0)
    assert all(".lora_" in name for name, weight in adapted.model.named_parameters() if weight.requires_grad)
    with torch.no_grad():
        for weight in trainable_parameters(adapted):
            weight.add_(0.05)
    moved = response_logits(adapted.model, batch)
    assert not torch.equal(moved, before)
    with without_adapter(adapted):
        assert torch.equal(response_logits(adapted.model, batch), before)
    save_policy(merge(adapted), tmp_path)
    loaded = load_policy(tmp_path, CPU)
    assert loaded.soft_ids == adapted.soft_ids
    assert not is_adapted(loaded)
    torch.testing.assert_close(response_logits(loaded.model, batch), moved, atol=1e-5, rtol=0)
