"""Rules of the house that no linter knows."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("pipeline", "shards", "models", "jobs")
CODE = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
ALL_CODE = [*CODE, *sorted((ROOT / "tests").rglob("*.py"))]

VIDEO = ("av", "numba", "ffmpeg", "imageio_ffmpeg", "obstore", "pyarrow")
TRAINING = ("torch", "torchvision", "einops", "timm")

# Imports a module in an interpreter that does not find some packages.
FENCED_IMPORT = """
import importlib, sys
module, *blocked = sys.argv[1:]
class Fence:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in blocked:
            raise ModuleNotFoundError(f"fenced off: {name}", name=name)
sys.meta_path.insert(0, Fence())
importlib.import_module(module)
"""


def fenced_import(module, blocked):
    command = [sys.executable, "-c", FENCED_IMPORT, module, *blocked]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def relative(path):
    return path.relative_to(ROOT).as_posix()


def code_lines(function):
    """Lines of a function's body without its docstring; a long list of options is no long code."""
    body = function.body
    if ast.get_docstring(function) is not None:
        body = body[1:]
    return function.end_lineno - body[0].lineno + 1 if body else 0


def test_code_was_found():
    assert len(CODE) > 40


@pytest.mark.parametrize("folder", FOLDERS)
def test_symlinks_are_relative_and_right(folder):
    link = ROOT / "src" / "gopstream" / folder
    assert link.is_symlink()
    assert link.readlink() == Path("..") / ".." / folder
    assert link.resolve() == ROOT / folder


def test_nothing_else_is_linked():
    links = {path.name for path in (ROOT / "src" / "gopstream").iterdir() if path.is_symlink()}
    assert links == set(FOLDERS)


def test_files_are_short():
    lengths = {relative(path): len(path.read_text().splitlines()) for path in CODE}
    assert {name: length for name, length in lengths.items() if length > 400} == {}


def test_functions_are_short():
    long = {
        f"{relative(path)}:{node.lineno} {node.name}": code_lines(node)
        for path in CODE
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and code_lines(node) > 55
    }
    assert long == {}


def test_code_is_ascii():
    assert [relative(path) for path in ALL_CODE if not path.read_bytes().isascii()] == []


@pytest.mark.parametrize(
    ("module", "blocked"),
    [
        ("gopstream.shards.loading.loader", VIDEO),
        ("gopstream.models", VIDEO),
        ("gopstream.jobs.train", VIDEO),
        ("gopstream.jobs.preprocess", TRAINING),
        ("gopstream.jobs.cli", TRAINING),
        ("gopstream.jobs.verify", TRAINING),
        ("gopstream.pipeline.extract", TRAINING),
    ],
)
def test_imports_without(module, blocked):
    done = fenced_import(module, blocked)
    assert done.returncode == 0, done.stderr


def test_the_fence_stands():
    assert "fenced off: torch" in fenced_import("gopstream.models", TRAINING).stderr
    assert "fenced off: numba" in fenced_import("gopstream.pipeline.extract", VIDEO).stderr
