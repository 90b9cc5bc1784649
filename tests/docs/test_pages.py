"""What the documentation promises of itself: sizes, links, and sentences that visalign really says."""

import ast
import importlib
import re
from pathlib import Path

import pytest

from tests.docs.shell_blocks import PAGES, ROOT
from visalign.storage.yaml_files import parse_yaml

LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
PYTHON = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
YAML = re.compile(r"^```yaml\n(.*?)^```$", re.MULTILINE | re.DOTALL)
QUOTED = re.compile(r"^\| `([^`]*)` \|", re.MULTILINE)


def test_readme_is_short_enough_to_be_read():
    assert len((ROOT / "README.md").read_bytes()) <= 10_000


def test_readme_keeps_the_commands_that_the_gate_runs():
    readme, gate = (ROOT / "README.md").read_text(), (ROOT / ".ci" / "run").read_text()
    for command in ("pip install -c constraints.txt -e '.[dev]'", "pytest -n auto --dist worksteal"):
        assert command in readme
    assert "pytest -n auto --dist worksteal" in gate


def test_images_are_small():
    sizes = {file.name: file.stat().st_size for file in (ROOT / "docs" / "pictures").iterdir()}
    assert sizes and not {name: size for name, size in sizes.items() if size > 300_000}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    for target in LINK.findall(page.read_text(encoding="utf-8")):
        if not target.startswith(("http:", "https:", "#", "mailto:")):
            file, _, anchor = target.partition("#")
            assert (page.parent / file).exists(), f"{target}: no such file"
            if anchor and file.endswith(".md"):
                assert anchor in anchors(page.parent / file), f"{target}: no such heading"


def anchors(page: Path) -> set[str]:
    """Headings as links name them; those that are written at the build are not known here and taken on trust."""
    text = page.read_text(encoding="utf-8")
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-")
            for title in re.findall(r"^#+ (.*)$", text, re.MULTILINE)}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_python_imports_what_there_is(page):
    for block in PYTHON.findall(page.read_text(encoding="utf-8")):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and node.module.startswith("visalign"):
                module = importlib.import_module(node.module)
                assert not [alias.name for alias in node.names if not hasattr(module, alias.name)], node.module


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_yaml_is_yaml(page):
    for block in YAML.findall(page.read_text(encoding="utf-8")):
        assert parse_yaml(block, str(page))


def test_every_image_is_shown():
    text = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    assert not {file.name for file in (ROOT / "docs" / "pictures").iterdir() if file.name not in text}


def said() -> list[str]:
    """Every text in the code of visalign and the demo."""
    return [node.value for folder in ("visalign", "demo") for file in (ROOT / folder).rglob("*.py")
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
            if isinstance(node, ast.Constant) and isinstance(node.value, str)]


@pytest.mark.parametrize("name, least", [("troubleshooting", 30), ("pipelines", 15)])
def test_what_is_quoted_is_what_is_said(name, least):
    texts = "\n".join(said())
    page = (ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8")
    quoted = [part.strip() for sentence in QUOTED.findall(page) for part in sentence.split("…")]
    assert len(quoted) > least
    assert not [part for part in quoted if len(part) > 3 and part not in texts]
