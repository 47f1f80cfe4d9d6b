"""`make bench`: ours and the peers side by side; `python -m tests.benchmarks --help` lists what can be chosen."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tasks.environment import ALLOCATOR, STEADY
from tests.benchmarks import report
from tests.benchmarks.cases import CASES, PIECES, Case
from tests.benchmarks.harness import Contender, model_of, race
from tests.benchmarks.shapes import SHAPES
from tests.benchmarks.worker import Job


def main() -> None:
    """Runs the chosen cases; prints the table of each as it ends, and writes all so far."""
    arguments, summaries = parse(), []
    machine = describe(arguments)
    print(report.conditions(machine), end="\n\n", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for case in arguments.cases:
            summaries.append(run(case, arguments, Path(folder)))
            print(report.table(summaries[-1]), flush=True)
            write(arguments, machine, summaries)
    print(report.libraries(summaries))
    failed = [f"{name}: {error}" for summary in summaries for name, error in summary["failed"].items()]
    if failed:
        sys.exit("\n".join(failed))


def write(arguments: argparse.Namespace, machine: dict[str, Any], summaries: Sequence[dict[str, Any]]) -> None:
    """Writes the cases so far to the files that are asked for."""
    if arguments.json:
        results = {"machine": machine, "cases": summaries}
        arguments.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    if arguments.markdown:
        parts = [report.conditions(machine), *map(report.table, summaries), report.libraries(summaries)]
        arguments.markdown.write_text("\n\n".join(part.strip() for part in parts) + "\n", encoding="utf-8")


def run(case: Case, arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Races the entries of a case, and the machine with them."""
    work = replace(case.work, shape=arguments.shape or case.work.shape)
    case = replace(case, work=work)
    if arguments.without:
        ours = [entry for entry in case.entries if entry.ours]
        case = replace(case, entries=(*ours, *(entry.without(arguments.without) for entry in ours)))
    model = model_of(work, folder)
    common = {name: getattr(arguments, name) for name in ("threads", "device", "dtype")}
    contenders = [Contender(Job("floor:machine", work, model, **common))]
    for entry in case.entries:
        mine = entry.subject.startswith("ours:")
        tuned = arguments.allocator == "same" or (arguments.allocator == "installed" and mine)
        job = Job(entry.subject, work, model, entry.options, **common)
        contenders.append(Contender(job, entry.peer, {**STEADY, **ALLOCATOR} if tuned else None))
    machine, *runs = race(contenders, arguments.repetitions)
    if machine.error:
        raise RuntimeError(machine.error)
    return report.summarise(
        case, runs, machine, 2 if arguments.dtype == "bfloat16" else 4, accelerator(arguments.device)
    )


def accelerator(device: str) -> str | None:
    """What torch calls the GPU; None on the CPU."""
    if device == "cpu":
        return None
    import torch

    return torch.cuda.get_device_name()


def describe(arguments: argparse.Namespace) -> dict[str, object]:
    """What the figures were taken on."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8") if Path("/proc/cpuinfo").exists() else ""
    models = [line.split(":")[1].strip() for line in lines.splitlines() if line.startswith("model name")]
    chosen = ("repetitions", "threads", "device", "dtype", "allocator")
    return {
        "processor": models[0] if models else platform.processor(),
        "accelerator": accelerator(arguments.device),
        "cores": os.cpu_count(),
        "versions": {name: version(name) for name in ("torch", "transformers", "accelerate")},
        **{name: getattr(arguments, name) for name in chosen},
    }


def parse() -> argparse.Namespace:
    """The command's arguments, its cases looked up; ends with what is wrong with them."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    known = {case.name: case for case in CASES}
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"{', '.join(known)}; or all")
    parser.add_argument("--repetitions", type=int, default=3, help="of each contender, after one to warm up")
    parser.add_argument("--threads", type=int, default=1, help="of torch in each contender")
    parser.add_argument("--shape", choices=SHAPES, help="another model than the case's own")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument(
        "--allocator",
        choices=("installed", "same", "none"),
        default="installed",
        help="who gets the allocator settings of the nightjar command: ours, everyone, nobody",
    )
    parser.add_argument("--without", choices=PIECES, help="races ours with and without a piece, in place of the peers")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--markdown", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    unknown = set(arguments.cases) - {*known, "all"}
    if unknown:
        parser.error(f"no case {', '.join(sorted(unknown))}; there are {', '.join(known)}, or all")
    if arguments.device == "cuda":
        import torch

        if not torch.cuda.is_available():
            parser.error("--device is cuda, but no CUDA device is visible")
    sized = [name for name, case in known.items() if case.device == arguments.device]
    usual = [name for name in sized if not known[name].extra]
    arguments.cases = [known[name] for name in (sized if "all" in arguments.cases else arguments.cases or usual)]
    return arguments


if __name__ == "__main__":
    main()
