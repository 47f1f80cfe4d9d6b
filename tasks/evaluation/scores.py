"""Scores a file of system outputs against references: the body of `nightjar score FILE`.

Reads JSONL (plain or .gz) whose rows hold `references` (a list of texts) and the texts to score: `output`
or `completion` for one system, `outputs` {system: text} for several. Writes nothing; every number comes
with the signature of its variant. What is a word is chosen by the language; Porter's stemmer is for English alone.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from rlhf.blank import is_blank
from rlhf.evaluation import bleu, chrf, rouge
from rlhf.evaluation.language import Tokenization, choose_tokens
from tasks.figures import FIGURES
from tasks.files import read_rows

SINGLE = ("output", "completion")
ROUGE_TYPES = ("rouge1", "rouge2", "rougeL", "rougeLsum")
ROUGE_VARIANTS: dict[str, tuple[rouge.Refs, bool]] = {
    "first": ("first", False),
    "max": ("max", False),
    "max_stem": ("max", True),
}
BLEU_VARIANTS: dict[str, dict[str, Any]] = {
    "sacrebleu_multiref": {},
    "sacrebleu_lc_multiref": {"lowercase": True},
    "sacrebleu_firstref": {"refs": "first"},
    "mteval_bleu": {"lowercase": True, "smooth": "none"},
}


class Scores(NamedTuple):
    """The figures of every system in a file.

    Attributes:
        rows: number of rows that were scored.
        values: system -> variant -> figure (ROUGE and mteval BLEU 0 to 1, sacrebleu's BLEU and chrF 0 to 100).
        signatures: variant -> how it was computed.
    """

    rows: int
    values: dict[str, dict[str, float]]
    signatures: dict[str, str]


class Outputs(NamedTuple):
    """N rows: the references of each, and one text per row for every system."""

    references: list[list[str]]
    texts: dict[str, list[str]]


def score_file(path: Path, references: Path | None = None, language: str = "en") -> Scores:
    """Every variant of ROUGE and BLEU, and chrF, for every system of a file.

    Args:
        path: rows with texts to score, and with their references unless `references` is given.
        references: a file of rows `{id, references}`, joined to those of `path` by `id`.
        language: ISO 639, or `auto` to find it in the references.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a row lacks texts, references with a word or a system that other rows have; it names file and line.
    """
    outputs = read_outputs(path, references)
    tokens = choose_tokens(language, outputs.references)
    values: dict[str, dict[str, float]] = {system: {} for system in outputs.texts}
    for name, figures in _variants(outputs, tokens):
        for system, figure in zip(outputs.texts, figures, strict=True):
            values[system][name] = figure
    return Scores(len(outputs.references), values, _signatures(outputs.references, tokens))


def read_outputs(path: Path, references: Path | None = None) -> Outputs:
    """Reads and checks a file of outputs; arguments and errors as `score_file`."""
    by_id = None if references is None else _references_by_id(references)
    rows: list[list[str]] = []
    texts: dict[str, list[str]] = {}
    for number, row in read_rows(path):
        location = f"{path}:{number}"
        outputs = _texts(row, location)
        if rows and outputs.keys() != texts.keys():
            raise ValueError(
                f"{location}: found the systems {sorted(outputs)}, the rows above have {sorted(texts)}; "
                "give every row the same systems"
            )
        for system, text in outputs.items():
            texts.setdefault(system, []).append(text)
        rows.append(_references(row, location) if by_id is None else _joined(row, by_id, location, references))
    return Outputs(rows, texts)


def render(scores: Scores) -> str:
    """The scores as text: a table per family of variants, the signatures below."""
    from io import StringIO

    from rich.console import Console

    # Wide enough that no figure is folded, whatever the terminal: the text may go to a file.
    console = Console(file=StringIO(), width=160, color_system=None, highlight=False, markup=False)
    console.print(f"{scores.rows} rows")
    for title, names in _families(scores.signatures).items():
        console.print(_table(title, names, scores.values))
    console.print("signatures", style="bold")
    width = max(len(name) for name in scores.signatures)
    for name, signature in scores.signatures.items():
        console.print(f"  {name:<{width}}  {signature}", soft_wrap=True)
    assert isinstance(console.file, StringIO)
    return "\n".join(line.rstrip() for line in console.file.getvalue().splitlines()) + "\n"


def _table(title: str, names: list[str], values: dict[str, dict[str, float]]) -> Any:
    from rich import box
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("system", no_wrap=True)
    for name in names:
        table.add_column(name, justify="right", no_wrap=True)
    for system, figures in values.items():
        table.add_row(system, *(_figure(name, figures[name]) for name in names))
    return table


def _figure(name: str, value: float) -> str:
    """As BLEU is told where it is a percentage, as ROUGE is where it is a share: digits that tell systems apart."""
    return FIGURES["bleu" if name.startswith(("sacrebleu", "chrf")) else "rougeL"].show(value)


def _families(names: Collection[str]) -> dict[str, list[str]]:
    """The variants by the table that shows them."""
    families = {
        f"ROUGE F1 ({title})": [f"{kind}_{suffix}" for kind in ROUGE_TYPES]
        for suffix, title in {
            "first": "first reference",
            "max": "best reference",
            "max_stem": "best reference, stemmed",
        }.items()
        if f"rouge1_{suffix}" in names
    }
    rest = [name for name in names if not any(name in family for family in families.values())]
    titles = [FIGURES[key].title for key in ("bleu", "chrf", "rougeL")]
    title = "{} (sacrebleu 0 to 100, mteval 0 to 1), {} (0 to 100) and {} of the COCO scripts".format(*titles)
    return families | {title: rest}


def _rouge_variants(tokens: Tokenization) -> Mapping[str, tuple[rouge.Refs, bool]]:
    english = tokens.words == "rouge_score"
    return {suffix: variant for suffix, variant in ROUGE_VARIANTS.items() if english or not variant[1]}


def _variants(outputs: Outputs, tokens: Tokenization) -> Iterator[tuple[str, list[float]]]:
    """Yields each variant with one figure per system; all systems go in one call, sharing their tokens."""
    count, systems = len(outputs.references), list(outputs.texts.values())
    texts = [text for system in systems for text in system]
    references = outputs.references * len(systems)

    def means(scores: list[float]) -> list[float]:
        return [fmean(scores[start : start + count]) for start in range(0, len(scores), count)]

    for suffix, (refs, stemmer) in _rouge_variants(tokens).items():
        rows = rouge.rouge_rows(texts, references, refs, stemmer, tokens.words)
        for kind in ROUGE_TYPES:
            yield f"{kind}_{suffix}", means(rows[kind])
    yield "coco_rougeL", means(rouge.coco_rouge_rows(texts, references, words=tokens.words))
    for name, options in BLEU_VARIANTS.items():
        # mteval prints a share.
        scale = 0.01 if name == "mteval_bleu" else 1.0
        figures = bleu.bleu_systems(systems, outputs.references, tokenize=tokens.bleu, **options)
        yield name, [scale * score for score in figures]
    yield "chrf", [chrf.chrf(system, outputs.references) for system in systems]


def _signatures(references: list[list[str]], tokens: Tokenization) -> dict[str, str]:
    """The signature of every variant, in the order of `_variants`."""
    signatures = {
        f"{kind}_{suffix}": rouge.rouge_signature(refs, stemmer, tokens.words)
        for suffix, (refs, stemmer) in _rouge_variants(tokens).items()
        for kind in ROUGE_TYPES
    }
    signatures["coco_rougeL"] = rouge.coco_rouge_signature(words=tokens.words)
    for name, options in BLEU_VARIANTS.items():
        signatures[name] = bleu.bleu_signature(references, tokenize=tokens.bleu, **options)
    signatures["mteval_bleu"] += "|scale:0-1"
    signed = {name: f"{signature}|{tokens.signature}" for name, signature in signatures.items()}
    return signed | {"chrf": chrf.chrf_signature(references)}


def _texts(row: dict[str, Any], location: str) -> dict[str, str]:
    """The texts of a row by system; a single system is called by its field's name."""
    outputs = row.get("outputs")
    texts = outputs if "outputs" in row else {name: row[name] for name in SINGLE if name in row}
    if not isinstance(texts, dict) or not texts:
        raise ValueError(f"{location}: found no text to score; give output, or outputs as {{system: text}}")
    for system, text in texts.items():
        if not isinstance(text, str):
            raise ValueError(f"{location}: {system} is {type(text).__name__}; give a text (it may be empty)")
    return texts


def _references(row: dict[str, Any], location: str) -> list[str]:
    """The references of a row: one or more texts."""
    references = row.get("references")
    if not isinstance(references, list) or not references or not all(isinstance(text, str) for text in references):
        raise ValueError(f"{location}: references is {references!r:.60}; give a list of one or more texts")
    if all(map(is_blank, references)):
        raise ValueError(f"{location}: references hold no text: whatever was written would score 0; leave the row out")
    return references


def _references_by_id(path: Path) -> dict[str, list[str]]:
    return {str(row.get("id")): _references(row, f"{path}:{number}") for number, row in read_rows(path)}


def _joined(row: dict[str, Any], by_id: dict[str, list[str]], location: str, source: Path | None) -> list[str]:
    key = str(row.get("id"))
    if key not in by_id:
        raise ValueError(f"{location}: id {key} has no references in {source}; give it a row there")
    return by_id[key]
