"""Policies: the same seed builds the same weights, what is saved comes back, and text goes to tokens and back."""

from __future__ import annotations

import copy
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from rlhf.batches import make_batch
from rlhf.heads import response_logprobs
from rlhf.models import Policy, build_policy, load_policy, resolve_device, resolve_dtype, save_policy
from rlhf.records import Message
from rlhf.settings.model import ComputeSettings
from rlhf.tokenizers import EOS, PAD, SEP, train_tokenizer

CPU = ComputeSettings(device="cpu")
CONFIG: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
}


def test_the_same_seed_builds_the_same_weights(bpe: Any) -> None:
    """Whatever was drawn before; another seed builds others."""
    first = build_policy(CONFIG, bpe, seed=5).model.state_dict()
    torch.rand(7)
    again, other = (build_policy(CONFIG, bpe, seed=seed).model.state_dict() for seed in (5, 6))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


def test_a_built_policy_knows_its_special_tokens_and_does_not_train(bpe: Any) -> None:
    """Three different ids for pad, EOS and separator; evaluation mode, so dropout is off."""
    policy = build_policy(CONFIG, bpe, seed=0)
    ids = [bpe.convert_tokens_to_ids(token) for token in (PAD, EOS, SEP)]
    assert len(set(ids)) == 3
    assert (policy.model.config.pad_token_id, policy.model.config.eos_token_id) == tuple(ids[:2])
    assert policy.eos_id == ids[1]
    assert policy.hidden == 16
    assert not policy.model.training


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"model_type": "llama", "hidden_sise": 3}, "no field hidden_sise in the configuration of llama"),
        ({"model_type": "lama"}, "cannot build a lama"),
        ({"model_type": "gpt2", "n_embd": 10, "n_head": 3}, "cannot build a gpt2"),
    ],
)
def test_a_configuration_that_cannot_be_built_is_named(bpe: Any, fields: dict[str, Any], reason: str) -> None:
    """A misspelt field, an unknown type, numbers that do not fit together."""
    with pytest.raises(ValueError, match=f"model.config: .*{reason}"):
        build_policy(fields, bpe, seed=0)


def test_what_is_saved_comes_back(llama: Policy, tmp_path: Path) -> None:
    """The same logprobs and the same tokens, bit for bit, and no torch pickle among the files."""
    save_policy(llama, tmp_path)
    loaded = load_policy(tmp_path, CPU)
    batch = make_batch([llama.encode_prompt("name[Quill]")], [llama.encode_response("Quill is a diner.", 20)])
    with torch.no_grad():
        assert torch.equal(response_logprobs(llama.model, batch), response_logprobs(loaded.model, batch))
    assert loaded.encode_prompt("kind[diner], café") == llama.encode_prompt("kind[diner], café")
    assert loaded.eos_id == llama.eos_id
    assert not loaded.model.training
    assert (tmp_path / "model.safetensors").is_file()
    assert not list(tmp_path.glob("*.bin"))


