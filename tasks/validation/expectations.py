"""Great Expectations: runs a suite on a table and renders the Data Docs.

The one module that imports great_expectations. Data Docs hold the latest run of each suite.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlhf.blank import is_blank
from tasks.validation.checks import DataCheck

if TYPE_CHECKING:
    import pandas as pd

SHOWN = 3
"""Example rows in a message."""


@dataclass(frozen=True)
class Failure:
    """An expectation that does not hold."""

    check: DataCheck
    rows: list[int]
    """Row numbers at fault; empty where the table as a whole is."""
    observed: str
    """What was found, with example rows."""


@dataclass
class SuiteVerdict:
    """What a suite found in a table."""

    suite: str
    docs: Path
    """The Data Docs' index.html."""
    failures: list[Failure] = field(default_factory=list)
    reasons: dict[int, list[str]] = field(default_factory=dict)
    """For each row that a row-level expectation rejects, why."""

    def at(self, level: str) -> list[Failure]:
        """The failures of one level: error, row or warning."""
        return [failure for failure in self.failures if failure.check.level == level]

    def lines(self, level: str) -> list[str]:
        """The failures of one level for people: what was expected and found, and what to do."""
        return [
            f"{self.suite}: {failure.check.reason} [{failure.check.kind}"
            f"{'(' + failure.check.column + ')' if failure.check.column else ''}]: {failure.observed}; "
            f"to do: {failure.check.remedy}"
            for failure in self.at(level)
        ]


def check_table(table: pd.DataFrame, suite: str, checks: list[DataCheck], docs: Path) -> SuiteVerdict:
    """Runs a suite on a table as a checkpoint and renders its result into the Data Docs.

    Args:
        table: one row per record; the column `row` numbers them, `id` names them in messages.
        suite: the suite's name, which the Data Docs show.
        checks: the expectations.
        docs: folder of the Data Docs; those of other suites in it stay.

    Raises:
        RuntimeError: an expectation could not be computed, which is a defect of the suite.
    """
    os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")
    import great_expectations as gx
    from great_expectations.checkpoint.actions import UpdateDataDocsAction

    _forget(docs, suite)
    context = _context(docs)
    batch = context.data_sources.add_pandas(suite).add_dataframe_asset(suite)
    expectations = [
        getattr(gx.expectations, check.kind)(
            **check.arguments, meta={"check": number, "level": check.level}, notes=check.remedy
        )
        for number, check in enumerate(checks)
    ]
    definition = context.validation_definitions.add(
        gx.ValidationDefinition(
            name=suite,
            data=batch.add_batch_definition_whole_dataframe(suite),
            suite=context.suites.add(gx.ExpectationSuite(name=suite, expectations=expectations)),
        )
    )
    checkpoint = context.checkpoints.add(
        gx.Checkpoint(
            name=suite,
            validation_definitions=[definition],
            actions=[UpdateDataDocsAction(name="docs")],
            result_format={"result_format": "COMPLETE", "unexpected_index_column_names": ["row"]},
        )
    )
    results = checkpoint.run(batch_parameters={"dataframe": table}).run_results
    context.data_sources.delete(suite)  # the library knows its latest context, which would keep the table
    return _verdict(table, suite, checks, docs, next(iter(results.values())).results)


def _context(docs: Path) -> Any:
    """A context that keeps suites and results beside the Data Docs, so that all suites stay listed."""
    import great_expectations as gx
    from great_expectations.data_context.types.base import (
        DataContextConfig,
        InMemoryStoreBackendDefaults,
        ProgressBarsConfig,
    )

    def files(folder: Path) -> dict[str, str]:
        return {"class_name": "TupleFilesystemStoreBackend", "base_directory": str(folder.absolute())}

    defaults = InMemoryStoreBackendDefaults()
    for name, folder in (("expectations_store", "suites"), ("validation_results_store", "results")):
        defaults.stores[name]["store_backend"] = files(docs / ".stores" / folder)
    site = {
        "class_name": "SiteBuilder",
        "show_how_to_buttons": False,
        "site_index_builder": {"class_name": "DefaultSiteIndexBuilder"},
        "store_backend": files(docs),
    }
    config = DataContextConfig(
        store_backend_defaults=defaults,
        data_docs_sites={"nightjar": site},
        analytics_enabled=False,
        progress_bars=ProgressBarsConfig(globally=False),
    )
    return gx.get_context(mode="ephemeral", project_config=config)


def _forget(docs: Path, suite: str) -> None:
    """Removes the suite's earlier run, whose pages would otherwise pile up night by night."""
    for folder in (docs / "validations" / suite, docs / ".stores" / "results" / suite):
        shutil.rmtree(folder, ignore_errors=True)
    (docs / ".stores" / "suites" / f"{suite}.json").unlink(missing_ok=True)


def _verdict(table: pd.DataFrame, suite: str, checks: list[DataCheck], docs: Path, results: list[Any]) -> SuiteVerdict:
    verdict = SuiteVerdict(suite, docs / "index.html")
    for result in sorted(results, key=lambda result: result.expectation_config.meta["check"]):
        check = checks[result.expectation_config.meta["check"]]
        if result.success:
            continue
        if result.exception_info and result.exception_info.get("raised_exception", True):
            raise RuntimeError(f"{suite}: {check.kind} could not be computed: {result.exception_info}")
        indices = result.result.get("unexpected_index_list") or []
        rows = sorted({int(index["row"]) for index in indices})
        verdict.failures.append(Failure(check, rows, _observed(table, check, rows, result.result)))
        if check.level == "row":
            for row in rows:
                verdict.reasons.setdefault(row, []).append(_reason(table, check, row))
    return verdict


def _observed(table: pd.DataFrame, check: DataCheck, rows: list[int], result: dict[str, Any]) -> str:
    if not rows:
        value = result.get("observed_value")
        shown = f"{value:.4g}" if isinstance(value, float) else str(value)
        bound = check.arguments.get("max_value", check.arguments.get("min_value", "it to hold"))
        return f"found {shown}, expected {bound}"
    names = table["id" if "id" in table else "row"]
    examples = "; ".join(
        f"{names[row]}" + (f" ({_value(table, check, row)!r:.80})" if check.column not in (None, "id") else "")
        for row in rows[:SHOWN]
    )
    return f"found in {len(rows)} of {len(table)} rows, such as {examples}"


def _reason(table: pd.DataFrame, check: DataCheck, row: int) -> str:
    value = _value(table, check, row) if check.column else ""
    return check.reason if is_blank(str(value)) else f"{check.reason}: {value}"


def _value(table: pd.DataFrame, check: DataCheck, row: int) -> Any:
    """What a row has in the check's column, as Python's own value: numpy's show their type."""
    value = table[check.column][row]
    return value.item() if hasattr(value, "item") else value
