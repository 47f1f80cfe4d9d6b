"""What the runs say: medians, ranges, ratios of paired repetitions, and multiples of the floor."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Any, NamedTuple

from tests.benchmarks import floor
from tests.benchmarks.cases import Case
from tests.benchmarks.harness import Runs
from tests.benchmarks.shapes import PREFIX

PRODUCTS = ("mkl", "onednn", "cublas")

STATED = {"NVIDIA H200": 989e12, "NVIDIA H100 80GB HBM3": 989e12, "NVIDIA A100-SXM4-80GB": 312e12}
"""Operations per second in bfloat16 that the makers' data sheets give without sparsity, by what torch calls a GPU."""


class Spread(NamedTuple):
    """The middle of some repetitions, and how far they lie apart."""

    median: float
    lowest: float
    highest: float


def spread(values: Sequence[float]) -> Spread:
    """Median, lowest and highest."""
    return Spread(median(values), min(values), max(values))


def ratio(theirs: Sequence[float], ours: Sequence[float]) -> Spread:
    """How many times faster ours is, from repetitions that ran one after the other."""
    return spread([their / our for their, our in zip(theirs, ours, strict=True)])


def for_the_same_tokens(values: Sequence[float], figures: Sequence[dict[str, float]], expected: float) -> list[float]:
    """Seconds for the expected number of tokens, where each repetition sampled a number of its own."""
    return [value * expected / said.get("tokens", expected) for value, said in zip(values, figures, strict=True)]


def best_rates(measured: Sequence[dict[str, float]], itemsize: int = 4) -> floor.Rates:
    """The best that any library reached in any repetition."""
    products = max(rates[name] for rates in measured for name in PRODUCTS if name in rates)
    return floor.Rates(products, max(rates["bandwidth"] for rates in measured), itemsize)


def summarise(
    case: Case, runs: Sequence[Runs], machine: Runs, itemsize: int = 4, accelerator: str | None = None
) -> dict[str, Any]:
    """One case as plain data: each contender with its repetitions, and our ratios to each peer.

    Args:
        case: what was run.
        runs: of its entries, in their order.
        machine: what `floor.machine` measured beside them.
        itemsize: bytes of a number.
        accelerator: what torch calls the GPU; None on the CPU.
    """
    rates, expected = best_rates(machine.figures, itemsize), floor.tokens(case.work, case.kind)
    rows: list[dict[str, Any]] = []
    for entry, run in zip(case.entries, runs, strict=True):
        if run.error:
            continue
        wall, cpu = (for_the_same_tokens(values, run.figures, expected) for values in (run.wall, run.cpu))
        least = floor.seconds(case.work, case.kind, rates, entry.options.get("critic", "network"))
        rows.append(
            {
                "name": entry.name,
                "ours": entry.ours,
                "differs": entry.differs,
                "wall": wall,
                "cpu": cpu,
                "seconds": spread(wall)._asdict(),
                "cpu_seconds": spread(cpu)._asdict(),
                "tokens_per_second": expected / median(wall),
                "floor_seconds": least,
                "times_floor": median(wall) / least,
                "start_mb": run.start_mb,
                "peak_mb": run.peak_mb,
                "figures": run.figures,
            }
        )
    for row in rows:
        if not row["ours"]:
            row["ratios"] = {
                our["name"]: {
                    "wall": ratio(row["wall"], our["wall"])._asdict(),
                    "cpu": ratio(row["cpu"], our["cpu"])._asdict(),
                    "memory": our["peak_mb"] / row["peak_mb"],
                }
                for our in rows
                if our["ours"]
            }
    measured = {name: max(rates[name] for rates in machine.figures) for name in machine.figures[0]}
    return {
        "name": case.name,
        "title": case.title,
        "kind": case.kind,
        "tokens": expected,
        "rates": measured,
        "accelerator": accelerator,
        "contenders": rows,
        "failed": {entry.name: run.error for entry, run in zip(case.entries, runs, strict=True) if run.error},
    }


