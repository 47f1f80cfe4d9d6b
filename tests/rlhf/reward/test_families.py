"""Encoders of the families people use, as tiny checkpoints with the families' own tokenizers: all read alike."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from rlhf import corpus
from rlhf.models import save_network
from rlhf.records import Pair
from rlhf.reward import RewardModel, load_reward_model
from rlhf.reward.encoder import EncoderReward, build_encoder, load_encoder, position_limit
from rlhf.reward.training import group_pairs, train_reward
from rlhf.settings.model import ComputeSettings
from rlhf.settings.reward import RewardSettings

CPU = ComputeSettings(device="cpu")
SHAPE: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 80,
    "initializer_range": 0.3,
}
PROMPTS = ["name[Quill]", "name[Kestrel], kind[diner]", "kind[tavern], dish[tapas], price[cheap]"]
COMPLETIONS = ["Quill is a diner.", "Kestrel", "A tavern called Quill serves tapas at cheap prices."]


class Family(NamedTuple):
    """What tells one family from another.

    Attributes:
        fields: of its configuration.
        tokenizer: of texts.
        limit: how many of 80 positions can be read.
        framed: where special tokens stand around the two texts.
    """

    fields: dict[str, Any]
    tokenizer: Callable[[list[str]], Any]
    limit: int | None
    framed: str


def wordpiece(texts: list[str]) -> Any:
    """BERT's, with token types."""
    from transformers import BertTokenizer

    return BertTokenizer(vocab=build_encoder(SHAPE, texts, 300, "cpu")[1].get_vocab())


def byte_bpe(texts: list[str]) -> Any:
    """RoBERTa's: <s> prompt </s></s> completion </s>, the padding's id being 1."""
    from tokenizers import ByteLevelBPETokenizer
    from transformers import RobertaTokenizer

    bpe = ByteLevelBPETokenizer()
    bpe.train_from_iterator(texts, 320, special_tokens=["<s>", "<pad>", "</s>", "<unk>", "<mask>"], show_progress=False)
    fields = json.loads(bpe.to_str())["model"]
    merges = [tuple(pair) for pair in fields["merges"]]
    return RobertaTokenizer(vocab=fields["vocab"], merges=merges)  # type: ignore[arg-type]


def unigram(texts: list[str]) -> Any:
    """DeBERTa's second and third version: a unigram model, not trained, since training does not repeat itself."""
    from transformers import DebertaV2Tokenizer

    words = sorted({f"▁{word}" for text in texts for word in text.split()})
    letters = sorted({"▁", *"".join(texts)} - {" ", *words})
    pieces = {0.0: ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"], -5.0: words, -9.0: letters}
    return DebertaV2Tokenizer(vocab=[(piece, score) for score, alike in pieces.items() for piece in alike])


def bare_bpe(texts: list[str]) -> Any:
    """ModernBERT's: a byte-level BPE with BERT's special tokens and no token types."""
    from tokenizers import processors
    from transformers import PreTrainedTokenizerFast

    bpe = byte_bpe(texts).backend_tokenizer
    bpe.add_special_tokens(["[CLS]", "[SEP]", "[PAD]"])
    bpe.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B [SEP]",
        special_tokens=[(token, bpe.token_to_id(token)) for token in ("[CLS]", "[SEP]")],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        cls_token="[CLS]",
        sep_token="[SEP]",
        pad_token="[PAD]",
        model_input_names=["input_ids", "attention_mask"],
    )


DEBERTA = {"relative_attention": True, "position_buckets": 8, "pos_att_type": ["p2c", "c2p"], "share_att_key": True}
FAMILIES = {
    "bert": Family({"model_type": "bert"}, wordpiece, 80, "c p s r s"),
    "roberta": Family({"model_type": "roberta", "type_vocab_size": 1}, byte_bpe, 78, "c p s s r s"),
    "deberta-v2": Family({"model_type": "deberta-v2", "conv_kernel_size": 3, **DEBERTA}, unigram, 80, "c p s r s"),
    "deberta-v3": Family(
        {"model_type": "deberta-v2", "position_biased_input": False, "norm_rel_ebd": "layer_norm", **DEBERTA},
        unigram,
        None,
        "c p s r s",
    ),
    "modernbert": Family(
        {"model_type": "modernbert", "local_attention": 8, "global_attn_every_n_layers": 2}, bare_bpe, None, "c p s r s"
    ),
}


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest) -> Family:
    """Each family."""
    return FAMILIES[request.param]


