"""The cross-encoder: what it reads, where its head looks, and what freezing means."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from rlhf.models import Policy, build_policy, save_policy
from rlhf.records import Message
from rlhf.reward.encoder import EncoderReward, build_encoder, load_encoder
from rlhf.settings.model import ComputeSettings

PROMPTS = ["name[Quill]", "name[Kestrel], kind[diner]"]
COMPLETIONS = ["Quill is a diner.", "Kestrel"]


def test_it_reads_cls_prompt_sep_completion_sep(encoder: EncoderReward) -> None:
    """Token types are 0 up to the first separator and 1 from there on; padding is masked."""
    batch = encoder.encode(PROMPTS, COMPLETIONS)
    for row in range(2):
        length = int(batch["attention_mask"][row].sum())
        ids = batch["input_ids"][row, :length].tolist()
        tokens = encoder.tokenizer.convert_ids_to_tokens(ids)
        middle = tokens.index("[SEP]")
        assert (tokens[0], tokens[-1], tokens.count("[SEP]")) == ("[CLS]", "[SEP]", 2)
        for part, text in ((ids[1:middle], PROMPTS[row]), (ids[middle + 1 : -1], COMPLETIONS[row])):
            assert str(encoder.tokenizer.decode(part)).replace(" ", "") == text.lower().replace(" ", "")
        types = batch["token_type_ids"][row, :length].tolist()
        assert types == [0] * (middle + 1) + [1] * (length - middle - 1)
        assert batch["attention_mask"][row, length:].sum() == 0


def test_token_types_reach_the_encoder(encoder: EncoderReward) -> None:
    """Prompt and completion in each other's place give another score."""
    with torch.no_grad():
        batch = encoder.encode(PROMPTS[:1], COMPLETIONS[:1])
        score = encoder(batch)
        batch["token_type_ids"] = 1 - batch["token_type_ids"]
        assert (encoder(batch) - score).abs().item() > 1e-5


@torch.no_grad()
def test_the_head_looks_at_cls(encoder: EncoderReward) -> None:
    """w·h_0 + b of the encoder's last layer."""
    encoder.eval()
    batch = encoder.encode(PROMPTS, COMPLETIONS)
    hidden = encoder.backbone(**batch).last_hidden_state
    expected = hidden[:, 0] @ encoder.head.weight[0] + encoder.head.bias
    torch.testing.assert_close(encoder(batch), expected)


def test_the_longer_of_the_two_texts_is_cut_first(encoder: EncoderReward) -> None:
    """Of a long prompt and a short completion within 60 tokens, the completion stays whole."""
    batch = encoder.encode(["name[Quill] " * 80], ["Quill is a diner."])
    ids = batch["input_ids"][0].tolist()
    assert len(ids) == 60
    text = str(encoder.tokenizer.decode(ids))
    assert text.count("[SEP]") == 2
    assert text.split("[SEP]")[1].replace(" ", "") == "quillisadiner."


def test_chat_messages_are_read_as_one_text(encoder: EncoderReward) -> None:
    """Role and content, a line each; one user turn is its content."""
    turns = [Message(role="system", content="be brief"), Message(role="user", content="kind[diner]")]
    for chat, text in ((turns, "system: be brief\nuser: kind[diner]"), (turns[1:], "kind[diner]")):
        assert torch.equal(
            encoder.encode([chat], ["Quill"])["input_ids"], encoder.encode([text], ["Quill"])["input_ids"]
        )


def test_what_reads_like_a_separator_separates_nothing(encoder: EncoderReward) -> None:
    """A row has one [CLS] and two [SEP], whatever its texts hold."""
    ids = encoder.encode(["name [SEP] kind"], ["Quill [CLS]"])["input_ids"][0].tolist()
    marks = encoder.tokenizer.convert_tokens_to_ids(["[CLS]", "[SEP]"])
    assert [ids.count(mark) for mark in marks] == [1, 2]


def test_what_is_compared_is_what_is_scored(encoder: EncoderReward) -> None:
    """`reads` gives the ids of `encode` without their padding, separators in the texts included."""
    prompts, completions = ["kind[SEP]diner", "name"], ["a [SEP] b", "a [CLS] much longer completion"]
    batch = encoder.encode(prompts, completions)
    rows = zip(batch["input_ids"], batch["attention_mask"].bool(), strict=True)
    assert encoder.reads(prompts, completions) == [tuple(ids[mask].tolist()) for ids, mask in rows]


