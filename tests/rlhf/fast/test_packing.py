"""Packed rows: what a model computes without padding is what it computes with it, for every family."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer

from rlhf.batches import make_batch, response_positions, response_states
from rlhf.fast.packing import attention, can_pack, layout, pack
from rlhf.fast.packing.layout import GROUP_COST, Group, group_lengths
from rlhf.fast.packing.reading import FAMILIES, PACKED
from rlhf.heads import response_logprobs
from rlhf.models import Policy, build_policy, checkpoint_layers, load_policy, save_policy

PROMPTS = [[3, 4, 5], [6], [7, 3, 3, 5, 6, 4], [5, 7], [8, 9, 4]]
SHARED_PROMPTS = [PROMPTS[2], PROMPTS[1], PROMPTS[2], PROMPTS[2], PROMPTS[1]]
RESPONSES = [[9, 3], [4, 5, 2, 1, 8, 8, 9, 3], [8], [1, 7, 7], [6, 6]]
ROTARY = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
}
SHAPES: dict[str, dict[str, Any]] = {
    name: {"model_type": name, **ROTARY} | ({} if name == "gpt_neox" else {"num_key_value_heads": 2})
    for name in sorted(FAMILIES - {"gpt2"})
}
SHAPES["gpt2"] = {"model_type": "gpt2", "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 64}
SHAPES["gemma"]["head_dim"] = SHAPES["qwen3"]["head_dim"] = 8
SHAPES["mistral, sliding"] = SHAPES["mistral"] | {"sliding_window": 5}
SHAPES["qwen2, sliding"] = SHAPES["qwen2"] | {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1}


@pytest.fixture(params=sorted(SHAPES))
def policy(request: pytest.FixtureRequest, bpe: Any) -> Policy:
    """A tiny model of each family, with weights large enough that attention is not flat."""
    built = build_policy(SHAPES[request.param], bpe, seed=0)
    with torch.no_grad():
        for weight in built.model.parameters():
            weight.add_(torch.randn_like(weight), alpha=0.1)
    return built


def logprobs_and_gradients(
    policy: Policy, how: str, prompts: list[list[int]] = PROMPTS
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Of a ragged batch, with an attention of this name."""
    policy.model.set_attn_implementation(how)
    batch = make_batch(prompts, RESPONSES, prompt_width=9)
    logprobs = response_logprobs(policy.model, batch)
    (logprobs * torch.linspace(-1, 1, logprobs.numel()).view_as(logprobs)).sum().backward()
    gradients = {name: weight.grad for name, weight in policy.model.named_parameters() if weight.grad is not None}
    policy.model.zero_grad(set_to_none=True)
    return logprobs.detach(), gradients


@pytest.mark.parametrize("prompts", [PROMPTS, SHARED_PROMPTS], ids=["apart", "sharing"])
def test_a_packed_batch_gives_the_logprobs_and_gradients_of_the_padded_one(
    policy: Policy, prompts: list[list[int]]
) -> None:
    """On rows of five lengths, also where they share prompts, within 1e-5 in float32; and the packed path is taken."""
    assert can_pack(policy.model)
    packed, gradients = logprobs_and_gradients(policy, PACKED, prompts)
    padded, expected = logprobs_and_gradients(policy, "eager", prompts)
    torch.testing.assert_close(packed, padded, atol=1e-5, rtol=0)
    assert gradients.keys() == expected.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, expected[name], atol=1e-5, rtol=1e-5, msg=name)


def ragged_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    cu_seq_q: torch.Tensor,
    cu_seq_k: torch.Tensor,
    max_q: int,
    max_k: int,
    *,
    scale: float | None,
    window_size: tuple[int, int],
    enable_gqa: bool = False,
) -> torch.Tensor:
    """What `varlen_attn` computes, row by row and written out: a window counts the tokens before the last one."""
    bounds = cu_seq_q.tolist()
    assert cu_seq_q is cu_seq_k
    assert cu_seq_q.dtype == torch.int32
    assert (bounds[0], bounds[-1]) == (0, len(query))
    assert max_q == max_k == max(end - start for start, end in pairwise(bounds))
    shared = query.shape[1] // key.shape[1]
    assert enable_gqa == (shared > 1)
    before, after = window_size
    rows = []
    for start, end in pairwise(bounds):
        q, k, v = query[start:end], *(each[start:end].repeat_interleave(shared, 1) for each in (key, value))
        scores = torch.einsum("iad,jad->aij", q, k) * (scale or q.shape[-1] ** -0.5)
        distance = torch.arange(end - start)[:, None] - torch.arange(end - start)
        seen = (distance >= -after) & ((distance <= before) | (before == -1))
        rows.append(torch.einsum("aij,jad->iad", scores.masked_fill(~seen, -torch.inf).softmax(-1), v))
    return torch.cat(rows)


