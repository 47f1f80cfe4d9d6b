"""The rules of the house, read from the code: layers, single doors to libraries, and one graph."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tasks import graph
from tasks.stages import STAGES, VERSIONED, sections

ONE_DOOR = {
    "prefect": (
        "flows/night.py",
        "flows/trials.py",
        "flows/schedule.py",
        "flows/server.py",
        "flows/times.py",
        "flows/up.py",
    ),
    "mlflow": ("tasks/tracking/mlflow_store.py", "tasks/serving/"),
    "great_expectations": ("tasks/validation/expectations.py",),
    "dvc": ("tasks/versioning/dvc_repo.py",),
    "yaml": ("tasks/params/whole.py",),
}
ROOMS = (
    *("terminal", "user_errors", "environment"),
    *("files", "digests", "stage_files", "cron", "deadline", "paths", "params"),
    *("progress", "sources"),
    *("roles", "figures"),
    *("validation", "reports", "versioning", "tracking", "drift", "evaluation", "training"),
    *VERSIONED,
    *("stages", "graph", "presets", "serving", "registry", "trials", "register"),
    *("comparison", "inspection", "reproducibility", "scheduling", "preflight", "runner", "erasure", "__main__"),
)
"""The rooms of tasks/ from the ground up: each imports from those before it alone."""
BANNED = {
    *(
        "place",
        "places",
        "placed",
        "found",
        "mend",
        "bury",
        "hush",
        "bring",
        "brought",
        "told",
        "said",
        "asked",
        "taken",
    ),
    *("ours", "theirs", "whole", "barred", "beside", "AS_THEY_ARE"),
}
"""Names that the field has better words for: index, position, path; result, matches; repair; copy; policy, baseline."""
HEAVY = ("torch", "transformers", "mlflow", "great_expectations", "evaluate", "dvc", "datasets", "pandas")


def modules(root: Path, *layers: str) -> Iterator[Path]:
    for layer in layers:
        yield from sorted((root / layer).rglob("*.py"))


def imported(path: Path, only_at_top: bool = False) -> set[str]:
    """The first words of all that a file imports; at top: what importing the file itself imports."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = _at_import(tree.body) if only_at_top else ast.walk(tree)
    names: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names.update(alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.split(".")[0])
    return names


def _at_import(body: list[Any]) -> Iterator[ast.AST]:
    for node in body:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        yield node
        if isinstance(node, ast.If | ast.Try | ast.With | ast.ClassDef):
            yield from _at_import(node.body)