def test_a_frozen_encoder_trains_its_head_alone(encoder: EncoderReward) -> None:
    """No gradient, no dropout: in training mode two forwards agree, and only the head's weights get a gradient."""
    frozen = EncoderReward(encoder.backbone, encoder.tokenizer, max_tokens=60, frozen=True).train()
    assert not any(weight.requires_grad for weight in frozen.backbone.parameters())
    batch = frozen.encode(PROMPTS, COMPLETIONS)
    scores = frozen(batch)
    assert torch.equal(scores, frozen(batch))
    scores.sum().backward()
    assert {name for name, weight in frozen.named_parameters() if weight.grad is not None} == {
        "head.weight",
        "head.bias",
    }


def test_a_completion_is_cut_whatever_its_prompt_leaves(encoder: EncoderReward) -> None:
    """After so many of its own tokens, also beside a short prompt: [CLS] prompt [SEP], three tokens, [SEP]."""
    text = "a completion of rather many words"
    network = EncoderReward(encoder.backbone, encoder.tokenizer, 60, frozen=False, max_completion_tokens=3)
    prompt, tokens = (encoder.tokenizer(each, add_special_tokens=False)["input_ids"] for each in (PROMPTS[0], text))
    cls, sep = encoder.tokenizer.cls_token_id, encoder.tokenizer.sep_token_id
    expected = [cls, *prompt, sep, *tokens[:3], sep]
    assert network.encode([PROMPTS[0]], [text])["input_ids"].tolist() == [expected]
    assert network.reads([PROMPTS[0]], [text]) == [tuple(expected)]
    whole = [cls, *prompt, sep, *tokens, sep]
    assert len(tokens) > 3
    assert encoder.encode([PROMPTS[0]], [text])["input_ids"].tolist() == [whole]


def test_an_unfrozen_encoder_has_dropout_in_training_and_none_after(encoder: EncoderReward) -> None:
    """BERT's own dropout makes two training forwards differ."""
    encoder.train()
    batch = encoder.encode(PROMPTS, COMPLETIONS)
    assert not torch.equal(encoder(batch), encoder(batch))
    encoder.eval()
    assert torch.equal(encoder(batch), encoder(batch))
    encoder(batch).sum().backward()
    assert encoder.backbone.get_input_embeddings().weight.grad is not None


@pytest.mark.parametrize("kind", ["roberta", "deberta-v2", "modernbert", "electra", "distilbert"])
def test_other_families_are_built_from_scratch_too(kind: str) -> None:
    """`encoder_config` names the type; token types are there only where the encoder has some to tell apart."""
    shape = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2, "num_hidden_layers": 1}
    fields = {"model_type": kind, **shape, **({"type_vocab_size": 1} if kind == "roberta" else {})}
    model, tokenizer = build_encoder(fields, [*PROMPTS, *COMPLETIONS], 300, "cpu")
    network = EncoderReward(model, tokenizer, max_tokens=60, frozen=False).eval()
    assert network(network.encode(PROMPTS, COMPLETIONS)).shape == (2,)


def test_a_model_that_writes_text_is_no_encoder(llama: Policy, bpe: Any, tmp_path: Path) -> None:
    """Its first token sees nothing of what follows: the error says where such a model belongs."""
    save_policy(llama, tmp_path / "llama")
    small = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2}
    save_policy(build_policy({"model_type": "t5", **small}, bpe, seed=0), tmp_path / "t5")
    for kind in ("llama", "t5"):
        with pytest.raises(ValueError, match=rf"reward.encoder: .* is a {kind}, which writes text; .*reward.backbone"):
            load_encoder(tmp_path / kind, ComputeSettings(device="cpu"))


def test_weights_that_could_run_code_are_not_loaded(encoder: EncoderReward, tmp_path: Path) -> None:
    """A folder with pickled weights alone is an error that asks for safetensors."""
    encoder.save(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save(encoder.backbone.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"reward.encoder: .* could not be loaded .*safetensors"):
        load_encoder(tmp_path, ComputeSettings(device="cpu"))


def test_what_cannot_be_built_or_loaded_is_named(tmp_path: Path) -> None:
    """The setting at fault stands first."""
    with pytest.raises(ValueError, match=r"reward.encoder_config: cannot build the encoder"):
        build_encoder({"hidden_size": 10, "num_attention_heads": 3}, ["a b"], 300, "cpu")
    with pytest.raises(ValueError, match=r"reward.encoder: .* could not be loaded"):
        load_encoder(tmp_path, ComputeSettings(device="cpu"))
