"""The house: which room may import which, where modules may stand, and that a public name means one thing."""

import ast
from collections import defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FLOORS = (
    ("errors",),
    ("parallel",),
    ("storage", "validation", "processes"),
    ("objectives", "media"),
    ("config",),
    ("data", "rewards", "generators", "evaluators"),
    ("guidance", "votes"),
    ("sampling", "serving"),
    ("evaluation",),
    ("trainers", "reports"),
    ("language",),
    ("jobs",),
    ("cli",),
)
"""From the ground up. A room imports from lower floors only; rooms of one floor do not know each other."""

LEVEL = {room: level for level, rooms in enumerate(FLOORS) for room in rooms}
LOOSE = {"__init__", "__main__", "errors"}
TORCH_ONLY = ("objectives", "processes")


def modules():
    return sorted((ROOT / "visalign").rglob("*.py"))


def room_of(dotted: str) -> str:
    return dotted.split(".")[1] if "." in dotted else "errors"


def imports_of(file: Path):
    """Every import of the package in a file, lazy ones included, as (line, dotted name)."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "visalign":
            yield node.lineno, node.module
        elif isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names if alias.name.startswith("visalign."))


def test_arrows_point_down():
    wrong = []
    for file in modules():
        path = file.relative_to(ROOT / "visalign")
        if path.stem in ("__init__", "__main__") and len(path.parts) == 1:
            continue
        room = path.parts[0].removesuffix(".py")
        for line, name in imports_of(file):
            other = room_of(name)
            if other != room and LEVEL[other] >= LEVEL[room]:
                wrong.append(f"visalign/{path}:{line} imports {name}: {room} may not know {other}")
    assert not wrong, "\n".join(wrong)


def test_every_module_stands_in_a_room():
    loose = {file.stem for file in (ROOT / "visalign").glob("*.py")} - LOOSE
    assert not loose
    rooms = {folder.name for folder in (ROOT / "visalign").iterdir() if (folder / "__init__.py").exists()}
    assert rooms == set(LEVEL) - {"errors"}


def test_the_demo_knows_no_trainer():
    used = {name for file in (ROOT / "demo").rglob("*.py") for _, name in imports_of(file)}
    assert not {name for name in used if room_of(name) == "trainers"}


@pytest.mark.parametrize("room", TORCH_ONLY)
def test_the_mathematics_imports_torch_alone(room):
    allowed = {"torch", "visalign", "collections", "dataclasses", "functools", "math", "typing", "abc", "itertools",
               "importlib", "pkgutil"}
    for file in (ROOT / "visalign" / room).rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names = [node.module] if isinstance(node, ast.ImportFrom) else (
                [alias.name for alias in node.names] if isinstance(node, ast.Import) else [])
            assert {name.split(".")[0] for name in names if name} <= allowed, file


def test_a_public_name_is_defined_once():
    """The verbs of the command line apart, which call what has their name."""
    found = defaultdict(list)
    for file in (*modules(), *(ROOT / "demo").rglob("*.py")):
        if "cli" in file.parts:
            continue
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            names = [node.name] if isinstance(node, ast.FunctionDef | ast.ClassDef) else (
                [target.id for target in node.targets if isinstance(target, ast.Name)]
                if isinstance(node, ast.Assign) else [])
            for name in names:
                if not name.startswith("_"):
                    found[name].append(str(file.relative_to(ROOT)))
    assert not {name: files for name, files in found.items() if len(files) > 1}


def test_files_stay_readable():
    long = {str(file.relative_to(ROOT)): lines for folder in ("visalign", "demo")
            for file in (ROOT / folder).rglob("*.py")
            if (lines := len(file.read_text(encoding="utf-8").splitlines())) > 400}
    assert not long
