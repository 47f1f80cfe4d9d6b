"""LoRA: only the adapter learns, the base is to be had bit for bit without a copy, and merged it is a plain model."""

from __future__ import annotations

import copy
import functools
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rlhf.adapters import attach, is_adapted, merge, trainable_parameters, without_adapter
from rlhf.batches import make_batch
from rlhf.generation import sample
from rlhf.heads import response_logprobs
from rlhf.models import Policy, load_policy, save_policy
from rlhf.policy.rollouts import Scorer
from rlhf.ppo.critic import Critic
from rlhf.ppo.trainer import PpoTrainer
from rlhf.records import Sampling
from rlhf.settings.adapters import AdapterSettings
from rlhf.settings.model import ComputeSettings
from rlhf.settings.policy import KlSettings, PolicySettings
from rlhf.settings.reward import RewardSettings
from rlhf.settings.sft import SftSettings
from rlhf.sft import train_sft

CPU = ComputeSettings(device="cpu")
LORA = AdapterSettings(rank=4, alpha=8.0)
NARROW = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
FAMILIES: dict[str, dict[str, Any]] = {
    "gpt2": {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 64},
    "llama": {**NARROW, "tie_word_embeddings": True},
    "qwen2": {**NARROW, "num_key_value_heads": 1},
    "gemma2": {**NARROW, "num_key_value_heads": 1, "head_dim": 8, "sliding_window": 4},
    "t5": {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2, "decoder_start_token_id": 0},
    "bart": {
        "d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2,
        "decoder_attention_heads": 2, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "max_position_embeddings": 64,
        "decoder_start_token_id": 0, "forced_eos_token_id": None,
    },
}  # fmt: skip
PROMPTS, RESPONSES = [[5, 6, 7, 8], [9, 10]], [[11, 12], [13, 14, 15]]


@functools.cache
def network(family: str, vocabulary: int) -> Any:
    """A tiny model of the family with random weights large enough to show errors."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM

    ids = {"vocab_size": vocabulary, "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 2}
    config = AutoConfig.for_model(family, **FAMILIES[family], **ids)
    torch.manual_seed(0)
    kind = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    model = kind.from_config(config).eval()
    for name, weight in model.named_parameters():
        if weight.ndim == 2 and "embed" not in name and "shared" not in name:
            nn.init.normal_(weight, std=0.2)
    return model


@pytest.fixture(params=list(FAMILIES))
def policy(request: pytest.FixtureRequest, bpe: Any) -> Policy:
    """A policy of each family, to be changed at will."""
    return Policy(copy.deepcopy(network(request.param, len(bpe))), bpe)


def logits(model: nn.Module) -> Tensor:
    """What the model says of two rows; an encoder–decoder reads the prompts and writes the responses."""
    batch = make_batch(PROMPTS, RESPONSES)
    mask = batch.attention_mask.long()
    with torch.no_grad():
        if model.config.is_encoder_decoder:
            width = len(batch.input_ids[0]) - len(batch.response_ids[0])
            prompts = {"input_ids": batch.input_ids[:, :width], "attention_mask": mask[:, :width]}
            return model(**prompts, decoder_input_ids=batch.response_ids).logits
        return model(input_ids=batch.input_ids, attention_mask=mask, position_ids=batch.position_ids).logits


def disturb(policy: Policy) -> None:
    """Moves every weight that may learn, as training would."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for weight in trainable_parameters(policy):
            weight.add_(0.2 * torch.randn(weight.shape, generator=generator))


def test_only_the_adapter_requires_a_gradient(llama: Policy, clone: Callable[[Policy], Policy]) -> None:
    """Rank 4 on a layer of the shape out × in has 4·(out + in) weights, and the model's own are all frozen.

    By hand, with hidden width 16 and inner width 32, a llama's block has 4 layers of 16 × 16 and 3 between 16 and 32:
    4·(4·32 + 3·48) = 1088; two blocks have 2176.
    """
    adapted = attach(clone(llama), LORA, seed=0)
    names = {name for name, weight in adapted.model.named_parameters() if weight.requires_grad}
    assert all(".lora_" in name for name in names)
    assert len(names) == 2 * 7 * 2
    assert sum(weight.numel() for weight in trainable_parameters(adapted)) == 2176
    total = sum(weight.numel() for weight in llama.model.parameters())
    assert sum(weight.numel() for weight in adapted.model.parameters()) == total + 2176


