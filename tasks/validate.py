"""Guards the data: nothing learns from what did not pass here.

Reads data/raw and every file below data/feedback. Checks them with Great Expectations, sends bad rows to
data/quarantine with their reasons, and stops the night when an error-level expectation fails or too many
rows are bad. Writes data/validated/{train,dev,test}/{demonstrations,prompts}.jsonl, split by prompt (and
general.jsonl where ingest wrote demonstrations of other tasks), and the kept rankings to
data/validated/feedback under their own names. The Data Docs show every suite.

    python -m tasks validate
"""

from __future__ import annotations

import shutil
from collections.abc import Container, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

from rlhf.habits import habits
from rlhf.preferences import tied_couples
from rlhf.records import Demonstration, Prompt, Ranking, prompt_key
from rlhf.settings.model import ModelSettings
from rlhf.tokenizers import corpus_of
from tasks.files import write_rows
from tasks.params.validate import ValidateParams
from tasks.progress import warn
from tasks.sources.files import files_below, iter_file, rankings_name
from tasks.sources.rows import Problems, iter_as_records
from tasks.sources.shapes import without_shapes
from tasks.stage_files import StageFiles
from tasks.validation.expectations import SuiteVerdict, check_table
from tasks.validation.frames import demonstration_frame, feedback_frame, prompt_frame
from tasks.validation.lengths import Lengths, lengths_of, trained_lengths
from tasks.validation.record_lines import RecordLines
from tasks.validation.splits import SplitRows, assign_splits, declared_splits, divide, twins
from tasks.validation.suites import demonstration_checks, feedback_checks, prompt_checks

RecordT = TypeVar("RecordT", Demonstration, Prompt, Ranking)
SUITES = ("demonstrations", "prompts", "general", "feedback")


@dataclass(frozen=True)
class Inputs:
    """Everything that the stage reads."""

    demonstrations: RecordLines[Demonstration]
    prompts: RecordLines[Prompt]
    general: RecordLines[Demonstration]
    """Demonstrations of other tasks; none where ingest wrote none."""
    feedback: RecordLines[Ranking]
    feedback_files: list[str]
    """For each ranking its file below data/feedback, by its name once validated."""
    files: list[str]
    """The feedback files, by their names once validated."""

    @property
    def data(self) -> Iterator[Demonstration | Prompt]:
        """What is split by its prompts."""
        return chain(self.demonstrations, self.prompts, self.general)

    @property
    def count(self) -> int:
        """Rows in all."""
        return len(self.demonstrations) + len(self.prompts) + len(self.general) + len(self.feedback)


def run(files: StageFiles, params: ValidateParams, model: ModelSettings) -> dict[str, float]:
    """Writes data/validated and data/quarantine and returns the counts.

    Raises:
        FileNotFoundError: data/raw is missing.
        ValueError: a row is malformed, an error-level expectation fails, too many rows are bad, or a split
            that the later stages need would be empty.
    """
    inputs = read_inputs(files)
    declared = declared_splits(inputs.data)
    splits = assign_splits(inputs.data, declared, params.dev_share, params.test_share, params.seed)
    lengths = _lengths(inputs, splits, model)
    verdicts = _check(inputs, declared, twins(inputs.data), splits, lengths, params, model, files.aside["docs"])
    _stop_or_warn(verdicts, params.max_rejected_share, inputs, files.aside["docs"])
    seen = habits(inputs.feedback)
    for line in seen:
        warn(f"data/feedback: {line}")
    rejected = {name: verdicts[name].reasons if name in verdicts else () for name in SUITES}
    kept = Inputs(
        _keep(inputs.demonstrations, rejected["demonstrations"]),
        _keep(inputs.prompts, rejected["prompts"]),
        _keep(inputs.general, rejected["general"]),
        _keep(inputs.feedback, rejected["feedback"]),
        [file for row, file in enumerate(inputs.feedback_files) if row not in rejected["feedback"]],
        inputs.files,
    )
    parts = divide(kept.demonstrations, kept.prompts, kept.general, splits, lengths, params.max_response_tokens)
    _write(files, inputs, kept, parts, verdicts)
    metrics = _metrics(inputs, kept, parts, verdicts)
    return metrics | {"warnings": metrics["warnings"] + len(seen)}


