"""The image that containers and pods work in: what its Dockerfile says, held to the checkout and to the Makefile."""

from __future__ import annotations

import re
import tomllib
from fnmatch import fnmatch
from pathlib import Path

import pytest
import yaml

from tasks import environment


@pytest.fixture(scope="module")
def steps(repository: Path) -> list[list[str]]:
    """The Dockerfile's instructions, as words."""
    text = (repository / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")
    return [line.split() for line in text.splitlines() if line.strip() and not line.startswith("#")]


def test_what_is_copied_is_there_and_not_ignored(repository: Path, steps: list[list[str]]) -> None:
    """Each source exists in the checkout, .dockerignore lets it through, and nothing is let through besides."""
    sources = [source.removeprefix("./") for word, *places in steps if word == "COPY" for source in places[:-1]]
    assert [source for source in sources if not (repository / source).exists()] == []
    rules = (repository / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert rules[1] == "*"
    assert {rule[1:] for rule in rules if rule.startswith("!")} == set(sources)
    packages = tomllib.loads((repository / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]["find"]
    for pattern in packages["include"]:
        assert any(fnmatch(source, pattern) for source in sources), pattern


def test_it_installs_what_the_makefile_installs(repository: Path, steps: list[list[str]]) -> None:
    """The same requirements and the checkout in the same way, and the same packages compiled."""

    def installs(text: str) -> list[str]:
        return re.findall(r"python (setup/[^&\n]*[^&\s])", text)

    image = installs("\n".join(" ".join(step) for step in steps))
    assert image == installs((repository / "Makefile").read_text(encoding="utf-8"))
    assert len(image) == 3


def test_it_is_what_prefect_yaml_expects(repository: Path, steps: list[list[str]]) -> None:
    """A Python that the project runs on; the workspace lies where the deployments look for it, and git trusts it."""
    [version] = [re.match(r"python:3\.(\d+)-", step[1]) for step in steps if step[0] == "FROM"]
    assert version is not None
    needed = tomllib.loads((repository / "pyproject.toml").read_text())["project"]["requires-python"]
    assert int(version[1]) >= int(needed.removeprefix(">=3."))
    [workdir] = [step[1] for step in steps if step[0] == "WORKDIR"]
    deployments = yaml.safe_load((repository / "prefect.yaml").read_text())["deployments"]
    roots = {each["name"]: each["parameters"]["root"] for each in deployments}
    assert (roots["docker"], roots["kubernetes"]) == (workdir, workdir)
    assert any(step[-2:] == ["safe.directory", workdir] for step in steps)


def test_a_work_pools_nights_have_the_tuned_allocator(repository: Path) -> None:
    """The settings with which `nightjar run` starts itself again, for every kind of pool."""
    for deployment in yaml.safe_load((repository / "prefect.yaml").read_text())["deployments"]:
        assert deployment["work_pool"]["job_variables"]["env"] == environment.ALLOCATOR, deployment["name"]
