"""The learning itself, apart from a night: several seeds, scores of a file, a text token by token."""

from __future__ import annotations

import argparse
from pathlib import Path

from flows.commands import Add, add_controls, controls_of, say, whole_number
from tasks import presets
from tasks.params.whole import read_params
from tasks.paths import Paths


def add_commands(add: Add) -> None:
    """Adds score, explain and seeds."""
    score = add("score", _score, "score a file of outputs against references (ROUGE, BLEU, chrF)")
    score.add_argument("file", type=Path, metavar="FILE", help="JSONL with references, and output or outputs")
    score.add_argument("--language", metavar="CODE", default="en", help="ISO 639, or auto (default: en)")
    _explain_options(add("explain", _explain, "show how a prompt is continued: what is likely next, and each control"))
    seeds = add("seeds", _seeds, "train the whole night for several seeds, aside, and compare", heavy=True)
    seeds.add_argument("seeds", type=whole_number(0), nargs="+", metavar="SEED")
    seeds.add_argument(
        "--variants", metavar="FILE", type=Path, help="YAML: variants by name, with the params they change"
    )


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
    explain.add_argument("--top", type=whole_number(1), default=8, metavar="N", help="tokens shown a step (default: 8)")
    add_controls(explain, "max-new-tokens")  # here those are the steps
    explain.add_argument("--html", type=Path, metavar="FILE", help="also write a page")
    explain.add_argument("--png", type=Path, metavar="FILE", help="also draw a picture")


def _score(options: argparse.Namespace, root: Path) -> None:
    from tasks.evaluation import scores

    say(scores.render(scores.score_file(options.file, language=options.language)))


def _explain(options: argparse.Namespace, root: Path) -> None:
    from rich.console import Console

    from tasks.files import write_text
    from tasks.inspection import explain, explain_page, explain_picture, explain_text

    sampling = controls_of(options, max_new_tokens=options.steps)
    models = tuple(dict.fromkeys(options.model or ("sft", "policy")))
    question = explain.Question(
        options.prompt, models, options.follow or models[-1], sampling, options.seed, options.top
    )
    explanation = explain.explain(Paths(root), question, read_params(root / "params.yaml").model)
    explain_text.show(explanation, Console(highlight=False))
    if options.html:
        write_text(options.html, explain_page.explanation_page(explanation))
    if options.png:
        explain_picture.write_picture(options.png, explanation)


def _seeds(options: argparse.Namespace, root: Path) -> None:
    from tasks import runner
    from tasks.trials import selection, table
    from tasks.trials.candidates import read_trials

    paths, file = Paths(root), Paths(root).nights / "seeds" / "figures.json"
    candidates = read_trials(root / "params.yaml", options.seeds, options.variants)
    for candidate in candidates:
        presets.check_needed(paths, candidate.params)
    standings = [runner.train_aside(paths, candidate) for candidate in candidates]
    if candidates[0].params.night.rouge_weight is not None:
        standings = selection.score_aside(paths, candidates, standings)
    table.save(file, standings)
    say(f"\n{table.over_seeds(standings)}\n\nall figures: {file.relative_to(root)}", *table.best_settings(standings))
