"""What a run must say of the program that made it: versions, commit, operator, command line."""

from __future__ import annotations

import getpass
import os
import platform
import shlex
import subprocess
import sys
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

__all__ = ["commit", "provenance", "versions"]


@cache
def versions() -> dict[str, str]:
    """Version of the interpreter and of every installed distribution, by name."""
    found = sorted((dist.metadata["Name"], dist.version) for dist in metadata.distributions())
    return {"python": platform.python_version(), **dict(found)}


@cache
def commit() -> str | None:
    """Commit of the checkout this file runs from, "-dirty" appended where files differ; None outside a checkout."""
    root = Path(__file__).resolve().parent.parent
    # Only a checkout of our own: a virtual environment may lie inside somebody else's.
    if not (root / ".git").exists():
        return None
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def provenance(operator: str | None = None, command: str | None = None) -> dict[str, Any]:
    """JSON-ready facts; operator defaults to HIL_OPERATOR or the login name, command to this process's command line."""
    return {
        "operator": operator or os.environ.get("HIL_OPERATOR") or _login(),
        "command": command or shlex.join(sys.orig_argv),
        "host": platform.node(),
        "system": platform.platform(),
        "pid": os.getpid(),
        "commit": commit(),
        "versions": versions(),
    }


def _login() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container may run under a number without a name
        return "unknown"
