"""setup/install.py in environments of its own: what pip's configuration says reaches uv, and pip installs where uv
does not."""

from __future__ import annotations

import os
import subprocess
import venv
from collections.abc import Callable
from importlib.metadata import distributions
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from zipfile import ZipFile

import pytest

needs_uv = pytest.mark.skipif(find_spec("uv") is None, reason="uv is not installed, as where the registry has none")


def wheel(folder: Path, name: str, version: str) -> None:
    """An installable package of one empty module."""
    info = f"{name}-{version}.dist-info"
    folder.mkdir(exist_ok=True)
    with ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as archive:
        archive.writestr(f"{name}.py", "")
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "".join(f"{file},,\n" for file in archive.namelist()))


@pytest.fixture
def setting(tmp_path: Path) -> Path:
    """An environment with pip, a lock of two packages, and pip configured to a folder that has them and nothing else.

    The folder has a build of one of them besides, as torch's for a CPU is one of torch's.
    """
    for name, version in (("ours_a", "1.0"), ("ours_a", "1.0+cpu"), ("ours_a", "1.1"), ("ours_b", "2.0")):
        wheel(tmp_path / "wheels", name, version)
    (tmp_path / "requirements.lock").write_text("ours-a==1.0\nours-b==2.0\n")
    (tmp_path / "pip.conf").write_text(f"[global]\nno-index = true\nfind-links = {tmp_path / 'wheels'}\n")
    venv.create(tmp_path / "venv")
    (tmp_path / "tools").mkdir()
    [site] = (tmp_path / "venv").glob("lib/*/site-packages")
    (site / "tools.pth").write_text(f"{tmp_path / 'tools'}\n")
    link_package("pip", tmp_path / "tools")
    return tmp_path


def link_package(name: str, folder: Path) -> None:
    """Lends a package of the environment that runs the tests."""
    spec = find_spec(name)
    assert spec is not None
    assert spec.origin is not None
    (folder / name).symlink_to(Path(spec.origin).parent)


@pytest.fixture
def install(repository: Path) -> Callable[..., tuple[int, str]]:
    """Installs the lock; returns the exit status and all that was said."""

    def run(setting: Path, **variables: str) -> tuple[int, str]:
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "UV_"))}
        environment |= {"PIP_CONFIG_FILE": str(setting / "pip.conf"), "UV_CACHE_DIR": str(setting / "cache")}
        script = [str(repository / "setup" / "install.py"), "-r", "requirements.lock"]
        done = subprocess.run(
            [str(setting / "venv/bin/python"), *script], cwd=setting, env=environment | variables,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
        )  # fmt: skip
        return done.returncode, done.stdout

    return run


def installed(setting: Path) -> dict[str, tuple[str, str]]:
    """Version and installer of what the environment holds."""
    found = distributions(path=[str(site) for site in (setting / "venv").glob("lib/*/site-packages")])
    return {each.name: (each.version, (each.read_text("INSTALLER") or "").strip()) for each in found}


@needs_uv
def test_uv_installs_what_pip_would(setting: Path, install: Callable[..., tuple[int, str]]) -> None:
    """From the folder in pip's configuration, the build that pip prefers, and without a word; no cache is needed on."""
    lend_uv(setting)
    assert install(setting) == (0, "")
    assert installed(setting) == {"ours_a": ("1.0+cpu", "uv"), "ours_b": ("2.0", "uv")}
    assert [file for file in (setting / "venv").glob("lib/*/site-packages/ours_*.py") if file.is_symlink()] == []


@needs_uv
def test_what_uvs_own_variables_say_stays(setting: Path, install: Callable[..., tuple[int, str]]) -> None:
    """A folder that is named to uv goes before the one that is named to pip."""
    lend_uv(setting)
    for name, version in (("ours_a", "1.0+gpu"), ("ours_b", "2.0")):
        wheel(setting / "others", name, version)
    assert install(setting, UV_FIND_LINKS=str(setting / "others")) == (0, "")
    assert installed(setting)["ours_a"] == ("1.0+gpu", "uv")


def lend_uv(setting: Path) -> None:
    """The package finds its program in a folder bin beside it."""
    from uv import find_uv_bin

    link_package("uv", setting / "tools")
    (setting / "tools/bin").mkdir()
    (setting / "tools/bin/uv").symlink_to(find_uv_bin())


def test_pip_installs_where_uv_cannot_be_had(setting: Path, install: Callable[..., tuple[int, str]]) -> None:
    """The folder has no uv: the same packages, and one line that says why it takes longer."""
    assert install(setting) == (0, "uv cannot be had: pip installs instead, which takes minutes\n")
    assert installed(setting) == {"ours_a": ("1.0+cpu", "pip"), "ours_b": ("2.0", "pip")}


def test_pip_installs_where_uv_fails(setting: Path, install: Callable[..., tuple[int, str]]) -> None:
    """What uv says is shown; a line says that pip goes on."""
    (setting / "tools/uv").mkdir()
    (setting / "tools/uv/__init__.py").touch()
    (setting / "tools/uv/__main__.py").write_text("raise SystemExit('error: no space left')\n")
    said = "error: no space left\nuv failed: pip installs instead, which takes minutes\n"
    assert install(setting) == (0, said)
    assert installed(setting) == {"ours_a": ("1.0+cpu", "pip"), "ours_b": ("2.0", "pip")}


def test_what_nobody_can_install_is_an_error(setting: Path, install: Callable[..., tuple[int, str]]) -> None:
    """pip's exit status and its word for it."""
    (setting / "requirements.lock").write_text("ours-c==3.0\n")
    status, said = install(setting)
    assert status == 1
    assert "No matching distribution found for ours-c==3.0" in said


@pytest.fixture
def module(repository: Path) -> ModuleType:
    """setup/install.py, to call its functions."""
    spec = spec_from_file_location("install", repository / "setup" / "install.py")
    assert spec is not None
    assert spec.loader is not None
    found = module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


def test_pips_options_are_read_as_pip_reads_them(
    module: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The environment goes before the section of `pip install`, which goes before the global one."""
    lines = ["[global]", "find-links = a", "timeout = 7", "cert = ca.pem", "[install]", "find-links =", "  b", "  c=d"]
    (tmp_path / "pip.conf").write_text("\n".join([*lines, "cert = other.pem", ""]))
    monkeypatch.setenv("PIP_CONFIG_FILE", str(tmp_path / "pip.conf"))
    monkeypatch.setenv("PIP_CERT", "mine.pem")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    options = module.pip_options()
    assert options["find-links"].split() == ["b", "c=d"]
    assert (options["timeout"], options["cert"]) == ("7", "mine.pem")


def test_options_become_uvs_variables(module: ModuleType) -> None:
    """Folders stand between commas, indexes between blanks, and the best version of all indexes is taken, as by pip."""
    options = {"find-links": "one\ntwo", "extra-index-url": "https://a/simple https://b/simple", "cert": "ca.pem"}
    assert module.uv_variables({**options, "index-url": "https://c/simple", "no-color": "1", "proxy": ""}) == {
        "UV_INDEX_STRATEGY": "unsafe-best-match",
        "UV_FIND_LINKS": "one,two",
        "UV_INDEX": "https://a/simple https://b/simple",
        "UV_DEFAULT_INDEX": "https://c/simple",
        "SSL_CERT_FILE": "ca.pem",
    }
