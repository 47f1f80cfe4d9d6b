"""The `nightjar` command: each subcommand is one function here, and imports what it needs itself."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from tasks import environment, presets, stages
from tasks.params import Params, read_params, read_variants
from tasks.paths import Paths
from tasks.provenance import flatten

USER_ERRORS = (ValueError, FileNotFoundError, ConnectionError)
"""What people can mend: said in one message, without a traceback (--debug shows it)."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command and returns its exit code.

    0 is done, 1 an error of the user's, 2 misuse (from argparse), 130 an interruption.
    """
    options = parser().parse_args(arguments)
    try:
        if options.heavy:
            environment.restart_tuned()
        environment.prepare()
        environment.hush()
        return int(options.command(options, workspace()) or 0)
    except KeyboardInterrupt:
        print(
            "\nnightjar: stopped; finished stages are kept, so the next run goes on from here",
            file=sys.stderr,
        )
        return 130
    except USER_ERRORS as error:
        if options.debug or os.environ.get("NIGHTJAR_DEBUG"):
            raise
        print(f"nightjar: {error}", file=sys.stderr)
        return 1


def parser() -> argparse.ArgumentParser:
    """The command line; `nightjar COMMAND --help` explains each part."""
    top = argparse.ArgumentParser(
        prog="nightjar", description="Learn from what people preferred, and promote only what is better."
    )
    top.add_argument("--debug", action="store_true", help="show the traceback of every error")
    commands = top.add_subparsers(metavar="COMMAND", required=True)

    def add(name: str, command: object, text: str, heavy: bool = False) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        made.set_defaults(command=command, heavy=heavy)
        return made

    run = add("run", _run, "run the whole night; what is up to date is not run again", heavy=True)
    run.add_argument("--preset", metavar="NAME", help="first make this preset the params (see: nightjar preset)")
    run.add_argument("--data", metavar="FOLDER", type=Path, help="first copy what the params name from here")
    preset = add("preset", _preset, "copy a preset over params.yaml, or list the presets")
    preset.add_argument("name", nargs="?", metavar="NAME")
    stage = add("stage", _stage, "bring one stage up to date", heavy=True)
    stage.add_argument("name", choices=list(stages.STAGES), metavar="NAME", help=", ".join(stages.STAGES))
    score = add("score", _score, "score a file of outputs against references (ROUGE, BLEU)")
    score.add_argument("file", type=Path, metavar="FILE", help="JSONL with references, and output or outputs")
    _explain_options(add("explain", _explain, "show how a prompt is continued: what is likely next, and each control"))
    seeds = add("seeds", _seeds, "train the whole night for several seeds, aside, and compare", heavy=True)
    seeds.add_argument("seeds", type=_seed, nargs="+", metavar="SEED")
    seeds.add_argument(
        "--variants", metavar="FILE", type=Path, help="YAML: variants by name, with the params they change"
    )
    add("status", _status, "say which stages a night would run")
    add("params", _params, "check params.yaml and print every param with its value")
    graph = add("graph", _graph, "draw dvc.yaml from the table of stages and the code's imports")
    graph.add_argument("--write", action="store_true", help="write dvc.yaml instead of printing it")
    graph.add_argument("--check", action="store_true", help="only say whether dvc.yaml is as drawn")
    return top


def _explain_options(explain: argparse.ArgumentParser) -> None:
    explain.add_argument("prompt", metavar="PROMPT")
    explain.add_argument(
        "--model",
        action="append",
        metavar="NAME",
        help="sft, policy, or the path or Hub id of another; give it again for more (default: sft and policy)",
    )
    explain.add_argument(
        "--follow", metavar="NAME", help="the model whose continuation is followed (default: the last)"
    )
    explain.add_argument("--steps", type=int, default=8, metavar="N", help="tokens to write at most (default: 8)")
    explain.add_argument("--seed", type=_seed, default=0, help="of the continuation (default: 0)")
    explain.add_argument("--top", type=_count, default=8, metavar="N", help="tokens shown a step (default: 8)")
    for name, kind, text in (
        ("temperature", float, "0 takes the likeliest token each time"),
        ("top-k", int, "keep the K likeliest tokens"),
        ("top-p", float, "keep the likeliest tokens that together hold P"),
        ("min-p", float, "keep tokens at least this share as likely as the likeliest"),
        ("repetition-penalty", float, "above 1, tokens of the text so far become less likely"),
        ("min-new-tokens", int, "no end of text before so many"),
    ):
        explain.add_argument(f"--{name}", type=kind, metavar="X", default=argparse.SUPPRESS, help=text)
    explain.add_argument("--html", type=Path, metavar="FILE", help="also write a page")
    explain.add_argument("--png", type=Path, metavar="FILE", help="also draw a picture")


def workspace() -> Path:
    """The folder to work in: this one, or the first above it that holds a dvc.yaml."""
    here = Path.cwd()
    return next((folder for folder in (here, *here.parents) if (folder / "dvc.yaml").is_file()), here)


def _seed(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text} is no seed; give a whole number from 0 on")
    return int(text)


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is no number of tokens; give a whole number from 1 on")
    return int(text)


def _read(root: Path) -> Params:
    return read_params(root / "params.yaml")


def _run(options: argparse.Namespace, root: Path) -> None:
    paths = Paths(root)
    if options.preset:
        _say(presets.apply_preset(root, options.preset))
    params = _read(root)
    if options.data:
        copied = presets.bring(paths, params, options.data)
        _say([f"copied {name}" for name in copied] or [f"{options.data}: nothing new"])
    presets.check_needed(paths, params)
    from tasks import runner

    if runner.pending(paths, params):
        environment.house_prefect(paths.nights / "prefect")
        from flows.night import night

        night(str(root), presets.which_preset(root, root / "params.yaml"))
    else:
        print("everything is up to date")
    _print_summary(paths)


def _print_summary(paths: Paths) -> None:
    from tasks import summary

    print(f"\n{summary.summary(paths)}\n\n{summary.commands(paths)}")


def _preset(options: argparse.Namespace, root: Path) -> None:
    if options.name:
        _say(presets.apply_preset(root, options.name))
    else:
        _say(presets.preset_names(root))


def _stage(options: argparse.Namespace, root: Path) -> None:
    params = _read(root)
    presets.check_needed(Paths(root), params)
    from tasks import runner

    print(f"{options.name}: {runner.bring_up_to_date(options.name, Paths(root), params).status}")


def _score(options: argparse.Namespace, root: Path) -> None:
    from tasks import scores

    print(scores.render(scores.score_file(options.file)))


def _explain(options: argparse.Namespace, root: Path) -> None:
    from rich.console import Console

    from rlhf.records import Sampling
    from tasks import explain, explain_text, files

    given = {name: value for name, value in vars(options).items() if name in Sampling.model_fields}
    sampling = files.as_record({**given, "max_new_tokens": options.steps}, Sampling, "controls")
    models = tuple(dict.fromkeys(options.model or ("sft", "policy")))
    question = explain.Question(
        options.prompt, models, options.follow or models[-1], sampling, options.seed, options.top
    )
    explanation = explain.explain(Paths(root), question, _read(root).model)
    explain_text.show(explanation, Console(highlight=False))
    if options.html:
        explain.write_page(options.html, explanation)
    if options.png:
        explain.write_picture(options.png, explanation)


def _seeds(options: argparse.Namespace, root: Path) -> None:
    from tasks import seeds

    paths, variants = Paths(root), {seeds.AS_THEY_ARE: _read(root)}
    if options.variants:
        variants = read_variants(options.variants, root / "params.yaml")
    for params in variants.values():
        presets.check_needed(paths, params)
    results = seeds.run_seeds(paths, variants, options.seeds)
    file = paths.nights / "seeds" / "figures.json"
    seeds.save(file, options.seeds, results)
    print(f"\n{seeds.render(options.seeds, results)}\n\nall figures: {file.relative_to(root)}")


def _status(options: argparse.Namespace, root: Path) -> None:
    params = _read(root)
    from tasks import runner

    due = runner.pending(Paths(root), params)
    for name in stages.STAGES:
        print(f"{name:<9} {'due' if name in due else 'up to date'}")
    print(f"\n{'run the night with: nightjar run' if due else 'everything is up to date'}")


def _params(options: argparse.Namespace, root: Path) -> None:
    for name, settings in _read(root).model_dump(mode="json", by_alias=True).items():
        _say([f"{key} = {value}" for key, value in flatten(settings, name).items()])


def _graph(options: argparse.Namespace, root: Path) -> int:
    from tasks import graph

    drawn, file = graph.render(root), root / "dvc.yaml"
    same = file.is_file() and file.read_text(encoding="utf-8") == drawn
    if options.write:
        graph.write(root)
    elif not options.check:
        print(drawn, end="")
        return 0
    if options.check and not same:
        raise ValueError(f"{file}: not as drawn from the stages and the code; update it with: nightjar graph --write")
    print(f"{file.name} {'is' if same else 'was not'} up to date")
    return 0


def _say(lines: list[str]) -> None:
    for line in lines:
        print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