@pytest.mark.parametrize("filler", [True, False], ids=["filler", "no filler"])
@pytest.mark.parametrize("prompts", [PROMPTS, SHARED_PROMPTS], ids=["apart", "sharing"])
def test_one_kernel_for_all_rows_is_told_where_each_begins(
    policy: Policy, prompts: list[list[int]], filler: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a plain kernel in its place, logprobs and gradients are the padded batch's: windows, shared keys, scale."""
    calls: list[tuple[int, int]] = []

    def kernel(*args: Any, **options: Any) -> torch.Tensor:
        calls.append(options["window_size"])
        return ragged_attention(*args, **options)

    monkeypatch.setattr(attention, "half_precision", lambda query, dropout: query.dtype)
    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", kernel)
    if not filler:
        monkeypatch.setattr(layout, "group_lengths", lambda lengths, cost: group_lengths(lengths, 0))
    packed, gradients = logprobs_and_gradients(policy, PACKED, prompts)
    layers = policy.model.config.num_hidden_layers
    assert len(calls) == layers
    window = getattr(policy.model.config, "sliding_window", None) or 99
    assert {before for before, _ in calls} <= {-1, window - 1}
    assert ((window - 1, 0) in calls) == (window < 10)
    padded, expected = logprobs_and_gradients(policy, "eager", prompts)
    torch.testing.assert_close(packed, padded, atol=1e-5, rtol=0)
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, expected[name], atol=1e-5, rtol=1e-5, msg=name)


def test_the_kernel_of_a_gpu_is_left_alone_elsewhere(bpe: Any) -> None:
    """On the CPU attention takes groups in either precision."""
    states = torch.zeros(1, 2, 3, 8)
    for dtype in (torch.float32, torch.bfloat16):
        assert attention.half_precision(states.to(dtype), None) is None


def test_without_filler_each_length_is_a_group() -> None:
    """As the kernel of a GPU takes them: lengths 3, 3, 4, 9 need no token more than they have."""
    assert group_lengths([3, 3, 4, 9], 0) == [Group(2, 3), Group(1, 4), Group(1, 9)]
    assert group_lengths([3, 3, 4, 9], 2) == [Group(3, 4), Group(1, 9)]