def _lengths(inputs: Inputs, splits: dict[str, str], model: ModelSettings) -> Lengths:
    """Counts as the night's model reads; one from scratch as SFT will train its tokenizer on these rows."""
    if model.name is not None:
        return lengths_of(model.name, model.trust_remote_code)
    train = (row for row in inputs.demonstrations if splits[prompt_key(row.prompt)] == "train")
    return trained_lengths(corpus_of(train), model.vocab_size)


def read_inputs(files: StageFiles) -> Inputs:
    """Reads data/raw and data/feedback; all malformed rows are reported together."""
    problems = Problems()

    def read(name: str, record: type[RecordT]) -> RecordLines[RecordT]:
        rows = iter_file(files.inputs["raw"] / f"{name}.jsonl", f"data/raw/{name}.jsonl", problems)
        return RecordLines(record, iter_as_records(rows, record, problems))

    demonstrations, prompts = read("demonstrations", Demonstration), read("prompts", Prompt)
    has_general = (files.inputs["raw"] / "general.jsonl").is_file()
    general = read("general", Demonstration) if has_general else RecordLines(Demonstration)
    feedback, feedback_files, sources = RecordLines(Ranking), list[str](), dict[str, str]()
    for file in _feedback_files(files.inputs["feedback"]):
        source = file.relative_to(files.inputs["feedback"]).as_posix()
        name = str(rankings_name(source))
        if name in sources:
            raise ValueError(f"data/feedback holds {sources[name]} and {source}; keep one of the two")
        sources[name] = source
        shown = f"data/feedback/{source}"
        rows = without_shapes(iter_file(file, shown, problems), shown, "rankings", problems)
        feedback.extend(iter_as_records(rows, Ranking, problems))
        feedback_files += [name] * (len(feedback) - len(feedback_files))
    problems.stop()
    return Inputs(demonstrations, prompts, general, feedback, feedback_files, list(sources))


def _feedback_files(folder: Path) -> list[Path]:
    """All rankings' files below a folder; notes, DVC's pointers and hidden files are none."""
    if not folder.is_dir():
        return []
    files = [file for file in files_below(folder) if not file.name.startswith(".")]
    for file in files:
        name = file.relative_to(folder).as_posix()
        if rankings_name(name) is None and not file.name.endswith((".md", ".txt", ".dvc")):
            raise ValueError(
                f"data/feedback/{name}: found a {file.suffix or 'nameless'} file; write rankings as .jsonl or "
                "another of the formats that the README there names, or move it elsewhere"
            )
    return [file for file in files if rankings_name(file.name) is not None]


def _check(
    inputs: Inputs,
    declared: dict[str, list[str]],
    forms: dict[str, str],
    splits: dict[str, str],
    lengths: Lengths,
    params: ValidateParams,
    model: ModelSettings,
    docs: Path,
) -> dict[str, SuiteVerdict]:
    longest = min(params.max_prompt_tokens, model.max_prompt_tokens)
    for_demonstrations, context = demonstration_checks(params, longest), (declared, forms, lengths)
    # Each table is made when the one before is done with.
    verdicts = [
        check_table(demonstration_frame(inputs.demonstrations, *context), "demonstrations", for_demonstrations, docs),
        check_table(prompt_frame(inputs.prompts, *context), "prompts", prompt_checks(params, longest), docs),
    ]
    if inputs.general:
        verdicts.append(check_table(demonstration_frame(inputs.general, *context), "general", for_demonstrations, docs))
    if inputs.feedback:
        feedback = feedback_frame(inputs.feedback, inputs.feedback_files, splits, lengths)
        verdicts.append(check_table(feedback, "feedback", feedback_checks(params, longest), docs))
    return {verdict.suite: verdict for verdict in verdicts}