@pytest.fixture(scope="module")
def folder(family: Family, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of the family, as a user might have it."""
    from transformers import AutoConfig, AutoModel

    rows = corpus.make_demonstrations(60, seed=0)
    tokenizer = family.tokenizer([text for row in rows for text in (str(row.prompt), row.response)])
    ids = {
        "vocab_size": len(tokenizer),
        "pad_token_id": tokenizer.pad_token_id,
        "cls_token_id": tokenizer.cls_token_id,
        "sep_token_id": tokenizer.sep_token_id,
        "bos_token_id": tokenizer.cls_token_id,
        "eos_token_id": tokenizer.sep_token_id,
    }
    fields = {**SHAPE, **family.fields}
    torch.manual_seed(0)
    model = AutoModel.from_config(AutoConfig.for_model(fields.pop("model_type"), **fields, **ids))
    path = tmp_path_factory.mktemp("encoder")
    save_network(model, tokenizer, path)
    return path


@pytest.fixture
def network(folder: Path) -> EncoderReward:
    """A fresh reward model on the checkpoint."""
    torch.manual_seed(0)
    return EncoderReward(*load_encoder(folder, CPU, training=True), max_tokens=60, frozen=False).eval()


def test_both_texts_stand_in_the_familys_own_frame(family: Family, network: EncoderReward) -> None:
    """The opening token, the prompt, one or two separators, the completion, a separator; then padding, masked."""
    batch = network.encode(PROMPTS, COMPLETIONS)
    tokenizer = network.tokenizer
    marks = {tokenizer.cls_token_id: "c", tokenizer.sep_token_id: "s"}
    for row, (prompt, completion) in enumerate(zip(PROMPTS, COMPLETIONS, strict=True)):
        length = int(batch["attention_mask"][row].sum())
        assert set(batch["input_ids"][row, length:].tolist()) <= {tokenizer.pad_token_id}
        ids = batch["input_ids"][row, :length].tolist()
        places = [place for place, token in enumerate(ids) if token in marks]
        texts = [ids[start + 1 : end] for start, end in pairwise(places)]
        frame = " ".join(marks[ids[place]] + (f" {'pr'[bool(place)]}" if texts[order] else "")
                         for order, place in enumerate(places[:-1])) + " s"  # fmt: skip
        assert frame == family.framed
        alone = [tokenizer.encode(text, add_special_tokens=False) for text in (prompt, completion)]
        assert [text for text in texts if text] == alone
        assert str(tokenizer.decode(alone[1])).lower().replace(" ", "") == completion.lower().replace(" ", "")


@torch.no_grad()
def test_padding_changes_no_score(network: EncoderReward) -> None:
    """Alone or beside longer texts, the score is that of the first token's state of a plain forward."""
    together = network(network.encode(PROMPTS, COMPLETIONS))
    assert len({round(score, 5) for score in together.tolist()}) == 3
    for row in range(3):
        batch = network.encode(PROMPTS[row : row + 1], COMPLETIONS[row : row + 1])
        torch.testing.assert_close(network(batch)[0], together[row], atol=1e-5, rtol=1e-5)
        state = network.backbone(**batch).last_hidden_state[0, 0]
        expected = state @ network.head.weight[0] + network.head.bias[0]
        torch.testing.assert_close(together[row], expected, atol=1e-5, rtol=1e-5)


def test_the_completion_reaches_the_score(network: EncoderReward) -> None:
    """Another completion gives another score: the first token sees the last one."""
    model = RewardModel(network)
    one, other = model.score(["name[Quill]"] * 2, ["Quill is a diner.", "Quill is a tavern."]).tolist()
    assert abs(one - other) > 1e-4


def test_a_text_of_any_length_fits_its_positions(family: Family, network: EncoderReward) -> None:
    """As many tokens are read as there are positions, RoBERTa's first ones being the padding's; not one more."""
    assert position_limit(network.backbone) == family.limit
    long = EncoderReward(network.backbone, network.tokenizer, max_tokens=200, frozen=True)
    assert long.max_tokens == (family.limit or 200)
    batch = long.encode(["name[Quill] " * 80], ["Quill is a diner. " * 80])
    assert batch["input_ids"].shape[1] == long.max_tokens
    assert torch.isfinite(long(batch)).all()


def test_every_weight_that_is_used_learns(network: EncoderReward, pairs: list[Pair]) -> None:
    """A few steps lower the loss; embeddings and both layers move."""
    settings = RewardSettings(kind="encoder", steps=30, batch_size=8, learning_rate=5e-3, warmup_share=0.1)
    before = {name: weight.clone() for name, weight in network.backbone.named_parameters()}
    figures = list(train_reward(network, group_pairs(pairs), [], settings))
    assert figures[-1]["loss"] < 0.8 * figures[0]["loss"]
    moved = {name for name, weight in network.backbone.named_parameters() if not torch.equal(weight, before[name])}
    still = [name for name in before if name not in moved and "pooler" not in name]
    assert still == []


@torch.no_grad()
def test_bfloat16_scores_are_near_those_of_float32(folder: Path, network: EncoderReward) -> None:
    """Weights and products in bfloat16, the head in float32: within a tenth of the scores' deviation."""
    half, tokenizer = load_encoder(folder, CPU.model_copy(update={"precision": "bfloat16"}))
    assert half.dtype == torch.bfloat16
    rough = EncoderReward(half, tokenizer, max_tokens=60, frozen=False).eval()
    rough.head.load_state_dict(network.head.state_dict())
    rough.head.float()
    exact = network(network.encode(PROMPTS, COMPLETIONS))
    scores = rough(rough.encode(PROMPTS, COMPLETIONS))
    assert scores.dtype == torch.float32
    assert (scores - exact).abs().max() < 0.1 * exact.std()


def test_it_comes_back_from_disk(network: EncoderReward, tmp_path: Path) -> None:
    """The same scores, and the same bytes again, whatever was scored in between."""
    model = RewardModel(network, mean=0.3, deviation=1.7)
    model.save(tmp_path / "one")
    scores = model.score(PROMPTS, COMPLETIONS)
    loaded = load_reward_model(tmp_path / "one", CPU)
    torch.testing.assert_close(loaded.score(PROMPTS, COMPLETIONS), scores)
    loaded.save(tmp_path / "two")
    for file in sorted((tmp_path / "one").iterdir()):
        assert file.read_bytes() == (tmp_path / "two" / file.name).read_bytes(), file.name
    fields = json.loads((tmp_path / "two" / "tokenizer.json").read_text(encoding="utf-8"))
    assert fields["truncation"] is None
    assert fields["padding"] is None