def test_loading_and_saving_print_nothing(llama: Policy, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Bars over weights and shards would clutter a night; whoever uses transformers otherwise still gets them."""
    from transformers.utils import logging

    save_policy(llama, tmp_path)
    load_policy(tmp_path, CPU)
    assert capfd.readouterr() == ("", "")
    for step in logging.tqdm(range(2), desc="a bar of somebody else's"):
        assert step < 2
    assert "a bar of somebody else's" in capfd.readouterr().err


def test_saved_files_do_not_depend_on_where_they_came_from(llama: Policy, tmp_path: Path) -> None:
    """Saved, loaded and saved again elsewhere: the same bytes, and no path in them."""
    save_policy(llama, tmp_path / "first")
    save_policy(load_policy(tmp_path / "first", CPU), tmp_path / "second")
    for file in sorted((tmp_path / "first").iterdir()):
        assert file.read_bytes() == (tmp_path / "second" / file.name).read_bytes(), file.name
        assert str(tmp_path).encode() not in file.read_bytes()


def test_a_folder_without_a_model_is_named(tmp_path: Path) -> None:
    """The error names the folder and says what to give instead."""
    with pytest.raises(ValueError, match=r"could not be loaded .* give a folder with config.json"):
        load_policy(tmp_path, CPU)


def test_weights_in_a_pickle_are_not_loaded(llama: Policy, tmp_path: Path) -> None:
    """A folder with nothing but pytorch_model.bin is refused, and the error says what to give instead."""
    save_policy(llama, tmp_path)
    torch.save(llama.model.state_dict(), tmp_path / "pytorch_model.bin")
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"could not be loaded .*safetensors.*; give a folder with .* safetensors"):
        load_policy(tmp_path, CPU)


CODE = """
from transformers import LlamaConfig, LlamaForCausalLM
class OwnConfig(LlamaConfig):
    model_type = "own"
class OwnModel(LlamaForCausalLM):
    config_class = OwnConfig
"""


def test_a_models_own_code_runs_only_where_it_is_trusted(
    llama: Policy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Off by default: an error names the switch, nobody is asked at the terminal and no line of the code runs."""
    from transformers import dynamic_module_utils

    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked at the terminal"))
    monkeypatch.setattr("sys.path", [*sys.path])
    folder, ran = tmp_path / "model", tmp_path / "ran"
    save_policy(llama, folder)
    save_policy(llama, tmp_path / "plain")
    (folder / "own.py").write_text(f"{CODE}open({str(ran)!r}, 'w').close()\n", encoding="utf-8")
    fields = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    fields |= {
        "model_type": "own",
        "auto_map": {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnModel"},
    }
    (folder / "config.json").write_text(json.dumps(fields), encoding="utf-8")
    with pytest.raises(ValueError, match=r"custom code .*; read that code, and set model.trust_remote_code to true"):
        load_policy(folder, CPU)
    assert not ran.exists()
    # Both by transformers' own forwards, whose rounding is the same: a family of one's own is not packed.
    loaded = load_policy(folder, ComputeSettings(device="cpu", trust_remote_code=True, fast=False))
    plain = load_policy(tmp_path / "plain", ComputeSettings(device="cpu", fast=False))
    assert ran.exists()
    batch = make_batch([[5, 6]], [[7, 8]])
    with torch.no_grad():
        assert torch.equal(response_logprobs(loaded.model, batch), response_logprobs(plain.model, batch))


def test_the_same_texts_train_the_same_tokenizer() -> None:
    """And it has every byte, so that any text comes back."""
    texts = ["name[Kestrel], kind[diner]", "Kestrel is a diner."] * 3
    first, again = train_tokenizer(texts, 300), train_tokenizer(texts, 300)
    assert first.get_vocab() == again.get_vocab()
    for text in ("Kestrel is a diner.", "naïve 🦊 ß", "two  spaces\nand lines"):
        tokens = first.encode(text, add_special_tokens=False)
        assert str(first.decode(tokens)).strip() == text


def test_a_prompt_ends_in_the_separator_and_a_response_in_eos(llama: Policy) -> None:
    """A separator after the prompt, EOS after the response where it fits, and special tokens are not text."""
    prompt = llama.encode_prompt("name[Quill]")
    assert prompt[-1] == llama.tokenizer.convert_tokens_to_ids(SEP)
    response = llama.encode_response("Quill is a diner.", 50)
    assert response[-1] == llama.eos_id
    assert llama.eos_id not in llama.encode_response("Quill is a diner.", 50, finished=False)
    assert llama.encode_response("Quill is a diner.", 3) == response[:3]
    assert llama.encode_response("Quill is a diner.", len(response) - 1) == response[:-1]
    assert llama.decode(response) == "Quill is a diner."


def test_a_tokenizer_without_the_separator_gets_a_newline(llama: Policy) -> None:
    """A tokenizer that was not made here has no `<sep>`; a line's end is what its model knows."""
    bytewise = Tokenizer(models.BPE())
    bytewise.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bytewise.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bytewise.train_from_iterator(["a b"], trainers.BpeTrainer(initial_alphabet=alphabet, show_progress=False))
    policy = Policy(llama.model, PreTrainedTokenizerFast(tokenizer_object=bytewise))
    assert policy.tokenizer.decode(policy.encode_prompt("a b")) == "a b\n"


def test_chat_messages_without_a_template_are_lines_that_name_their_roles(llama: Policy) -> None:
    """Who said what is not lost; one user turn is its content, as with a template."""
    messages = [Message(role="system", content="Be brief."), Message(role="user", content="Hello")]
    assert llama.encode_prompt(messages) == llama.encode_prompt("system: Be brief.\nuser: Hello")
    others = [Message(role="user", content="Be brief."), Message(role="assistant", content="Hello")]
    assert llama.encode_prompt(messages) != llama.encode_prompt(others)
    assert llama.encode_prompt(messages[1:]) == llama.encode_prompt("Hello")


def test_a_chat_template_is_used_with_its_generation_prompt(llama: Policy, bpe: Any) -> None:
    """Text counts as one user turn; the answer begins where the template says."""
    tokenizer = copy.deepcopy(bpe)
    turn, opening = "[{{ m.role }}]{{ m.content }};", "{% if add_generation_prompt %}[bot]{% endif %}"
    tokenizer.chat_template = f"{{% for m in messages %}}{turn}{{% endfor %}}{opening}"
    policy = Policy(llama.model, tokenizer)
    assert policy.decode(policy.encode_prompt("Hi")) == "[user]Hi;[bot]"
    turns = [Message(role="user", content="Hi"), Message(role="bot", content="Ho"), Message(role="user", content="?")]
    assert policy.decode(policy.encode_prompt(turns)) == "[user]Hi;[bot]Ho;[user]?;[bot]"


def test_prompts_are_encoded_each_in_its_own_form(llama: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    """Text and chat, twice each; a chat is not taken for the text that reads like it. Either is encoded once."""
    chat = [Message(role="user", content="Hi")]
    prompts: list[str | list[Message]] = ["user: Hi", chat, "user: Hi", list(chat)]
    expected = [llama.encode_prompt(prompt) for prompt in prompts]
    calls: list[object] = []
    plain = Policy.encode_prompt
    monkeypatch.setattr(Policy, "encode_prompt", lambda self, prompt: (calls.append(prompt), plain(self, prompt))[1])
    assert llama.encode_prompts(prompts) == expected
    assert expected[0] != expected[1]
    assert len(calls) == 2


def test_precision_follows_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """auto is float32 on the CPU and bfloat16 on CUDA; what is named is taken."""
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: True)
    assert resolve_dtype("auto", torch.device("cpu")) == torch.float32
    assert resolve_dtype("auto", torch.device("cuda")) == torch.bfloat16
    assert resolve_dtype("bfloat16", torch.device("cpu")) == torch.bfloat16
    assert resolve_device("cpu") == torch.device("cpu")


def test_a_gpu_without_bfloat16_computes_in_float32_or_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """auto falls back; bfloat16, mixed or pure, is refused with the remedy."""
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: False)
    cuda = torch.device("cuda")
    assert resolve_dtype("auto", cuda) == resolve_dtype("float32", cuda) == torch.float32
    for precision in ("bfloat16", "pure_bfloat16"):
        with pytest.raises(ValueError, match=f"precision is {precision}, but .* no bfloat16; set it to float32"):
            resolve_dtype(precision, cuda)


def test_cuda_that_is_not_there_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """auto falls back to the CPU, cuda does not."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert resolve_device("auto") == torch.device("cpu")
    with pytest.raises(ValueError, match="no CUDA device is visible; set it to auto or cpu"):
        resolve_device("cuda")
