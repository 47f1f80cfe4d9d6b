"""What ROUGE and BLEU count in each language: equal texts score all, other words none, English as ever."""

from __future__ import annotations

import random
import string

import pytest

from rlhf.evaluation import language
from rlhf.evaluation.bleu import bleu, bleu_signature
from rlhf.evaluation.language import choose_tokens, find_language, missing, unicode_words
from rlhf.evaluation.rouge import coco_rouge, rouge, rouge_signature

TEXTS = {
    "hi": "नमस्ते दुनिया, आप कैसे हैं",
    "ar": "السلام عليكم ورحمة الله",
    "th": "ร้านอาหารนี้อร่อยมาก",
    "zh": "这家餐厅的菜很好吃。",
    "ja": "このレストランはとても美味しいです。",
    "ko": "이 식당은 아주 맛있어요",
    "ru": "В этом городе есть хорошее кафе",
    "de": "die Größe zählt nicht",
}


@pytest.mark.parametrize("code", TEXTS)
def test_a_text_equals_itself_in_every_language(code: str) -> None:
    """All of it in ROUGE and BLEU, whether the language is named or not, and none of it in another text."""
    text = TEXTS[code]
    for name in (code, "auto"):
        tokens = choose_tokens(name, [[text]])
        assert set(rouge([text], [[text]], words=tokens.words).values()) == {1.0}
        assert coco_rouge([text], [[text]], words=tokens.words)["rougeL"] == 1.0
        assert bleu([text], [[text]], tokenize=tokens.bleu) == pytest.approx(100.0)
        assert set(rouge(["xyz"], [[text]], words=tokens.words).values()) == {0.0}


def test_a_word_with_another_vowel_is_another_word() -> None:
    """Two of three words: F = 2/3; rouge-score's tokens see `gr e` and `z hlt` on both sides."""
    assert rouge(["die Größe zählt"], [["die Grüße zählt"]], words="unicode")["rouge1"] == pytest.approx(2 / 3)
    # 5 letters of 6 and of 6, in order, 4 bigrams of 5: one letter of Chinese is changed, the last.
    changed = rouge(["我爱北京天安"], [["我爱北京天气"]], words="unicode")
    assert changed == pytest.approx({"rouge1": 5 / 6, "rouge2": 4 / 5, "rougeL": 5 / 6, "rougeLsum": 5 / 6})
    # BLEU of the same: 5/6 · 4/5 · 3/4 · 2/3 = 1/3; to 13a it is one word.
    assert bleu(["我爱北京天安"], [["我爱北京天气"]], tokenize="zh") == pytest.approx(100 * (1 / 3) ** 0.25)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("हिन्दी में", ["हिन्दी", "में"]),  # virama and matras stay
        ("می\u200cخواهم", ["میخواهم"]),  # a joiner that is not seen ends no word
        ("cafe\u0301 CAFÉ", ["café", "café"]),  # composed or not, it is one letter
        ("我有3个apple。", ["我", "有", "3", "个", "apple"]),
        ("l'eau_x", ["l", "eau", "x"]),
        ("👍 – !", []),
    ],
)
def test_words_of_unicode(text: str, words: list[str]) -> None:
    """Letters and digits with their marks, lower-cased; nothing else."""
    assert unicode_words(text) == words


def test_on_ascii_the_words_are_rouge_scores() -> None:
    """So that English, and what was measured of it before, is the same to the digit in both ways."""
    from rouge_score.tokenizers import DefaultTokenizer

    draw = random.Random(0)
    for _ in range(200):
        text = "".join(draw.choices(string.printable, k=60))
        assert unicode_words(text) == DefaultTokenizer(use_stemmer=False).tokenize(text)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("The Eagle is a café near the river.", "en"),
        ("Das Café am Fluss ist sehr schön.", "und"),
        ("El gato duerme en la casa.", "und"),
        ("这是 a cat, say: 猫。", "zh"),
        ("映画を見る", "ja"),
        ("한국어 漢字", "ko"),
        ("123 !", "und"),
        *((TEXTS[code], code if code in ("th", "zh", "ja", "ko") else "und") for code in TEXTS),
    ],
)
def test_the_language_of_references_is_seen_in_their_letters(text: str, code: str) -> None:
    """Scripts of one language name it; English is known by its function words; others need no rule of their own."""
    assert find_language([[text]]) == code


def test_auto_is_in_the_signature_and_a_region_is_no_other_language() -> None:
    """Whoever reads the number knows that nobody named the language."""
    chinese = [["我爱北京。"]]
    assert choose_tokens("auto", chinese).signature == "lang:auto=zh"
    assert choose_tokens("zh-TW", chinese)[:1] == choose_tokens("zh_CN", chinese)[:1] == ("zh",)
    assert choose_tokens("zh", chinese).signature == "lang:zh"
    assert "|tok:zh|" in bleu_signature(chinese, tokenize="zh")
    assert rouge_signature(words="unicode") != rouge_signature(words="rouge_score")


def test_english_keeps_its_tokens_among_rows_that_it_can_count() -> None:
    """One row in another script: the words of any language are counted, rather than nothing."""
    english = [["The cat is on the mat of the house."]] * 200
    assert choose_tokens("auto", english)[2:] == ("rouge_score", "13a")
    assert choose_tokens("auto", [*english, ["नमस्ते"]]).words == "unicode"


@pytest.mark.parametrize(
    ("code", "row", "message"),
    [
        ("auto", ["👍", "!"], r"references\[1\] \(👍\): ROUGE needs a word; give references that say something"),
        (
            "en",
            ["नमस्ते दुनिया 3"],
            r"references\[1\] \(नमस्ते दुनिया 3\): ROUGE needs most of their letters in a-z; name their language",
        ),
    ],
)
def test_references_without_tokens_are_named(code: str, row: list[str], message: str) -> None:
    """They could only score 0, whatever was written; one reference with words is enough."""
    with pytest.raises(ValueError, match=message):
        choose_tokens(code, [["the cat is"], row])
    choose_tokens(code, [["the cat is"], [*row, "a dog is"]])
    with pytest.raises(ValueError, match="found no tokens to score by"):
        rouge(["a", "b"], [["a"], row])
    with pytest.raises(ValueError, match=r"references\[0\] holds no text"):
        bleu(["a"], [["", " "]])


def test_sacrebleus_tokenizers_are_taken_where_they_are_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """MeCab's for Japanese and Korean; without it letters, or words; one that is asked for by name must be there."""
    japanese, korean = [[TEXTS["ja"]]], [[TEXTS["ko"]]]
    monkeypatch.setattr(language, "find_spec", lambda name: object())
    assert choose_tokens("ja", japanese).bleu == "ja-mecab"
    assert choose_tokens("ko", korean).bleu == "ko-mecab"
    monkeypatch.setattr(language, "find_spec", lambda name: None)
    assert choose_tokens("ja", japanese).bleu == "char"
    assert choose_tokens("ko", korean).bleu == "13a"
    assert choose_tokens("ja", japanese, "zh").bleu == "zh"
    with pytest.raises(
        ValueError, match=r"needs MeCab and ipadic \(pip install 'sacrebleu\[ja\]'\); install it, or choose"
    ):
        choose_tokens("ja", japanese, "ja-mecab")
    assert "sentencepiece" in missing("flores200")


def test_the_stemmer_is_for_english() -> None:
    """Porter's rules on other languages would join words at random."""
    with pytest.raises(ValueError, match="stemmer is Porter's"):
        rouge(["a"], [["a"]], stemmer=True, words="unicode")
