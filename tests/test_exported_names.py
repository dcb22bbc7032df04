"""Every public module says what it exports, in order, and what it is for."""

from __future__ import annotations

import ast
import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("hil", "drivers", "simulated_backend", "procedures")
OPTIONAL = {"triton"}
"""Not a dependency: torch brings it along on machines with a GPU."""

FILES = sorted(path.relative_to(ROOT) for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
PUBLIC = [path for path in FILES if not any(part.startswith("_") for part in path.parts)]


def order(name: str) -> tuple[int, list[str | int]]:
    """CONSTANTS, then Classes, then the rest, numbers by value: the order that ruff's RUF022 keeps."""
    group = 0 if len(name) > 1 and name.isupper() else 1 if name[0].isupper() else 2
    return group, [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]


@pytest.mark.parametrize("path", PUBLIC, ids=str)
def test_exported_names(path):
    try:
        module = importlib.import_module(".".join(path.with_suffix("").parts))
    except ModuleNotFoundError as missing:
        if missing.name not in OPTIONAL:
            raise
        pytest.skip(f"{missing.name} is not installed")
    names = module.__all__
    assert list(names) == sorted(set(names), key=order)
    assert [name for name in names if not hasattr(module, name)] == []


@pytest.mark.parametrize("path", FILES, ids=str)
def test_docstring(path):
    if path.name == "__init__.py" or path in PUBLIC:
        assert ast.get_docstring(ast.parse((ROOT / path).read_text(encoding="utf-8")))


@pytest.mark.parametrize("folder", sorted({path.parent for path in FILES}), ids=str)
def test_folder_is_a_package(folder):
    assert (ROOT / folder / "__init__.py").is_file()


def test_order_of_names():
    assert sorted(["b2", "b10", "Class", "a", "MAX"], key=order) == ["MAX", "Class", "a", "b2", "b10"]
