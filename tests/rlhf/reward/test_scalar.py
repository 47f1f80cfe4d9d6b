"""The scalar reward model: its equation term by term, from a plain forward without padding."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from rlhf.adapters import attach, merge
from rlhf.models import Policy, build_policy
from rlhf.records import Pair
from rlhf.reward import RewardModel, load_reward_model
from rlhf.reward.scalar import ScalarReward
from rlhf.reward.training import group_pairs, train_reward
from rlhf.settings.adapters import AdapterSettings
from rlhf.settings.model import ComputeSettings
from rlhf.settings.reward import RewardSettings

PROMPTS = ["name[Quill]", "name[Kestrel], kind[diner]", "kind[tavern]"]
COMPLETIONS = ["Quill is a diner.", "Kestrel", ""]
ENCODER_DECODERS: dict[str, dict[str, Any]] = {
    "t5": {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_decoder_layers": 1, "num_heads": 2},
    "bart": {
        "d_model": 16,
        "encoder_layers": 1,
        "decoder_layers": 1,
        "encoder_attention_heads": 2,
        "decoder_attention_heads": 2,
        "encoder_ffn_dim": 32,
        "decoder_ffn_dim": 32,
        "max_position_embeddings": 64,
        "init_std": 0.3,
    },
}


def by_hand(network: ScalarReward, prompt: str, completion: str) -> torch.Tensor:
    """w·h_last + a·Σ log p + b·mean log p of one completion with its EOS."""
    ids = network.policy.encode_prompt(prompt)
    response = network.policy.encode_response(completion, network.max_completion_tokens)
    output = network.backbone(torch.tensor([ids + response]), output_hidden_states=True)
    score = network.head(output.hidden_states[-1][0, -1])[0]
    logprobs = output.logits[0, len(ids) - 1 : -1].log_softmax(-1)[range(len(response)), response]
    total, mean = network.likelihood_weights
    return score + total * logprobs.sum() + mean * logprobs.mean()


@torch.no_grad()
def test_the_score_is_the_equation_term_by_term(scalar: ScalarReward) -> None:
    """Three rows padded on both sides, one of them EOS alone, with weights that tell the terms apart."""
    scalar.likelihood_weights.copy_(torch.tensor([0.3, -2.0]))
    scalar.head.bias.fill_(0.7)
    scores = scalar(scalar.encode(PROMPTS, COMPLETIONS))
    for score, prompt, completion in zip(scores, PROMPTS, COMPLETIONS, strict=True):
        torch.testing.assert_close(score, by_hand(scalar, prompt, completion), atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("kind", ENCODER_DECODERS)
@torch.no_grad()
def test_the_score_on_an_encoder_decoder_is_the_same_equation(bpe: Any, kind: str) -> None:
    """The prompt is read by the encoder; h_last is the decoder's state after the completion's last token."""
    policy = build_policy({"model_type": kind, **ENCODER_DECODERS[kind]}, bpe, seed=0)
    torch.manual_seed(0)
    network = ScalarReward(policy, loglikelihood=True, max_completion_tokens=40).eval()
    network.likelihood_weights.copy_(torch.tensor([0.3, -2.0]))
    scores = network(network.encode(PROMPTS, COMPLETIONS))
    for score, prompt, completion in zip(scores, PROMPTS, COMPLETIONS, strict=True):
        ids, response = policy.encode_prompt(prompt), policy.encode_response(completion, 40)
        decoded = torch.tensor([[policy.model.config.decoder_start_token_id, *response]])
        output = policy.model(torch.tensor([ids]), decoder_input_ids=decoded, output_hidden_states=True)
        logprobs = output.logits[0, :-1].log_softmax(-1)[range(len(response)), response]
        expected = (
            network.head(output.decoder_hidden_states[-1][0, -1])[0] + 0.3 * logprobs.sum() - 2.0 * logprobs.mean()
        )
        torch.testing.assert_close(score, expected, atol=1e-4, rtol=1e-5)


@torch.no_grad()
def test_without_the_feature_the_head_alone_scores(llama: Policy, clone: Callable[[Policy], Policy]) -> None:
    """a = b = 0, and neither weight is trained."""
    torch.manual_seed(0)
    network = ScalarReward(clone(llama), loglikelihood=False, max_completion_tokens=40)
    assert not network.likelihood_weights.requires_grad
    scores = network(network.encode(PROMPTS, COMPLETIONS))
    network.likelihood_weights.zero_()
    for score, prompt, completion in zip(scores, PROMPTS, COMPLETIONS, strict=True):
        torch.testing.assert_close(score, by_hand(network, prompt, completion), atol=1e-4, rtol=1e-5)


def test_every_part_of_the_score_is_trained(scalar: ScalarReward) -> None:
    """Head, log-likelihood weights and backbone each get a gradient."""
    scalar(scalar.encode(PROMPTS, COMPLETIONS)).sum().backward()
    for name, weight in scalar.named_parameters():
        assert weight.grad is not None, name
        assert weight.grad.abs().sum() > 0, name


def test_completions_are_cut_at_their_limit(llama: Policy, clone: Callable[[Policy], Policy]) -> None:
    """Four tokens, EOS among them only where it fits."""
    network = ScalarReward(clone(llama), loglikelihood=True, max_completion_tokens=4)
    batch = network.encode(["name[Quill]"] * 2, ["Quill is a diner.", ""])
    assert batch.response_mask.sum(1).tolist() == [4, 1]
    assert batch.response_ids[1, 0].item() == llama.eos_id
    assert llama.eos_id not in batch.response_ids[0].tolist()


def test_a_completion_that_comes_again_is_not_encoded_again(
    llama: Policy, clone: Callable[[Policy], Policy], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second batch repeats one completion and brings one; its tokens are those that a new model finds."""
    calls: list[str] = []
    plain = Policy.encode_response
    monkeypatch.setattr(
        Policy, "encode_response", lambda self, text, **options: (calls.append(text), plain(self, text, **options))[1]
    )
    network = ScalarReward(clone(llama), loglikelihood=False, max_completion_tokens=6)
    network.encode(["name[Quill]"], ["Quill is a diner."])
    found = network.encode(["name[Quill]"] * 2, ["Quill is a diner.", "Quill is a pub."])
    assert calls == ["Quill is a diner.", "Quill is a pub."]
    expected = [plain(llama, text, max_tokens=6) for text in calls]
    lengths = found.response_mask.sum(1).tolist()
    assert [row[:length] for row, length in zip(found.response_ids.tolist(), lengths, strict=True)] == expected


