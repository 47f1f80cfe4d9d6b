"""Families of real models, built from their configurations: each one's template, windows, caps and scales are right."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from rlhf.batches import make_batch, response_states
from rlhf.demonstrations import encode_demonstrations
from rlhf.generation import sample
from rlhf.heads import apply_head, response_logits, response_logprobs
from rlhf.models import Policy, build_policy, load_policy, save_policy
from rlhf.records import Demonstration, Message, Sampling
from rlhf.settings.model import ComputeSettings
from rlhf.settings.sft import SftSettings
from rlhf.sft import train_sft

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
HEADERS = (
    "{{ bos_token }}{% for m in messages %}<|header|>{{ m.role }}<|end_header|>\n\n{{ m.content | trim }}<|eot|>"
    "{% endfor %}{% if add_generation_prompt %}<|header|>assistant<|end_header|>\n\n{% endif %}"
)
INSTRUCTIONS = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]"
    "{% else %} {{ m.content }}{{ eos_token }}{% endif %}{% endfor %}"
)
TURNS = (
    "{{ bos_token }}{% for m in messages %}<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n"
    "{{ m.content | trim }}<end_of_turn>\n{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
SIZES: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 64,
    "initializer_range": 0.3,
}
WINDOWS: dict[str, Any] = {"sliding_window": 4, "layer_types": ["sliding_attention", "full_attention"]}


class Family(NamedTuple):
    """A model type with its fields, and the chat template and special tokens that its tokenizers carry."""

    fields: dict[str, Any]
    template: str | None = None
    tokens: tuple[str, ...] = ()


FAMILIES = {
    "gpt2": Family({"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 64, "initializer_range": 0.3}),
    "llama": Family(SIZES, HEADERS, ("<|header|>", "<|end_header|>", "<|eot|>")),
    "mistral": Family({**SIZES, "sliding_window": 4}, INSTRUCTIONS, ("[INST]", "[/INST]")),
    "qwen2": Family({**SIZES, "use_sliding_window": True, **WINDOWS}, CHATML, ("<|im_start|>", "<|im_end|>")),
    "qwen3": Family({**SIZES, "head_dim": 8}, CHATML, ("<|im_start|>", "<|im_end|>")),
    "gemma2": Family(
        {**SIZES, **WINDOWS, "head_dim": 8, "final_logit_softcapping": 2.0, "attn_logit_softcapping": 5.0},
        TURNS,
        ("<start_of_turn>", "<end_of_turn>"),
    ),
    "gemma3_text": Family({**SIZES, **WINDOWS, "head_dim": 8}, TURNS, ("<start_of_turn>", "<end_of_turn>")),
}
WINDOWED = ("mistral", "qwen2", "gemma2", "gemma3_text")
HEADS: dict[str, dict[str, Any]] = {
    "cohere": {**SIZES, "logit_scale": 0.3},
    "granite": {**SIZES, "logits_scaling": 4.0},
    "mixtral": {**SIZES, "num_local_experts": 2},
    "opt": {
        "hidden_size": 16,
        "word_embed_proj_dim": 16,
        "ffn_dim": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "init_std": 0.3,
    },
    "gpt_neox": {name: value for name, value in SIZES.items() if name != "num_key_value_heads"},
}
PROMPTS = [[3, 4, 5, 9, 8, 7, 6, 5, 4, 30], [6], [7, 3, 3, 5, 6, 4], [5, 7]]
RESPONSES = [[9, 3], [4, 5, 0, 1, 8, 8, 9, 3], [8], [1, 7, 7]]
CHAT = [
    Message(role="user", content="Name a diner."),
    Message(role="assistant", content="Kestrel."),
    Message(role="user", content=" And a bistro? "),
]
CPU = ComputeSettings(device="cpu")


@pytest.fixture(scope="module")
def folders(bpe: Any, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a family's model with random weights and its tokenizer, written when it is first asked for."""
    root = tmp_path_factory.mktemp("families")

    def folder(name: str) -> Path:
        family, path = FAMILIES[name], root / name
        if not path.is_dir():
            tokenizer = copy.deepcopy(bpe)
            tokenizer.add_special_tokens({"bos_token": "<sep>", "additional_special_tokens": list(family.tokens)})
            tokenizer.chat_template = family.template
            save_policy(build_policy({"model_type": name, **family.fields}, tokenizer, seed=0), path)
        return path

    return folder


@pytest.fixture(params=FAMILIES)
def policy(request: pytest.FixtureRequest, folders: Callable[[str], Path]) -> Policy:
    """Each family in turn, loaded from its folder."""
    return load_policy(folders(request.param), CPU)


def alone(policy: Policy, prompt: Sequence[int], **settings: Any) -> list[int]:
    """What `transformers` writes greedily for one prompt without padding, up to and with EOS."""
    model: Any = policy.model
    input_ids = torch.tensor([list(prompt)])
    output = model.generate(input_ids=input_ids, attention_mask=torch.ones_like(input_ids), do_sample=False, **settings)
    tokens = output[0, len(prompt) :].tolist()
    return tokens[: tokens.index(policy.eos_id) + 1] if policy.eos_id in tokens else tokens