@pytest.mark.skipif(
    not torch.cuda.is_available(), reason="no CUDA device: the kernel for ragged rows runs on one alone"
)
@pytest.mark.parametrize("prompts", [PROMPTS, SHARED_PROMPTS], ids=["apart", "sharing"])
@pytest.mark.parametrize("mixed", [True, False], ids=["autocast", "bfloat16"])
@pytest.mark.parametrize("name", ["gpt2", "llama", "mistral, sliding"])
def test_on_a_gpu_one_kernel_rounds_no_more_than_groups_do(
    name: str, mixed: bool, prompts: list[list[int]], bpe: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Logprobs and gradients in bfloat16: their distance to float32's is at most 1.2 times that of the groups."""
    wider = {"n_embd": 64, "n_head": 4} if name == "gpt2" else {"hidden_size": 64}
    policy = build_policy(SHAPES[name] | wider | {"initializer_range": 0.2}, bpe, seed=0)
    monkeypatch.setitem(globals(), "make_batch", partial(make_batch, device="cuda"))
    nn.Module.to(policy.model, "cuda")
    exact = torch.cat([each.flatten() for each in flat(*logprobs_and_gradients(policy, PACKED, prompts))])
    nn.Module.to(policy.model, torch.float32 if mixed else torch.bfloat16)
    distances = []
    for fused in (True, False):
        with monkeypatch.context() as patch, torch.autocast("cuda", torch.bfloat16, mixed, cache_enabled=False):
            if not fused:
                patch.setattr(attention, "half_precision", lambda query, dropout: None)
            found = flat(*logprobs_and_gradients(policy, PACKED, prompts))
        distances.append(float((torch.cat([each.flatten() for each in found]) - exact).abs().mean()))
    assert 0 < distances[0] < 1.2 * distances[1]


def flat(logprobs: torch.Tensor, gradients: dict[str, torch.Tensor]) -> list[torch.Tensor]:
    return [logprobs.float(), *(gradient.float() for gradient in gradients.values())]


def test_layers_that_compute_again_stay_packed(bpe: Any) -> None:
    """Recomputed activations see the same groups: the gradients are those of layers that keep them."""
    kept = build_policy(SHAPES["llama"], bpe, seed=0)
    again = build_policy(SHAPES["llama"], bpe, seed=0)
    checkpoint_layers(again.model)
    ours, theirs = logprobs_and_gradients(again, PACKED)[1], logprobs_and_gradients(kept, PACKED)[1]
    for name, gradient in ours.items():
        torch.testing.assert_close(gradient, theirs[name], atol=1e-6, rtol=0)


def test_the_last_feed_forward_reads_what_is_wanted_alone(policy: Policy) -> None:
    """Of 15 tokens of prompts and 16 of responses those that predict the 16, or the five that end a row.

    The layer before reads the 26 that are not a response's last, as rows of 4, 4, 4, 6 and 8 tokens in groups of three
    and two, 2 of filler; or all 31, with as much. Of a padded batch either layer reads everything.
    """
    seen: list[torch.Size] = []
    layers = [module for module in policy.model.modules() if isinstance(module, GradientCheckpointingLayer)]

    def see(plain: Callable[[torch.Tensor], torch.Tensor], states: torch.Tensor) -> torch.Tensor:
        seen.append(states.shape[:2])
        return plain(states)

    for layer in layers:
        layer.mlp.forward = partial(see, layer.mlp.forward)
    batch = make_batch(PROMPTS, RESPONSES)
    ends = batch.response_mask.sum(1, keepdim=True)
    with torch.no_grad():
        response_states(policy.model, batch)
        last = response_states(policy.model, batch, ends)
        policy.model.set_attn_implementation("eager")
        expected = response_states(policy.model, batch, ends)
    assert seen == [(1, 28), (1, 16), (1, 33), (1, 5), *[batch.input_ids.shape] * 2]
    torch.testing.assert_close(last, expected, atol=1e-5, rtol=0)


def test_a_copy_feeds_its_own_layer(bpe: Any) -> None:
    """What is changed in a copy's last layer changes the copy's states, and leaves the other's as they were."""
    model: Any = build_policy(SHAPES["gpt2"], bpe, seed=0).model
    copied, batch = copy.deepcopy(model), make_batch(PROMPTS, RESPONSES)
    with torch.no_grad():
        before = response_states(model, batch)
        assert torch.equal(response_states(copied, batch), before)
        copied.transformer.h[-1].mlp.c_proj.weight.mul_(-50.0)
        assert torch.equal(response_states(model, batch), before)
        assert not torch.allclose(response_states(copied, batch), before, atol=0.1)


def test_the_last_token_of_every_row_has_its_state(bpe: Any) -> None:
    """Asked for what would come after each response, the state has read the whole row."""
    model = build_policy(SHAPES["gpt2"], bpe, seed=0).model
    batch = make_batch(PROMPTS, RESPONSES)
    with torch.no_grad():
        states = response_states(model, batch, response_positions(batch.response_mask, with_end=True))
        for row, (prompt, response) in enumerate(zip(PROMPTS, RESPONSES, strict=True)):
            alone = model.transformer(torch.tensor([prompt + response])).last_hidden_state[0]
            ours = states[row, : len(response) + 1]
            torch.testing.assert_close(ours, alone[len(prompt) - 1 :], atol=1e-5, rtol=0)


def test_another_family_is_left_as_it_is(bpe: Any) -> None:
    """A model that mixes tokens outside attention would leak from row to row."""
    fields = {"model_type": "mamba", "hidden_size": 16, "num_hidden_layers": 1, "state_size": 4}
    assert not can_pack(build_policy(fields, bpe, seed=0).model)


def test_a_saved_model_knows_nothing_of_packing(bpe: Any, tmp_path: Path) -> None:
    """The files are those of any model of transformers; loaded again, it packs again."""
    save_policy(build_policy(SHAPES["gpt2"], bpe, seed=0), tmp_path)
    assert PACKED not in (tmp_path / "config.json").read_text()
    assert can_pack(load_policy(tmp_path).model)


def test_rows_of_like_length_stand_together() -> None:
    """Prompts of 1, 6, 1, 2 and responses of 1, 6, 1, 1 tokens: a group of three rows of 3, and one of a row of 12."""
    batch = make_batch([[3], [4] * 6, [5], [6, 6]], [[7], [8] * 6, [9], [9]])
    packing = pack(
        batch.input_ids,
        batch.attention_mask,
        batch.response_ids.shape[1],
        response_positions(batch.response_mask, with_end=True),
    )
    assert packing.groups == [Group(3, 3), Group(1, 12)]
    assert (packing.spread, packing.back) == (None, None)
    # A padded row has 12 columns, and its response begins at the seventh; rows of 2 have their last token twice.
    assert packing.source[:9].tolist() == [5, 6, 6, 29, 30, 30, 40, 41, 42]
    assert packing.source[9:].tolist() == list(range(12, 24))
    assert packing.states[:, :2].tolist() == [[0, 1], [14, 15], [3, 4], [7, 8]]
    assert packing.states[1].tolist() == [14, 15, 16, 17, 18, 19, 20]


def test_a_shared_prompt_stands_in_the_packed_row_once() -> None:
    """Two rows on the prompt 3 4, one on 5: six packed tokens instead of eight, and attention sees all eight."""
    batch = make_batch([[3, 4], [5], [3, 4]], [[7], [8], [9]])
    packing = pack(
        batch.input_ids,
        batch.attention_mask,
        batch.response_ids.shape[1],
        response_positions(batch.response_mask, with_end=True),
    )
    assert batch.input_ids.flatten()[packing.source].tolist() == [3, 4, 7, 5, 8, 9]
    assert packing.groups == [Group(3, 3)]
    assert packing.spread is not None
    assert packing.back is not None
    assert packing.spread.tolist() == [3, 4, 4, 0, 1, 2, 0, 1, 5]
    assert packing.spread[packing.back].tolist() == [0, 1, 2, 3, 4, 5]
    assert packing.states.tolist() == [[1, 2], [3, 4], [1, 5]]


def test_the_last_token_of_a_response_is_not_read_where_only_predictions_are_wanted() -> None:
    """It predicts nothing: rows of four tokens but for the last, a row without response, and places past the end."""
    batch = make_batch([[3], [4, 5], [6, 7, 8], [6, 5, 3]], [[9, 1, 2], [9, 1], [9], []])
    places = response_positions(batch.response_mask)
    assert places.tolist() == [[0, 1, 2], [0, 1, 1], [0, 0, 0], [0, 0, 0]]
    ends = response_positions(batch.response_mask, with_end=True)
    assert ends.tolist() == [[0, 1, 2, 3], [0, 1, 2, 2], [0, 1, 1, 1], [0, 0, 0, 0]]
    packing = pack(batch.input_ids, batch.attention_mask, 3, places)
    assert packing.groups == [Group(4, 3)]
    assert batch.input_ids.flatten()[packing.source].tolist() == [3, 9, 1, 4, 5, 9, 6, 7, 8, 6, 5, 3]
    assert packing.states.tolist() == [[0, 1, 2], [4, 5, 5], [8, 8, 8], [11, 11, 11]]
    assert packing.wanted.tolist() == [0, 1, 2, 4, 5, 8, 11]


@given(st.lists(st.integers(1, 40), min_size=1, max_size=9))
def test_no_other_cut_into_groups_is_cheaper(lengths: list[int]) -> None:
    """Against every way to cut the sorted rows."""
    lengths = sorted(lengths)

    def cost(cuts: tuple[int, ...]) -> int:
        bounds = [0, *cuts, len(lengths)]
        parts = [lengths[start:end] for start, end in pairwise(bounds)]
        return sum(GROUP_COST + len(part) * part[-1] - sum(part) for part in parts)

    inner = range(1, len(lengths))
    cheapest = min(cost(cuts) for number in range(len(lengths)) for cuts in combinations(inner, number))
    groups = group_lengths(lengths)
    assert sum(group.rows for group in groups) == len(lengths)
    filled = sum(group.rows * group.width for group in groups)
    assert filled - sum(lengths) + GROUP_COST * len(groups) == cheapest
