"""Every bad input ends in one helpful sentence, every odd but good one is taken; through the command line.

The inputs stand in `*_inputs.py` beside this file, one table (CASES) for each room; a new table is found by its name.
"""

import importlib
import pkgutil
import re
import shlex

import pytest
from click.testing import CliRunner

from tests import hostile
from visalign.cli import main

TABLES = [name for _, name, _ in pkgutil.iter_modules(hostile.__path__) if name.endswith("_inputs")]
CASES = [(table, case) for table in TABLES for case in importlib.import_module(f"tests.hostile.{table}").CASES]


@pytest.mark.parametrize("case", [pytest.param(case, id=f"{table.removesuffix('_inputs')}-{case.id}")
                                  for table, case in CASES])
def test_input(case, tmp_path, monkeypatch, pipelines):
    monkeypatch.chdir(tmp_path)
    case.lay_out(tmp_path)
    places = {name: str(pipelines(name)) for name in re.findall(r"\{([a-z0-9-]+)\}", case.command) if name != "folder"}
    words = [re.sub(r"\{([a-z0-9-]+)\}", lambda found: {"folder": str(tmp_path), **places}[found[1]], word)
             for word in shlex.split(case.command)]
    result = CliRunner().invoke(main, words)
    said = result.output
    assert result.exception is None or isinstance(result.exception, SystemExit), repr(result.exception)
    assert "Traceback" not in said
    assert (result.exit_code == 0) == case.succeeds, said
    for text in case.says:
        assert text.lower() in said.lower(), said
    for text in case.lacks:
        assert text.lower() not in said.lower(), said
    for name in case.writes:
        assert (tmp_path / name).exists(), said