@pytest.fixture(scope="module")
def drawn(repository: Path) -> dict[str, Any]:
    """dvc.yaml's stages."""
    stages: dict[str, Any] = yaml.safe_load((repository / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    return stages


@pytest.mark.parametrize(("layer", "above"), [("rlhf", {"tasks", "flows"}), ("tasks", {"flows"})])
def test_arrows_run_down_only(repository: Path, layer: str, above: set[str]) -> None:
    """flows may import tasks, tasks may import rlhf, and nobody the other way round."""
    upward = {str(path): layers for path in modules(repository, layer) if (layers := imported(path) & above)}
    assert not upward


def test_rooms_stand_on_those_before_them(repository: Path) -> None:
    """The files and folders of tasks/ form an acyclic graph, in the one order that is written down."""
    rooms = {path.stem for path in (repository / "tasks").iterdir() if path.stem not in ("__init__", "__pycache__")}
    assert rooms == set(ROOMS)
    assert len(ROOMS) == len(rooms)
    upward = {}
    for path in modules(repository, "tasks"):
        parts = path.relative_to(repository).with_suffix("").parts
        if len(parts) == 2 and parts[1] == "__init__":
            continue
        names = {name.split(".")[1] for name in graph.imports(repository, ".".join(parts)) if name.count(".")
                 and name.startswith("tasks.")}  # fmt: skip
        if above := [name for name in names if ROOMS.index(name) > ROOMS.index(parts[1])]:
            upward["/".join(parts)] = above
    assert not upward


def test_files_of_a_room_form_no_circle(repository: Path) -> None:
    """Within a layer too: whoever reads a file never comes back to it."""
    for layer in ("tasks", "rlhf", "flows"):
        names = [".".join(path.relative_to(repository).with_suffix("").parts) for path in modules(repository, layer)]
        names = [name.removesuffix(".__init__") for name in names]
        edges = {name: graph.imports(repository, name) & set(names) - _packages(name) for name in names}
        while free := [name for name, targets in edges.items() if not targets & edges.keys()]:
            edges = {name: targets for name, targets in edges.items() if name not in free}
        assert not edges, f"circles among {', '.join(sorted(edges))}"


def _packages(name: str) -> set[str]:
    parts = name.split(".")
    return {".".join(parts[:depth]) for depth in range(1, len(parts))}


def test_no_two_classes_share_a_name(repository: Path) -> None:
    """One word, one idea, in all three layers: private classes and NamedTuples included."""
    homes: dict[str, list[str]] = {}
    for path in modules(repository, "flows", "tasks", "rlhf"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                homes.setdefault(node.name, []).append(path.relative_to(repository).as_posix())
    assert homes
    assert not {name: files for name, files in homes.items() if len(files) > 1}


def defined_names(path: Path) -> Iterator[tuple[str, int]]:
    """Each name that a file gives a function, class, argument, variable or attribute, with its line."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name, node.lineno
        elif isinstance(node, ast.arg):
            yield node.arg, node.lineno
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id, node.lineno
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.attr, node.lineno


def test_names_are_words_of_the_field(repository: Path) -> None:
    """A reader meets indices, paths and results: none of the words that the project once had for them."""
    offenders = [
        f"{path.relative_to(repository)}:{line} {word}"
        for path in modules(repository, "flows", "tasks", "rlhf")
        for word, line in defined_names(path)
        if word.strip("_") in BANNED
    ]
    assert not offenders


@pytest.mark.parametrize("library", ONE_DOOR)
def test_a_tool_is_imported_behind_one_door(repository: Path, library: str) -> None:
    """Whoever replaces a tool has one module to change."""
    importers = [
        path.relative_to(repository).as_posix()
        for path in modules(repository, "flows", "tasks", "rlhf")
        if library in imported(path)
    ]
    assert importers
    assert [name for name in importers if not name.startswith(ONE_DOOR[library])] == []


SEVERAL = {
    *("flows/browser", "flows/dvc", "flows/whole_night", "rlhf/families", "rlhf/numerics", "rlhf/seq2seq"),
    *("rlhf/fast/door", "rlhf/ppo/exact", "rlhf/ppo/keeping"),
    *("rlhf/reward/ensemble", "rlhf/reward/families", "rlhf/reward/pretrained", "tasks/adapters", "tasks/isolation"),
    *("tasks/learning", "tasks/seq2seq_night", "tasks/serving/serving", "tasks/sources/sources", "tasks/user_files"),
}
"""Tests of several modules together; each of the others stands where its module stands."""


def test_the_tests_tree_mirrors_the_code(repository: Path) -> None:
    """tests/<layer>/<room>/test_<module>.py tests <layer>/<room>/<module>."""
    names = {
        path.with_name(path.stem.removeprefix("test_")).relative_to(repository / "tests").as_posix()
        for layer in ("flows", "tasks", "rlhf")
        for path in (repository / "tests" / layer).rglob("test_*.py")
    }
    alone = {name for name in names if not any((repository / f"{name}{end}").exists() for end in ("", ".py"))}
    assert alone == SEVERAL


def test_tests_replace_public_names_alone(repository: Path) -> None:
    """What a module keeps to itself may be written anew without a test that knows."""
    private = {
        f"{path.name}:{node.lineno}"
        for path in modules(repository, "tests")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "setattr"
        for given in node.args[:2]
        if isinstance(given, ast.Constant) and str(given.value).rpartition(".")[2].startswith("_")
    }
    assert private == set()


def test_importing_a_task_is_cheap(repository: Path) -> None:
    """Heavy libraries are imported where they are used, so that help and params answer at once."""
    heavy = {
        str(path): libraries
        for path in modules(repository, "tasks")
        if "serving" not in path.parts and (libraries := imported(path, only_at_top=True) & set(HEAVY))
    }
    assert not heavy


def test_every_stage_is_a_module_with_a_run_function(repository: Path) -> None:
    """tasks/<stage>.py has run(files), then a param for each section that the table says it gets."""
    for name in STAGES:
        tree = ast.parse((repository / "tasks" / f"{name}.py").read_text(encoding="utf-8"))
        runs = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "run"]
        assert [len(run.args.args) for run in runs] == [1 + len(sections(name))], name


def test_the_stages_of_dvc_are_the_versioned_ones(drawn: dict[str, Any]) -> None:
    """Each runs `python -m tasks <stage>`; register changes the world outside and is no stage of DVC."""
    assert list(drawn) == list(VERSIONED) == [name for name in STAGES if name != "register"]
    assert [stage["cmd"] for stage in drawn.values()] == [f"python -m tasks {name}" for name in drawn]


def test_the_order_of_the_night_is_a_topological_order_of_dvc_yaml(drawn: dict[str, Any]) -> None:
    """Whatever a stage reads was written by an earlier one, or is a source."""
    written: list[str] = ["data/source", "data/feedback", "data/champion"]
    for name in VERSIONED:
        for dep in drawn[name]["deps"]:
            if dep.startswith("data/"):
                assert any(f"{dep}/".startswith(f"{out}/") for out in written), f"{name} reads {dep} too early"
        written += [*drawn[name]["outs"], *(path for plots in drawn[name].get("plots", []) for path in plots)]


def test_params_of_dvc_are_the_sections_that_a_stage_is_handed(drawn: dict[str, Any]) -> None:
    """A stage cannot read a param whose change would not run it again."""
    assert {name: stage.get("params", []) for name, stage in drawn.items()} == {
        name: sections(name) for name in VERSIONED
    }


def test_the_deps_of_each_stage_cover_its_code(repository: Path, drawn: dict[str, Any]) -> None:
    """Every project file that a stage imports, also inside functions, is among its deps."""
    missing = {
        name: lacking
        for name in VERSIONED
        if (lacking := [path for path in graph.code_of(repository, name) if path not in drawn[name]["deps"]])
    }
    lines = "\n".join(f"  {name}:\n" + "\n".join(f"      - {path}" for path in missing[name]) for name in missing)
    assert not missing, f"dvc.yaml lacks these deps; write them with `nightjar graph --write`:\n{lines}"


def test_dvc_yaml_is_as_drawn(repository: Path) -> None:
    """Nothing in it was edited by hand or left behind; `nightjar graph --write` draws it anew."""
    assert (repository / "dvc.yaml").read_text(encoding="utf-8") == graph.render(repository)


def test_the_closure_follows_imports_wherever_they_stand(tmp_path: Path) -> None:
    """Inside functions, relative, of packages and of names that are modules; but not libraries."""
    for name, text in {
        "tasks/__init__.py": "",
        "tasks/sft.py": "def run():\n    from rlhf import sft\n    import torch",
        "tasks/other.py": "",
        "rlhf/__init__.py": "",
        "rlhf/sft.py": "from rlhf.ppo.kl import estimate\nif True:\n    from . import masking",
        "rlhf/masking.py": "import os",
        "rlhf/ppo/__init__.py": "from .losses import clip",
        "rlhf/ppo/losses.py": "",
        "rlhf/ppo/kl.py": "from ..logprobs import gather",
        "rlhf/logprobs.py": "",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert graph.closure(tmp_path, "tasks.sft") == [
        "rlhf/__init__.py",
        "rlhf/logprobs.py",
        "rlhf/masking.py",
        "rlhf/ppo/__init__.py",
        "rlhf/ppo/kl.py",
        "rlhf/ppo/losses.py",
        "rlhf/sft.py",
        "tasks/__init__.py",
        "tasks/sft.py",
    ]


def test_the_closure_holds_what_python_really_loads(repository: Path) -> None:
    """An independent oracle: every project module that importing a stage loads is in its closure.

    Those that watch it are not, with what they load to say what they see.
    """
    code = (
        "import sys, importlib; importlib.import_module('tasks.' + sys.argv[1])\n"
        "ours = [m for n, m in sys.modules.items() if n.split('.')[0] in ('tasks', 'rlhf')]\n"
        "print(*(module.__file__ for module in ours), sep='\\n')"
    )
    for stage in ("ingest", "rank"):
        command = [sys.executable, "-c", code, stage]
        loaded = subprocess.run(command, cwd=repository, capture_output=True, text=True, check=True).stdout.split()
        files = {Path(name).relative_to(repository).as_posix() for name in loaded}
        watching = [name for name in graph.OBSERVERS if f"{name.replace('.', '/')}.py" in files]
        observers = {file for name in watching for file in graph.closure(repository, name, ())}
        assert files - set(graph.code_of(repository, stage)) <= observers
