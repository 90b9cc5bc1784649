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


@pytest.fixture
def peers(gpu, monkeypatch):
    import peers

    for name, value in {"AT_ONCE": 2, "GROUP": 4, "STEPS": 3}.items():
        monkeypatch.setattr(peers.FlowGrpo, name, value)
    return peers


@pytest.mark.parametrize("name, samples", [("flow_grpo", 4), ("diffusers_dpo", 8)])
def test_published_scripts_learn_from_their_samples(peers, name, samples):
    peer = peers.PEERS[name](torch.device("cpu"), True)
    before = [parameter.detach().clone() for parameter in peer.learnt]
    peer()
    moved = [(old - new).abs().max().item() for old, new in zip(before, peer.learnt, strict=True)]
    assert peer.samples == samples and 0 < max(moved) < 1e-2
    assert all(parameter.dtype == torch.float32 for parameter in peer.learnt)
    assert not any(parameter.requires_grad for part in ("vae", "text_encoder", "text_encoder_2")
                   for parameter in getattr(peer.pipeline, part).parameters())


def test_flow_grpo_s_transitions_are_those_of_our_sampler(peers):
    from diffusers import FlowMatchEulerDiscreteScheduler

    from visalign.processes import Flow
    from visalign.processes.steps import LOG_PROBS

    peer = peers.FlowGrpo.__new__(peers.FlowGrpo)
    peer.scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    peer.scheduler.set_timesteps(10)
    x, velocity, after = torch.randn(3, 2, 4, 4, 4).unbind(0)
    where, times = [1, 5], peer.scheduler.sigmas
    _, log_prob, mean, rate = peer.transition(velocity, peer.scheduler.timesteps[where], x, after)
    ours = Flow(shift=3.0).moments(velocity, x, times[where], times[[2, 6]], "flow_sde", peer.NOISE)
    torch.testing.assert_close(mean, ours.mean)
    torch.testing.assert_close(log_prob, LOG_PROBS["normal"](after, ours.mean, ours.std))
    torch.testing.assert_close(rate.flatten() * (times[where] - times[[2, 6]]).sqrt(), ours.std.flatten())


def test_rows_are_told_beside_the_published_script(gpu):
    ours = next(case for case in gpu.PARTS["sdxl"] if case.beside)
    rows = [{"case": gpu.DIFFUSERS, "samples_per_s": 2.0, "peak_gib": 20.0},
            {"case": ours.label, "samples_per_s": 3.0, "peak_gib": 13.0}]
    about = {"card": "a card", "torch": "2"}
    lines = gpu.table({"sdxl": {"card": about, "tiny": False, "rows": rows}}).splitlines()
    assert next(line for line in lines if line.startswith(f"| {ours.label} |")).endswith("| 3.0 | 13.0 | 1.5 | 0.65 |")
    assert all(case.beside in {each.label for each in sum(gpu.PARTS.values(), []) if each.peer}
               for cases in gpu.PARTS.values() for case in cases if case.beside)


def test_packages_that_are_missing_are_named_and_nothing_runs(gpu, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(gpu, "NEEDED", ("torch", "not_a_package"))
    monkeypatch.setattr(sys, "argv", ["gpu.py", "sdxl", "--out", str(tmp_path)])
    assert gpu.main() == 3
    assert "not_a_package" in capsys.readouterr().err and not (tmp_path / "sdxl.json").exists()