def _stop_or_warn(verdicts: dict[str, SuiteVerdict], max_rejected_share: float, inputs: Inputs, docs: Path) -> None:
    errors = [line for verdict in verdicts.values() for line in verdict.lines("error")]
    for name, verdict in verdicts.items():
        total = len(getattr(inputs, name))
        if len(verdict.reasons) > max_rejected_share * total:
            errors.append(
                f"{name}: {len(verdict.reasons)} of {total} rows are bad, more than "
                f"validate.max_rejected_share {max_rejected_share} allows"
            )
            errors += verdict.lines("row")
    if errors:
        listed = "\n".join(f"- {error}" for error in errors)
        raise ValueError(f"the data did not pass; nothing was written\n{listed}\nData Docs: {docs / 'index.html'}")
    for verdict in verdicts.values():
        for line in verdict.lines("row"):
            warn(f"in data/quarantine: {line}")
        for line in verdict.lines("warning"):
            warn(line)


def _keep(rows: RecordLines[RecordT], rejected: Container[int]) -> RecordLines[RecordT]:
    return rows.chosen(row for row in range(len(rows)) if row not in rejected)


def _write(
    files: StageFiles,
    inputs: Inputs,
    kept: Inputs,
    parts: dict[str, SplitRows],
    verdicts: dict[str, SuiteVerdict],
) -> None:
    for folder in files.outputs.values():
        shutil.rmtree(folder, ignore_errors=True)
    for split, part in parts.items():
        part.demonstrations.write(files.outputs[split] / "demonstrations.jsonl")
        part.prompts.write(files.outputs[split] / "prompts.jsonl")
        if part.general:
            part.general.write(files.outputs[split] / "general.jsonl")
    files.outputs["rankings"].mkdir(parents=True)
    for name in inputs.files:
        rankings = kept.feedback.chosen(row for row, file in enumerate(kept.feedback_files) if file == name)
        rankings.write(files.outputs["rankings"] / name)
    for name in ["demonstrations", "prompts", "feedback"] + ["general"] * bool(inputs.general):
        reasons = verdicts[name].reasons if name in verdicts else {}
        write_rows(
            files.outputs["quarantine"] / f"{name}.jsonl",
            [_quarantined(inputs, name, row, reasons[row]) for row in sorted(reasons)],
        )


def _quarantined(inputs: Inputs, name: str, row: int, reasons: list[str]) -> dict[str, Any]:
    file = {"file": inputs.feedback_files[row]} if name == "feedback" else {}
    return {**getattr(inputs, name)[row].model_dump(mode="json"), **file, "reasons": reasons}


def _metrics(
    inputs: Inputs, kept: Inputs, parts: dict[str, SplitRows], verdicts: dict[str, SuiteVerdict]
) -> dict[str, float]:
    metrics: dict[str, float] = {
        "rows_in": inputs.count,
        "rows_kept": kept.count,
        "rows_rejected": inputs.count - kept.count,
        "warnings": sum(len(verdict.at("warning")) for verdict in verdicts.values()),
        "feedback_rankings": len(kept.feedback),
    }
    for split, part in parts.items():
        metrics[f"{split}_demonstrations"] = len(part.demonstrations)
        metrics[f"{split}_prompts"] = len(part.prompts)
        if part.general:
            metrics[f"{split}_general"] = len(part.general)
    if kept.feedback:
        couples = [(tied_couples(row.ranks), len(row.ranks) * (len(row.ranks) - 1) // 2) for row in kept.feedback]
        metrics["feedback_tie_share"] = sum(tied for tied, _ in couples) / sum(count for _, count in couples)
    return metrics
