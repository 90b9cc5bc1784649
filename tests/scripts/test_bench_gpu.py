"""The measurements of a card: networks have the published sizes, a part runs narrow on a CPU, the table says all."""

import json
import sys
from pathlib import Path

import pytest
import torch

BENCH = Path(__file__).resolve().parents[2] / "scripts" / "bench"


@pytest.fixture
def gpu(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCH))
    import gpu

    return gpu


@pytest.mark.parametrize("name, millions", [("sdxl", 2567.5), ("sd3.5-medium", 2243), ("flux", 11901),
                                            ("wan2.1-1.3b", 1419)])
def test_networks_have_as_many_parameters_as_published(gpu, name, millions):
    import diffusers
    from sized import SIZES

    kind, arguments = SIZES[name].network
    with torch.device("meta"):
        network = getattr(diffusers, kind)(**arguments)
    assert sum(p.numel() for p in network.parameters()) / 1e6 == pytest.approx(millions, rel=5e-4)


def test_a_part_runs_narrow_and_the_table_has_every_row(gpu, tmp_path, monkeypatch, capsys):
    fine, broken = gpu.PARTS["flux"][0], gpu.Case("never", "flux", {"attention": "_native_cudnn"}, 1)
    monkeypatch.setitem(gpu.PARTS, "flux", [fine, broken])
    monkeypatch.setattr(sys, "argv", ["gpu.py", "flux", "--tiny", "--repeats", "1", "--out", str(tmp_path)])
    assert gpu.main() == 0
    first, second = json.loads((tmp_path / "flux.json").read_text())["rows"]
    assert first["seconds"] > 0 and first["ratio"] > 0 and first["model_tflop"] > 0 and "note" not in first
    assert second["note"].startswith("UserError: model.attention _native_cudnn")
    monkeypatch.setattr(sys, "argv", ["gpu.py", "table", "--out", str(tmp_path)])
    assert gpu.main() == 0
    lines = (tmp_path / "table.md").read_text().splitlines()
    assert lines[0].startswith(f"Card: CPU, torch {torch.__version__}, narrow")
    assert len(lines) == 4 + sum(map(len, gpu.PARTS.values()))
    assert sum("| not run |" in line for line in lines) == len(lines) - 4 - 2
    assert len({line.count("|") for line in lines[2:]}) == 1


def test_packages_that_are_missing_are_named_and_nothing_runs(gpu, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(gpu, "NEEDED", ("torch", "not_a_package"))
    monkeypatch.setattr(sys, "argv", ["gpu.py", "sdxl", "--out", str(tmp_path)])
    assert gpu.main() == 3
    assert "not_a_package" in capsys.readouterr().err and not (tmp_path / "sdxl.json").exists()
