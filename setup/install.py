"""`python setup/install.py ARGUMENTS`: `pip install ARGUMENTS` for the Python that runs it, by uv where it can be had.

uv downloads and unpacks in parallel: seconds where pip takes minutes. It does not read pip's configuration, so what
that names (indexes, folders of wheels, constraints, certificates, a proxy) is handed over in uv's own variables; one
that is set already stays. Where uv cannot be had, or fails, pip itself installs.
"""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from importlib import invalidate_caches
from importlib.util import find_spec

PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
UV = "uv==0.13.*"
VARIABLES = {
    "index-url": "UV_DEFAULT_INDEX",
    "extra-index-url": "UV_INDEX",
    "find-links": "UV_FIND_LINKS",
    "constraint": "UV_CONSTRAINT",
    "trusted-host": "UV_INSECURE_HOST",
    "timeout": "UV_HTTP_TIMEOUT",
    "default-timeout": "UV_HTTP_TIMEOUT",
    "cert": "SSL_CERT_FILE",
    "client-cert": "SSL_CLIENT_CERT",
    "proxy": "ALL_PROXY",
}
"""pip's options, and the variables in which uv takes the same."""


def pip_options() -> dict[str, str]:
    """What pip's configuration says to `pip install`: its own section goes before the global one, a variable first."""
    listed = subprocess.run([*PIP, "config", "list"], stdout=subprocess.PIPE, text=True, check=True).stdout
    options = {}
    for section in ("global.", "install.", ":env:."):
        for line in listed.splitlines():
            if line.startswith(section):
                option, _, value = line.removeprefix(section).partition("=")
                options[option] = ast.literal_eval(value)
    return options


def uv_variables(options: dict[str, str]) -> dict[str, str]:
    """pip's options as variables for uv. Several values stand between blanks; folders of wheels between commas."""
    variables = {"UV_INDEX_STRATEGY": "unsafe-best-match"}  # pip's: the best version of all indexes
    for option, variable in VARIABLES.items():
        if values := options.get(option, "").split():
            variables[variable] = ("," if option == "find-links" else " ").join(values)
    return variables


def install(arguments: list[str]) -> int:
    """Installs with uv, else with pip; returns the exit status of what came last."""
    if not find_spec("uv"):
        subprocess.run([*PIP, "install", "-qq", UV], stderr=subprocess.DEVNULL, check=False)
        invalidate_caches()
    if find_spec("uv"):
        options = pip_options()
        command = [sys.executable, "-m", "uv", "pip", "install", "--quiet", "--python", sys.executable, *arguments]
        if options.get("no-index", "").lower() in ("1", "on", "true", "yes"):
            command.append("--no-index")
        if subprocess.run(command, env={**uv_variables(options), **os.environ}, check=False).returncode == 0:
            return 0
    why = "uv failed" if find_spec("uv") else "uv cannot be had"
    print(f"{why}: pip installs instead, which takes minutes", file=sys.stderr)
    return subprocess.run([*PIP, "install", "-qq", "--no-compile", *arguments], check=False).returncode


if __name__ == "__main__":
    raise SystemExit(install(sys.argv[1:]))