def test_chat_messages_are_encoded_by_the_models_own_template(policy: Policy) -> None:
    """As apply_chat_template tokenises them; without one a line each, with its role, and the separator."""
    if policy.tokenizer.chat_template is None:
        text = "\n".join(f"{turn.role}: {turn.content}" for turn in CHAT) + "<sep>"
        assert policy.encode_prompt(CHAT) == policy.tokenizer.encode(text, add_special_tokens=False)
        return
    turns = [turn.model_dump() for turn in CHAT]
    theirs = policy.tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_dict=False)
    assert policy.encode_prompt(CHAT) == theirs
    one = policy.tokenizer.apply_chat_template([turns[0]], add_generation_prompt=True, return_dict=False)
    assert policy.encode_prompt(CHAT[0].content) == one
    assert {policy.tokenizer.convert_tokens_to_ids(token) for token in policy.tokenizer.extra_special_tokens} & set(one)


@pytest.mark.parametrize("settings", [{}, {"repetition_penalty": 1.4, "min_new_tokens": 6}])
def test_greedy_text_equals_hugging_faces(policy: Policy, settings: dict[str, Any]) -> None:
    """Four prompts of unlike lengths, some beyond the window, in one padded batch give what each gives alone."""
    greedy = Sampling(temperature=0.0, max_new_tokens=12, **settings)
    samples = sample(policy, PROMPTS, [greedy] * 4, range(4))
    ours = samples.responses()
    assert ours == [alone(policy, prompt, max_new_tokens=12, **settings) for prompt in PROMPTS]


@torch.no_grad()
def test_padding_changes_no_logprob(policy: Policy) -> None:
    """Alone or together, with 0 or 9 more columns left and right, windows or none."""
    one = [response_logprobs(policy.model, make_batch([p], [r]))[0] for p, r in zip(PROMPTS, RESPONSES, strict=True)]
    for prompt_width, response_width in [(10, 8), (19, 8), (10, 17)]:
        batch = make_batch(PROMPTS, RESPONSES, prompt_width=prompt_width, response_width=response_width)
        together = response_logprobs(policy.model, batch)
        for row, expected in enumerate(one):
            torch.testing.assert_close(together[row, : len(expected)], expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("name", WINDOWED)
def test_the_windows_of_this_table_hide_something(name: str, bpe: Any) -> None:
    """A window as long as the context gives other logprobs, so the invariance above was earned with one of 4."""
    fields = {"model_type": name, **FAMILIES[name].fields}
    batch = make_batch(PROMPTS, RESPONSES)
    narrow, wide = (
        response_logprobs(build_policy({**fields, "sliding_window": width}, bpe, seed=0).model, batch)
        for width in (4, 64)
    )
    assert (narrow - wide).abs().max() > 1e-3


@torch.no_grad()
def test_logits_are_those_of_a_plain_forward(policy: Policy) -> None:
    """The head on the states gives what the model gives, row by row and without padding."""
    logits = response_logits(policy.model, make_batch(PROMPTS, RESPONSES))
    for row, (prompt, response) in enumerate(zip(PROMPTS, RESPONSES, strict=True)):
        plain = policy.model(torch.tensor([prompt + response])).logits[0, len(prompt) - 1 : -1]
        torch.testing.assert_close(logits[row, : len(response)], plain, atol=1e-5, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("name", HEADS)
def test_heads_that_scale_or_whose_layers_lie_deeper_are_the_models_own(name: str, bpe: Any) -> None:
    """Cohere and Granite scale their logits, a mixture of experts and OPT are built otherwise: the same logits."""
    model = build_policy({"model_type": name, **HEADS[name]}, bpe, seed=0).model
    batch = make_batch(PROMPTS[:1], RESPONSES[1:2])
    plain = model(batch.input_ids).logits[:, len(PROMPTS[0]) - 1 : -1]
    torch.testing.assert_close(apply_head(model, response_states(model, batch)), plain, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_the_head_leaves_the_model_as_it_was(policy: Policy) -> None:
    """Its layers run again in the next forward, also after a forward that failed."""
    batch = make_batch(PROMPTS, RESPONSES)
    before = policy.model(batch.input_ids).logits
    states = response_states(policy.model, batch)
    apply_head(policy.model, states)
    with pytest.raises(RuntimeError):
        apply_head(policy.model, states[..., :3])
    assert torch.equal(policy.model(batch.input_ids).logits, before)


def test_sft_lowers_the_loss_and_what_is_saved_comes_back(policy: Policy, tmp_path: Path) -> None:
    """Fifteen steps on three demonstrations, and the saved model has the trained one's logprobs and template."""
    rows = [
        Demonstration(id=str(row), prompt=[Message(role="user", content=text)], response=f"{text} is good.")
        for row, text in enumerate(["Kestrel", "Quill", "Heron"])
    ]
    examples = encode_demonstrations(policy, rows, 60, 40)
    settings = SftSettings(steps=15, batch_size=3, learning_rate=5e-3, max_grad_norm=5.0)
    figures = list(train_sft(policy, examples, examples, settings))
    assert figures[-1]["eval_loss"] < 0.9 * figures[0]["loss"]
    save_policy(policy, tmp_path)
    loaded, batch = load_policy(tmp_path, CPU), make_batch(PROMPTS, RESPONSES)
    with torch.no_grad():
        assert torch.equal(response_logprobs(loaded.model, batch), response_logprobs(policy.model, batch))
    assert loaded.encode_prompt(CHAT) == policy.encode_prompt(CHAT)
    assert loaded.eos_id == policy.eos_id
