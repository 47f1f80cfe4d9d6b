"""What forgetting leaves to a person: copies that are not this command's to change, each with what to do."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tasks.digests import NOTE
from tasks.erasure import copies
from tasks.erasure.plan import Plan
from tasks.params.whole import Params
from tasks.paths import Paths
from tasks.presets import needed
from tasks.versioning import dvc_repo, git

NUMBERS = ("metrics", "latest_metrics")
"""Tables of MLflow's that hold no text, and many rows."""
ERASED = ("model_versions", "model_version_tags")
"""Tables of MLflow's out of which an annotator's name is taken."""
ACCOUNTS = ("nights/forgotten.jsonl", "nights/register.json")
"""What the command itself writes, or cleans."""


def of_plan(paths: Paths, params: Params, plan: Plan, unread: Sequence[str]) -> Iterator[str]:
    """What a person has to see to.

    Args:
        unread: files of the sources in formats that nothing reads.
    """
    yield from _of_sources(paths, params, plan)
    yield from (f"{name}: not searched, for nothing reads it; look yourself" for name in unread)
    yield from _of_git(paths, plan)
    yield from _of_accounts(paths, plan)
    for remote in dvc_repo.remotes(paths.root) if plan.cached else ():
        yield f"DVC's remote {remote} may have what goes from the cache: remove it there too"
    if (paths.root / ".dvc" / "tmp" / "exps").is_dir():
        yield "copies that DVC made for queued experiments: remove .dvc/tmp/exps"
    if plan.descent.learners:
        yield (
            "whatever has loaded a version that is retired answers with it until it ends (mlflow models serve, "
            "nightjar chat): end it; by the alias champion it starts again once there is one, by the version's number "
            "MLflow would serve it again"
        )
        yield (
            "the weights of retired versions stay as files, in mlruns and in DVC's cache; to be rid of them, delete "
            "the versions and their runs in MLflow, then mlflow gc, and dvc gc --workspace"
        )


def _of_sources(paths: Paths, params: Params, plan: Plan) -> Iterator[str]:
    named, pointers = {path for path, _ in needed(paths, params)}, dict[str, str]()
    for file, rows in plan.files:
        if len(rows) == len(file.rows) and file.path in named:
            yield f"params.yaml names {file.shown}, which goes: take it out, or put another file there"
        for path in (file.path, *file.path.parents):
            if path.is_relative_to(paths.data) and (pointer := path.with_name(f"{path.name}.dvc")).is_file():
                pointers[pointer.relative_to(paths.root).as_posix()] = path.relative_to(paths.root).as_posix()
    yield from (f"{pointer} names the data as they were: dvc add {path}" for pointer, path in pointers.items())


def _of_git(paths: Paths, plan: Plan) -> Iterator[str]:
    """Git keeps what was committed once, whatever the files are now."""
    if not git.is_checkout(paths.root):
        return
    folders = ("--", "data/source", "data/feedback")
    past = git.run(paths.root, "log", "--all", "--format=", "--name-only", "-z", *folders)
    names = {*past.split("\0"), *git.run(paths.root, "ls-files", "-z", *folders).split("\0")}
    known = {name for name in names if name and not name.endswith((NOTE, ".dvc", ".gitignore"))}
    going = {file.shown for file, _ in plan.files}
    for name in sorted(known & going):
        yield f"git has {name} and keeps it in its history: commit the change, then use git filter-repo"
    if others := sorted(known - going):
        yield (
            f"git's history has {', '.join(others)}, and was not searched: git log --all -p -- FILE shows what it "
            "holds, git filter-repo removes it"
        )


def _of_accounts(paths: Paths, plan: Plan) -> Iterator[str]:
    """Texts for people and databases that quote the rows: a warning or an error of a night may."""
    request, params_file = plan.request, paths.root / "params.yaml"
    if params_file.is_file() and request.is_quoted(params_file.read_text(encoding="utf-8")):
        yield "params.yaml quotes them (register.canaries may): take that out, also of git's history where git has it"
    elsewhere = ["nights/prefect", *(folder.as_posix() for folder in plan.scratch)]
    for file in copies.files_below(paths.nights):
        shown = file.relative_to(paths.root).as_posix()
        if shown in ACCOUNTS or any(shown.startswith(f"{folder}/") for folder in elsewhere):
            continue
        if request.is_quoted(copies.text_of(file) or ""):
            yield f"{shown} quotes them: take those lines out, or remove it"
    if columns := copies.quoting(paths.nights / "prefect" / "prefect.db", request):
        yield (
            f"Prefect's database quotes them ({', '.join(columns)}): end nightjar up or serve, and remove "
            "nights/prefect; the nights stay listed in nights/history.jsonl"
        )
    left_out = (*NUMBERS, *(ERASED if request.kind == "annotator" else ()))
    if columns := copies.quoting(paths.mlruns / "mlflow.db", request, left_out):
        yield (
            f"MLflow's database quotes them ({', '.join(columns)}): delete those runs or versions in MLflow, then "
            "mlflow gc --backend-store-uri sqlite:///mlruns/mlflow.db"
        )