def test_the_head_starts_small(llama: Policy, clone: Callable[[Policy], Policy]) -> None:
    """Deviation 1 / (hidden + 1): over 200 heads of width 16, 1/17 within a tenth."""
    torch.manual_seed(0)
    policy = clone(llama)
    heads = torch.cat([ScalarReward(policy, True, 4).head.weight.detach() for _ in range(200)])
    assert heads.std().item() == pytest.approx(1 / 17, rel=0.1)


def test_an_adapter_learns_beside_a_frozen_backbone_and_is_merged_before_saving(
    llama: Policy, clone: Callable[[Policy], Policy], pairs: list[Pair], tmp_path: Path
) -> None:
    """The base stays bit for bit while the loss falls; merged, it is an ordinary backbone with the same scores."""
    torch.manual_seed(0)
    policy = attach(clone(llama), AdapterSettings(rank=4), seed=0)
    network = ScalarReward(policy, loglikelihood=True, max_completion_tokens=40)
    before = {name: weight.clone() for name, weight in network.named_parameters()}
    settings = RewardSettings(steps=30, batch_size=8, learning_rate=1e-2)
    figures = list(train_reward(network, group_pairs(pairs), [], settings))
    assert figures[-1]["loss"] < 0.7 * figures[0]["loss"]
    moved = {name for name, weight in network.named_parameters() if not torch.equal(weight, before[name])}
    assert moved - {"head.weight", "likelihood_weights"}
    assert all("lora_" in name for name in moved - {"head.weight", "head.bias", "likelihood_weights"})
    scores = RewardModel(network).score(PROMPTS, COMPLETIONS)
    with pytest.raises(ValueError, match="adapter that is not merged"):
        RewardModel(network).save(tmp_path)
    merge(policy)
    RewardModel(network).save(tmp_path)
    loaded = load_reward_model(tmp_path, ComputeSettings(device="cpu"))
    torch.testing.assert_close(loaded.score(PROMPTS, COMPLETIONS), scores, atol=1e-4, rtol=1e-4)


def test_under_autocast_the_head_keeps_its_digits(scalar: ScalarReward) -> None:
    """Scores of 100 + something in bfloat16 would all be 100: the head runs in float32."""
    torch.nn.init.constant_(scalar.head.bias, 100.0)
    scalar.likelihood_weights.data.zero_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        scores = scalar(scalar.encode(PROMPTS, COMPLETIONS))
    assert scores.dtype == torch.float32
    assert len({round(score, 3) for score in scores.tolist()}) == 3