def table(summary: dict[str, Any]) -> str:
    """One case as a Markdown table, with what differs below it."""
    ours = [row["name"] for row in summary["contenders"] if row["ours"]]
    heads = ["", "seconds", "CPU s", "tokens/s", "× floor", "peak MB", *(f"against {name}" for name in ours)]
    lines = [f"**{summary['title']}** ({summary['tokens']:,.0f} tokens)", "", _line(heads)]
    lines.append("|---|" + "---:|" * (len(heads) - 1))
    for row in summary["contenders"]:
        cells = [
            row["name"],
            _spread(row["seconds"]),
            f"{row['cpu_seconds']['median']:.3g}",
            f"{row['tokens_per_second']:,.0f}",
            f"{row['times_floor']:.1f}",
            f"{row['peak_mb']:,.0f}",
        ]
        for name in ours:
            found = row.get("ratios", {}).get(name)
            cells.append(_against(found) if found else "")
        lines.append(_line(cells))
    notes = [f"- {row['name']}: {row['differs']}." for row in summary["contenders"] if row["differs"]]
    for row in summary["contenders"]:
        notes += [*_shares(summary, row), *_memory(row)]
    notes += [f"- {name} failed: {error.strip().splitlines()[-1]}." for name, error in summary["failed"].items()]
    return "\n".join([*lines, "", *notes]) + "\n"


def _shares(summary: dict[str, Any], row: dict[str, Any]) -> list[str]:
    """Of a GPU's floor, and where that is operations alone, of the rate that its maker states."""
    if summary["accelerator"] is None:
        return []
    said = f"- {row['name']}: {1 / row['times_floor']:.0%} of what the floor allows"
    stated = STATED.get(summary["accelerator"])
    if summary["kind"] not in ("sft", "reward"):
        return [f"{said}."]
    said += " (model FLOPs over the rate measured"
    if stated is None:
        return [f"{said})."]
    rate = max(summary["rates"].get(name, 0.0) for name in PRODUCTS)
    return [f"{said}; {rate / row['times_floor'] / stated:.0%} of the {stated / 1e12:.0f} TFLOP/s stated)."]


def _memory(row: dict[str, Any]) -> list[str]:
    """The peak beside what must be there, where a contender says what that is."""
    must = {name.removeprefix(PREFIX): size for name, size in row["figures"][-1].items() if name.startswith(PREFIX)}
    if not must:
        return []
    parts = ", ".join(f"{name} {size:,.0f}" for name, size in must.items())
    whole = sum(must.values())
    return [
        f"- {row['name']}: peak {row['peak_mb']:,.0f} MB, {row['peak_mb'] / whole:.2f} × {whole:,.0f} MB ({parts})."
    ]


def conditions(machine: dict[str, Any]) -> str:
    """What the figures were taken on, in a line."""
    versions = ", ".join(f"{name} {number}" for name, number in machine["versions"].items())
    where = machine["accelerator"] or machine["processor"]
    return (
        f"{where}, {machine['cores']} cores, {machine['threads']} thread(s), {machine['device']}, "
        f"{machine['dtype']}; allocator: {machine['allocator']}; "
        f"{machine['repetitions']} repetitions; {versions}."
    )


def libraries(summaries: Sequence[dict[str, Any]]) -> str:
    """What the machine reached, and whether a library that nobody takes would multiply faster."""
    best = {name: max(summary["rates"].get(name, 0.0) for summary in summaries) for name in (*PRODUCTS, "bandwidth")}
    reached = ", ".join(f"{name} {best[name] / 1e9:.0f} GFLOP/s" for name in PRODUCTS if best[name])
    line = f"Matrix rate: {reached}; reading weights: up to {best['bandwidth'] / 1e9:.0f} GB/s."
    if best["mkl"] and best["onednn"]:
        gain = best["onednn"] / best["mkl"]
        if 0.8 < gain < 1.25:
            return f"{line} Both libraries multiply alike here."
        return f"{line} oneDNN multiplies {gain:.2f} times as fast as MKL, which all contenders take."
    return line


def _spread(found: dict[str, float]) -> str:
    return f"{found['median']:.3g} ({found['lowest']:.3g}–{found['highest']:.3g})"


def _against(found: dict[str, Any]) -> str:
    return f"{_spread(found['wall'])}×; CPU {found['cpu']['median']:.3g}×; memory {found['memory']:.2f}"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
