"""What the package says of itself: one version, the Pythons it runs on, citation; the wheel, built and run, is slow."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import visalign

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def project():
    tomllib = pytest.importorskip("tomllib")
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_the_version_stands_once_and_is_the_changelog_s_newest(project):
    assert project["dynamic"] == ["version"] and "version" not in project
    newest = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)[1]
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"]
    assert newest == cited == visalign.__version__


def test_the_classifiers_are_the_pythons_promised(project):
    named = re.findall(r"Python :: (3\.\d+)", " ".join(project["classifiers"]))
    assert named == ["3.10", "3.11", "3.12", "3.13"] and project["requires-python"] == ">=3.10"
    tools = (ROOT / "pyproject.toml").read_text()
    assert 'target-version = "py310"' in tools and 'python_version = "3.10"' in tools


def test_every_dependency_has_a_lowest_version(project):
    extras = [each for extra in project["optional-dependencies"].values() for each in extra]
    assert [each for each in project["dependencies"] + extras if ">=" not in each and "visalign[" not in each] == []


def test_the_package_is_typed_for_those_who_import_it():
    assert (ROOT / "visalign" / "py.typed").is_file() and (ROOT / "demo" / "visalign_demo" / "py.typed").is_file()


@pytest.mark.slow
def test_the_wheel_is_whole_and_runs_outside_the_checkout():
    done = subprocess.run([sys.executable, str(ROOT / "scripts" / "check_wheel.py")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