def test_an_adapter_changes_nothing_at_the_start(policy: Policy) -> None:
    """B is 0: the logits of every family are the base's, bit for bit, dropout stays off, and nobody is warned."""
    before = logits(policy.model)
    assert not is_adapted(policy)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        adapted = attach(policy, LORA.model_copy(update={"dropout": 0.5}), seed=0)
    assert is_adapted(adapted)
    assert torch.equal(logits(adapted.model), before)
    assert not any(module.training for module in adapted.model.modules())


def test_without_the_adapter_the_base_computes(policy: Policy) -> None:
    """After training, its logits are the base's bit for bit; afterwards the adapter is there again."""
    before = logits(policy.model)
    adapted = attach(policy, LORA, seed=0)
    disturb(adapted)
    moved = logits(adapted.model)
    assert (moved - before).abs().max() > 1e-2
    with without_adapter(adapted):
        assert torch.equal(logits(adapted.model), before)
    assert torch.equal(logits(adapted.model), moved)


def test_merged_weights_compute_what_the_adapter_did(policy: Policy, tmp_path: Path) -> None:
    """In every family merging, saving and loading keep the logits; the folder is an ordinary model's."""
    names = set(policy.model.state_dict())
    adapted = attach(policy, LORA, seed=0)
    disturb(adapted)
    moved = logits(adapted.model)
    merged = merge(adapted)
    assert not is_adapted(merged)
    assert set(merged.model.state_dict()) == names
    assert all(weight.requires_grad for weight in merged.model.parameters())
    torch.testing.assert_close(logits(merged.model), moved, atol=1e-5, rtol=0)
    save_policy(merged, tmp_path)
    torch.testing.assert_close(logits(load_policy(tmp_path, CPU).model), moved, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_the_update_is_scaled_b_times_a(
    name: str, request: pytest.FixtureRequest, clone: Callable[[Policy], Policy]
) -> None:
    """Each merged weight is W + (alpha / rank)·B·A with alpha 8 and rank 4; GPT-2's layers hold the transpose."""
    adapted = attach(clone(request.getfixturevalue(name)), LORA, seed=0)
    disturb(adapted)
    weights = {key: weight.detach().clone() for key, weight in adapted.model.named_parameters()}
    merged = dict(merge(adapted).model.named_parameters())
    checked = 0
    for key, weight in weights.items():
        if not key.endswith("base_layer.weight"):
            continue
        layer = key.removesuffix(".base_layer.weight")
        a, b = (weights[f"{layer}.lora_{side}.policy.weight"] for side in "AB")
        update = torch.tensor([[sum(b[i, k] * a[k, j] for k in range(4)) for j in range(3)] for i in range(3)])
        found = merged[f"{layer}.weight"].detach() - weight
        found = found.T if name == "gpt2" else found
        torch.testing.assert_close(found[:3, :3], 8.0 / 4.0 * update, atol=1e-5, rtol=0)
        checked += 1
    assert checked == {"gpt2": 8, "llama": 14}[name]


def test_training_moves_the_adapter_alone(llama: Policy, clone: Callable[[Policy], Policy]) -> None:
    """SFT steps lower the loss, and every weight of the base stays what it was, bit for bit."""
    adapted = attach(clone(llama), LORA, seed=0)
    before = [weight.detach().clone() for weight in trainable_parameters(adapted)]
    examples = [(prompt, response) for prompt, response in zip(PROMPTS, RESPONSES, strict=True)]
    settings = SftSettings(steps=30, batch_size=2, learning_rate=2e-2, eval_every=30)
    rows = list(train_sft(adapted, examples, examples, settings))
    assert rows[-1]["loss"] < rows[0]["loss"] - 1.0
    assert not any(map(torch.equal, before, trainable_parameters(adapted)))
    own = {name.replace(".base_layer", ""): weight for name, weight in adapted.model.named_parameters()}
    assert all(torch.equal(own[name], weight) for name, weight in llama.model.named_parameters())


def test_the_base_is_no_second_copy(llama: Policy, clone: Callable[[Policy], Policy]) -> None:
    """With the adapter off the very same tensors compute, and nothing was put beside them."""
    adapted = attach(clone(llama), LORA, seed=0)
    before = {weight.data_ptr() for weight in adapted.model.parameters()}
    with without_adapter(adapted):
        assert {weight.data_ptr() for weight in adapted.model.parameters()} == before
    assert {weight.data_ptr() for weight in adapted.model.parameters()} == before


def test_an_error_inside_leaves_the_adapter_on(llama: Policy, clone: Callable[[Policy], Policy]) -> None:
    """Whatever passes through, afterwards the adapter computes, and the same weights require gradients."""
    adapted = attach(clone(llama), LORA, seed=0)
    disturb(adapted)
    trainable_parameters(adapted)[0].requires_grad_(False)
    moved, flags = logits(adapted.model), [weight.requires_grad for weight in adapted.model.parameters()]
    with pytest.raises(KeyboardInterrupt), without_adapter(adapted):
        raise KeyboardInterrupt
    assert torch.equal(logits(adapted.model), moved)
    assert [weight.requires_grad for weight in adapted.model.parameters()] == flags


def test_dropout_acts_in_training_alone(llama: Policy, clone: Callable[[Policy], Policy]) -> None:
    """In training mode two forwards differ, in evaluation mode they are one, and so they are once it is merged."""
    adapted = attach(clone(llama), LORA.model_copy(update={"dropout": 0.5}), seed=0)
    disturb(adapted)
    adapted.model.train()
    assert not torch.equal(logits(adapted.model), logits(adapted.model))
    adapted.model.eval()
    assert torch.equal(logits(adapted.model), logits(adapted.model))
    model = merge(adapted).model.train()
    assert torch.equal(logits(model), logits(model))


@pytest.mark.parametrize(
    ("targets", "layers"),
    [
        (
            ["q_proj", "v_proj"],
            ["0.self_attn.q_proj", "0.self_attn.v_proj", "1.self_attn.q_proj", "1.self_attn.v_proj"],
        ),
        (["1.mlp.down_proj"], ["1.mlp.down_proj"]),
    ],
)
def test_targets_choose_the_layers(
    targets: list[str], layers: list[str], llama: Policy, clone: Callable[[Policy], Policy]
) -> None:
    """By name in every block, or by path in one."""
    adapted = attach(clone(llama), LORA.model_copy(update={"targets": targets}), seed=0)
    names = {name for name, weight in adapted.model.named_parameters() if weight.requires_grad}
    assert names == {f"model.layers.{layer}.lora_{side}.policy.weight" for layer in layers for side in "AB"}


def test_a_target_is_no_part_of_a_name(bpe: Any) -> None:
    """T5 has a layer `o` in its attention and `wo` beside it: the target `o` means the first alone."""
    adapted = attach(Policy(copy.deepcopy(network("t5", len(bpe))), bpe), LORA.model_copy(update={"targets": ["o"]}), 0)
    names = {name.partition(".lora_")[0] for name, weight in adapted.model.named_parameters() if weight.requires_grad}
    assert {name.rpartition(".")[2] for name in names} == {"o"}
    assert len(names) == 2 + 2 * 2


@pytest.mark.parametrize("target", ["query", "proj", "lm_head", "embed_tokens", "norm"])
def test_a_target_that_is_no_linear_layer_is_an_error(
    target: str, llama: Policy, clone: Callable[[Policy], Policy]
) -> None:
    """It lists what there is: neither a part of a name, nor the head, nor a layer of another kind."""
    known = "down_proj, gate_proj, k_proj, o_proj, q_proj, up_proj, v_proj"
    with pytest.raises(ValueError, match=f"targets names {target}, which no linear layer is called; there are {known}"):
        attach(clone(llama), LORA.model_copy(update={"targets": ["q_proj", target]}), seed=0)


def test_an_unmerged_policy_is_not_saved(llama: Policy, clone: Callable[[Policy], Policy], tmp_path: Path) -> None:
    """Its files would load as a base with random layers; the error says what to do, and nothing is written."""
    with pytest.raises(ValueError, match="not merged; give save_policy what merge returns"):
        save_policy(attach(clone(llama), LORA, seed=0), tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_there_is_one_adapter_or_none(llama: Policy, clone: Callable[[Policy], Policy]) -> None:
    """A second one is refused, and so is what needs one where there is none."""
    with pytest.raises(ValueError, match="no LoRA adapter to merge"):
        merge(llama)
    with pytest.raises(ValueError, match="no LoRA adapter to switch off"), without_adapter(llama):
        pass
    adapted = attach(clone(llama), LORA, seed=0)
    with pytest.raises(ValueError, match="has an adapter already; merge it before"):
        attach(adapted, LORA, seed=0)
    assert is_adapted(attach(merge(adapted), LORA, seed=0))


def test_the_seed_decides_the_start(llama: Policy, clone: Callable[[Policy], Policy]) -> None:
    """The same seed gives the same adapter, whatever was drawn before; another seed another one."""
    one, same, other = (attach(clone(llama), LORA, seed) for seed in (3, 3, 4))
    pairs = list(zip(trainable_parameters(one), trainable_parameters(same), trainable_parameters(other), strict=True))
    assert all(torch.equal(a, b) for a, b, _ in pairs)
    assert not all(torch.equal(a, c) for a, _, c in pairs)


def test_an_adapter_learns_in_float32_beside_half_precision(llama: Policy, clone: Callable[[Policy], Policy]) -> None:
    """The frozen weights stay bfloat16, and so does what the model computes."""
    small = clone(llama)
    small.model.bfloat16()
    adapted = attach(small, LORA, seed=0)
    assert {weight.dtype for weight in trainable_parameters(adapted)} == {torch.float32}
    assert {weight.dtype for weight in adapted.model.parameters() if not weight.requires_grad} == {torch.bfloat16}
    assert logits(adapted.model).dtype == torch.bfloat16
    assert {weight.dtype for weight in merge(adapted).model.parameters()} == {torch.bfloat16}


def test_an_adapted_policy_samples_what_it_scores(llama: Policy, clone: Callable[[Policy], Policy]) -> None:
    """The sampler's logprobs are a fresh forward's, and the merged policy writes the same."""
    adapted = attach(clone(llama), LORA, seed=0)
    disturb(adapted)
    sampling = [Sampling(max_new_tokens=8)] * 2
    drawn = sample(adapted, PROMPTS, sampling, [1, 2])
    responses = drawn.responses()
    with torch.no_grad():
        scored = response_logprobs(adapted.model, make_batch(PROMPTS, responses))
    torch.testing.assert_close(drawn.logprobs[:, : scored.shape[1]], scored, atol=1e-5, rtol=0)
    assert torch.equal(sample(merge(adapted), PROMPTS, sampling, [1, 2]).tokens, drawn.tokens)


def test_prompt_tuning_is_for_sft_alone() -> None:
    """PPO and the reward model say so before anything starts; their LoRA is fine."""
    prompt = AdapterSettings(kind="prompt")
    assert SftSettings(steps=1, batch_size=1, learning_rate=1e-3, adapter=prompt).adapter == prompt
    assert PolicySettings(iterations=1, prompts_per_iteration=1, adapter=LORA).adapter == LORA
    with pytest.raises(ValueError, match="kind prompt is for sft alone; give kind: lora"):
        PolicySettings(iterations=1, prompts_per_iteration=1, adapter=prompt)
    with pytest.raises(ValueError, match="kind prompt is for sft alone; give kind: lora"):
        RewardSettings(steps=1, batch_size=1, learning_rate=1e-3, adapter=prompt)


def test_ppo_learns_with_one_copy_of_the_model(
    speller: Policy, clone: Callable[[Policy], Policy], wordiness: Scorer
) -> None:
    """Without a reference of its own it raises the reward, and its KL is to the start, whose weights never move.

    The checkpoint holds the adapter alone, and the merged policy says what the trained one said.
    """
    adapted = attach(clone(speller), LORA, seed=0)
    settings = PolicySettings(
        iterations=20,
        prompts_per_iteration=48,
        max_new_tokens=6,
        minibatches=2,
        critic_warmup=0,
        learning_rate=2e-2,
        kl=KlSettings(coefficient=0.02),
    )
    critic = Critic(speller.model.base_model, speller.hidden)
    trainer = PpoTrainer(
        policy=adapted,
        reference=None,
        critic=critic,
        scorer=wordiness,
        prompts=["a", "b c", "d", "e a b", "c", "b"] * 8,
        settings=settings,
    )
    rows = list(trainer.train())
    assert rows[0]["kl"] == pytest.approx(0.0, abs=1e-5)
    assert rows[-1]["reward_mean"] > rows[0]["reward_mean"] + 1.0
    own = {name.replace(".base_layer", ""): weight for name, weight in adapted.model.named_parameters()}
    assert all(torch.equal(own[name], weight) for name, weight in speller.model.named_parameters())
    assert [weight.shape for weight in trainer.state_dict()["policy"]] == [
        weight.shape for weight in trainable_parameters(adapted)
    ]
    batch = make_batch([[3, 2], [4, 5, 2]], [[5, 6, 1], [3, 1]])
    with torch.no_grad():
        trained, start = (response_logprobs(policy.model, batch) for policy in (adapted, speller))
        torch.testing.assert_close(trainer.networks.log_ratio(batch), trained - start, atol=1e-6, rtol=0)
        assert (trained - start).abs().max() > 0.1
        torch.testing.assert_close(response_logprobs(merge(adapted).model, batch), trained, atol=1e-5, rtol=0)
