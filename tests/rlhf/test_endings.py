"""Where a response ends: one rule for what sampling stops at and what training writes, whoever draws."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from rlhf.batches import make_batch
from rlhf.demonstrations import encode_demonstrations
from rlhf.endings import combine_endings, end_of_turn
from rlhf.evaluation.few_shot import encode_shots
from rlhf.explain import trace
from rlhf.fast import forwards
from rlhf.fast.decoding.cached import CachedDecoder
from rlhf.fast.decoding.static import StaticDecoder
from rlhf.generation import generate, sample
from rlhf.heads import response_logprobs
from rlhf.models import Policy, build_policy, load_policy, save_policy
from rlhf.policy.rollouts import Networks, roll_out
from rlhf.records import Demonstration, Message, Sampling
from rlhf.settings.model import ComputeSettings
from rlhf.settings.policy import PolicySettings
from rlhf.settings.sft import SftSettings
from rlhf.sft import train_sft
from rlhf.tokenizers import id_of
from tests.rlhf.conftest import LLAMA, T5

CHATML = (
    "{% for m in messages %} <|im_start|> {{ m.role }} {{ m.content }} <|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %} <|im_start|> assistant {% endif %}"
)
CONTROLS = ("<|pad|>", "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|call|>")
EOS, START, IM_END, CALL = 1, 2, 3, 4
STOPS = (EOS, IM_END, CALL)
PLAIN = ComputeSettings(device="cpu", fast=False)


def word_tokenizer(template: str | None) -> Any:
    """The control tokens above, then user, assistant, a, b and c, which is also what it does not know."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = (*CONTROLS, "user", "assistant", "a", "b", "c")
    backend = Tokenizer(models.WordLevel({word: place for place, word in enumerate(words)}, unk_token="c"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<|pad|>", eos_token="<|endoftext|>", sep_token="<|im_start|>"
    )
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_end|>", "<|call|>"]})
    tokenizer.chat_template = template
    return tokenizer


def checkpoint(folder: Path, fields: dict[str, Any], template: str | None = CHATML, eos: Any = (EOS, CALL)) -> Path:
    """A model as others publish them: turns end in <|im_end|>, eos_token is <|endoftext|>, and the generation config
    names these."""
    policy = build_policy(fields, word_tokenizer(template), seed=5)
    with torch.no_grad():  # near enough to even that each token comes
        policy.model.get_output_embeddings().weight.mul_(0.2)
    save_policy(policy, folder)
    file = folder / "generation_config.json"
    config = json.loads(file.read_text(encoding="utf-8")) | {"eos_token_id": list(eos)}
    file.write_text(json.dumps(config), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A causal model, and an encoder–decoder."""
    root = tmp_path_factory.mktemp("chat")
    return {name: checkpoint(root / name, fields) for name, fields in (("llama", LLAMA), ("t5", T5))}


@pytest.fixture
def chat(folders: dict[str, Path]) -> Policy:
    """The causal one, for training."""
    return load_policy(folders["llama"], PLAIN, training=True)


@pytest.mark.parametrize(
    ("template", "tokenizer", "configured", "expected"),
    [
        (None, 1, [1], (1, (1,))),
        (3, 1, [1, 4], (3, (1, 3, 4))),
        (3, None, [], (3, (3,))),
        (None, 1, [4], (1, (1, 4))),
        (None, None, [4, 3], (4, (3, 4))),
        (1, 1, [], (1, (1,))),
    ],
)
def test_sampling_stops_at_all_and_training_writes_the_template_s(
    template: int | None, tokenizer: int | None, configured: list[int], expected: Any
) -> None:
    """The union, ascending; what is written is the template's, else the tokenizer's, else the first configured."""
    assert combine_endings(template, tokenizer, configured) == expected


def test_an_end_that_is_no_special_token_is_no_text_either(chat: Policy) -> None:
    """Some publish their end of turn as a mere added token, which decoding would show; within a response it is text."""
    chat.tokenizer.add_tokens(["<end>"])
    end, a = (id_of(chat.tokenizer, token) for token in ("<end>", "a"))
    chat.model.generation_config.eos_token_id = [EOS, end]
    assert end in chat.stop_ids
    assert chat.decode([a, end]) == "a"
    assert chat.decode([end, a]) == "<end> a"


def test_a_model_whose_responses_nothing_ends_is_refused() -> None:
    """Nobody names a token."""
    with pytest.raises(ValueError, match="names an end token"):
        combine_endings(None, None, [])


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        (CHATML, IM_END),
        ("{% for m in messages %}{{ m.content }}{% endfor %}", None),
        ("{% for m in messages %}{{ m.content }} over <|im_end|>{% endfor %}", None),
        ("{% for m in messages %}<|im_start|>{{ m.content | trim }}{{ eos_token }}{% endfor %}", EOS),
        ("{% for m in messages %}{{ m.content }} <|call|> {% endfor %}<|endoftext|>", CALL),
        ("{{ raise_exception('no') }}", None),
        ("{% for m in messages %}{{ m.content.missing.field }}{% endfor %}", None),
        (None, None),
    ],
)
def test_what_a_template_writes_behind_an_answer(template: str | None, expected: int | None) -> None:
    """The first control token, white space aside; none where text comes first, or the template takes no answer."""
    assert end_of_turn(word_tokenizer(template)) == expected


def test_a_checkpoint_says_together_where_its_turns_end(folders: dict[str, Path], tmp_path: Path) -> None:
    """Template, tokenizer and generation config; saved, the files alone say so to whoever reads the config only."""
    policy = load_policy(folders["llama"], PLAIN)
    assert policy.endings == (IM_END, STOPS)
    save_policy(policy, tmp_path / "saved")
    config = json.loads((tmp_path / "saved/generation_config.json").read_text(encoding="utf-8"))
    assert config["eos_token_id"] == list(STOPS)
    assert load_policy(tmp_path / "saved", PLAIN).endings == policy.endings


def test_an_id_that_is_a_word_or_none_ends_nothing(tmp_path: Path) -> None:
    """7 is `a`, and 99 is past the vocabulary: defaults of a configuration's class, say."""
    policy = load_policy(checkpoint(tmp_path / "x", LLAMA, None, eos=(7, 99)), PLAIN)
    assert policy.endings == (EOS, (EOS,))


def biased(policy: Policy, token: int, bias: float) -> Policy:
    """The policy with `bias` added to this token's logit."""
    weight = policy.model.get_output_embeddings().weight
    head = torch.nn.Linear(weight.shape[1], weight.shape[0])
    with torch.no_grad():
        head.weight.copy_(weight)
        head.bias.zero_()
        head.bias[token] = bias
    policy.model.lm_head = head
    return policy


@pytest.mark.parametrize("stop", STOPS)
@pytest.mark.parametrize("name", ["llama", "t5"])
@pytest.mark.parametrize("beams", [1, 2])
def test_each_of_them_ends_a_response(folders: dict[str, Path], name: str, stop: int, beams: int) -> None:
    """A certain one is written at once, or as the fourth of four where three come before; it is no text."""
    policy = biased(load_policy(folders[name], PLAIN), stop, 1e4)
    for least, length in ((0, 1), (3, 4)):
        settings = Sampling(min_new_tokens=least, max_new_tokens=4, num_beams=beams)
        [row] = generate(policy, ["a b"], [settings], [0])
        assert (row.finish_reason, row.tokens) == ("eos", length)
        assert not any(token in row.text for token in CONTROLS)


def drawn_by(name: str, folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> Policy:
    """A policy that one of the decoders writes for."""
    if name == "static":
        monkeypatch.setattr(forwards, "CachedDecoder", lambda *args: StaticDecoder(CachedDecoder(*args)))
    compute = ComputeSettings(device="cpu", fast=name in ("cached", "static"))
    return load_policy(folders["t5" if name == "encoder-decoder" else "llama"], compute)


@pytest.mark.parametrize("filters", [{}, {"min_new_tokens": 2, "top_k": 10}], ids=["plain", "filters"])
@pytest.mark.parametrize("name", ["forward", "cached", "static", "encoder-decoder"])
def test_every_decoder_stops_where_the_rule_says(
    name: str, filters: dict[str, Any], folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 96 ragged rows some end in each token and some at the limit; what counts is scored as drawn."""
    policy = drawn_by(name, folders, monkeypatch)
    prompts = [policy.encode_prompt(" ".join("ab" * (1 + row % 3))) for row in range(96)]
    samples = sample(policy, prompts, [Sampling(max_new_tokens=6, **filters)] * 96, range(96))
    rows = samples.responses()
    ends = {row[-1] for row, finished in zip(rows, samples.finished, strict=True) if finished}
    assert ends == set(STOPS)
    assert 0 < int(samples.finished.sum()) < 96
    for row, finished in zip(rows, samples.finished.tolist(), strict=True):
        assert not set(row[:-1]) & set(STOPS)
        assert finished == (row[-1] in STOPS)
        assert finished or len(row) == 6
        assert len(row) > filters.get("min_new_tokens", 0)
    with torch.no_grad():
        fresh = response_logprobs(policy.model, make_batch(prompts, rows))
    torch.testing.assert_close(samples.logprobs, fresh, atol=2e-5, rtol=1e-5)


def test_transformers_stops_where_ours_does(folders: dict[str, Path]) -> None:
    """Greedily from eight prompts, by its own generate and the files' own ends."""
    policy = load_policy(folders["llama"], PLAIN)
    model: Any = policy.model
    for prompt in ([7], [8], [9], [7, 8], [8, 7], [9, 8, 7], [7, 7, 7], [9, 9]):
        [ours] = sample(policy, [prompt], [Sampling(temperature=0.0, max_new_tokens=8)], [0]).responses()
        ids = torch.tensor([prompt])
        theirs = model.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=8, eos_token_id=list(STOPS)
        )
        assert ours == theirs[0, len(prompt) :].tolist()


def test_explain_bars_them_all_before_the_minimum(folders: dict[str, Path]) -> None:
    """Zero for each end before the first token, and not before the second."""
    policy = load_policy(folders["llama"], PLAIN)
    steps = trace(policy, policy.encode_prompt("a"), [7, 8], Sampling(min_new_tokens=1))
    assert [[bool(stages[-1].probabilities[stop] > 0) for stop in STOPS] for stages in steps] == [
        [False] * 3,
        [True] * 3,
    ]


class Constant:
    """Scores 1 for each."""

    def score(self, prompts: Any, completions: Any, batch_size: int = 64) -> torch.Tensor:
        return torch.ones(len(completions))


def test_ppo_takes_each_end_for_an_end(chat: Policy) -> None:
    """The mask counts up to the end token; the penalty is for rows that wrote none of them, and for no others."""
    settings = PolicySettings(iterations=1, prompts_per_iteration=64, max_new_tokens=5, unfinished_score=-7.0)
    networks = Networks(chat, chat, None, settings)
    rollouts = roll_out(networks, Constant(), ["a b"] * 64, settings, torch.Generator().manual_seed(0))
    batch = rollouts.batch
    last = batch.response_ids.gather(1, batch.response_mask.sum(1, keepdim=True) - 1)[:, 0]
    ended = torch.isin(last, torch.tensor(STOPS))
    assert set(last[ended].tolist()) == set(STOPS)
    assert torch.equal(rollouts.finished, ended)
    assert torch.equal(rollouts.scores, torch.where(ended, 1.0, -7.0))
    assert (batch.response_mask.sum(1)[~ended] == 5).all()
    before = batch.response_mask.clone().scatter(1, batch.response_mask.sum(1, keepdim=True) - 1, False)
    assert not torch.isin(batch.response_ids[before], torch.tensor(STOPS)).any()


@pytest.mark.parametrize("text", ["a b", "a b <|im_end|>", "a b<|im_end|>\n", "a b <|endoftext|>"])
def test_a_demonstration_is_closed_once_by_what_the_template_writes(chat: Policy, text: str) -> None:
    """`a b <|im_end|>`, whether the row has an end of its own or none."""
    [(prompt, response)] = encode_demonstrations(chat, [Demonstration(id="1", prompt="c", response=text)], 20, 20)
    assert prompt == [START, 5, 9, IM_END, START, 6]
    assert response == [7, 8, IM_END]


def test_what_sft_learns_to_end_with_ends_the_sampled_turn(chat: Policy) -> None:
    """Trained on `a b`, it writes that and the template's end, and stops."""
    [example] = encode_demonstrations(chat, [Demonstration(id="1", prompt="c", response="a b")], 20, 20)
    list(train_sft(chat, [example], [example], SftSettings(steps=30, batch_size=1, learning_rate=0.02)))
    [row] = generate(chat, ["c"], [Sampling(temperature=0.0, max_new_tokens=20)], [0])
    assert (row.text, row.tokens, row.finish_reason) == ("a b", 3, "eos")
    assert row.tokens == len(chat.encode_response(row.text, 20))


def opened(policy: Policy, opening: str, bos: str) -> Policy:
    """The policy with a tokenizer that puts `opening` before each text, and calls `bos` its BOS."""
    from tokenizers.processors import TemplateProcessing

    tokenizer = copy.deepcopy(policy.tokenizer)
    tokenizer.bos_token = bos
    ids = [(token, tokenizer.convert_tokens_to_ids(token)) for token in ("<pad>", "<eos>")]
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single=opening, special_tokens=ids)
    return Policy(policy.model, tokenizer)


def demonstration(prompt: str, response: str) -> Demonstration:
    return Demonstration(id="1", prompt=prompt, response=response)


def test_a_tokenizer_that_adds_bos_gets_one_without_a_template(
    speller: Policy, clone: Callable[[Policy], Policy]
) -> None:
    """`<bos> a b <sep>`, once, also where demonstrations stand before; <pad> is 0, <eos> 1, <sep> 2, a 3."""
    policy = opened(clone(speller), "<pad> $A", "<pad>")
    assert policy.encode_prompt("a b") == [0, 3, 4, 2]
    assert policy.encode_prompt([Message(role="user", content="a")])[0] == 0
    assert policy.encode_response("a", 9) == [3, 1]
    shots = [demonstration("a", "b"), demonstration("b", "c")]
    assert encode_shots(policy, "d", shots, 4).tokens == [0, 3, 2, 4, 1, 4, 2, 5, 1, 6, 2]
    assert opened(speller, "$A <eos>", "<eos>").encode_prompt("a") == [3, 2]
    assert opened(speller, "<pad> $A", "<eos>").encode_prompt("a") == [3, 2]
    assert speller.encode_prompt("a") == [3, 2]


def test_a_template_writes_its_own_bos(speller: Policy) -> None:
    """No second one comes before it."""
    policy = opened(speller, "<pad> $A", "<pad>")
    policy.tokenizer.chat_template = "{{ bos_token }} {% for m in messages %}{{ m.content }}{% endfor %}"
    assert policy.encode_prompt("a b") == [0, 3, 4]


def test_an_encoder_keeps_its_tokenizer_s_frame(bart: Policy) -> None:
    """Shots are framed one by one, as they were."""
    context = encode_shots(bart, "name[Quill]", [demonstration("area[old town]", "Old.")], 4).tokens
    first = bart.encode_prompt("area[old town]") + bart.encode_response("Old.", 9)
    assert context == first + bart.encode_prompt("name[Quill]")
