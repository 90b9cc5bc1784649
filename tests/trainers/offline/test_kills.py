"""Runs of every kind of states that are killed in the middle, as a machine that loses power, end in the same bits."""

import time

import pytest
import torch

from tests.programs import VISALIGN, Program
from tests.trainers.commands import ENVIRONMENT, UNMEASURED, rows, run, weights

STEPS = 40


@pytest.mark.slow
@pytest.mark.parametrize("method, options", [
    ("flow_inpo", {"objective": {"name": "flow_inpo", "inversion_steps": 3, "inversion_noise": 0.1}}),
    ("soar", {"objective": {"name": "soar", "points": 2}}),
    ("seppo", {"objective": {"name": "seppo", "anchors": 2},
               "data": {"holdout": 0.0, "own": {"every": 3, "keep": 4, "steps": 2}}})])
def test_a_killed_run_ends_in_the_same_bits(recipe, tmp_path, method, options):
    def written(name):
        return recipe("sd3", method, name=f"{name}.yaml", eval=UNMEASURED, train={"steps": STEPS},
                      model={"lora": {"rank": 2, "alpha": 4, "dropout": 0.2}},
                      output={"folder": str(tmp_path / name), "checkpoint_every": 4}, **options)

    run(written("whole"))
    program = Program(VISALIGN, "train", written("cut"), output=tmp_path / "killed", environment=dict(ENVIRONMENT))
    began, after = time.monotonic(), tmp_path / "cut" / "checkpoints" / "step-00000008"
    while not after.exists():
        assert not program.ended() and time.monotonic() - began < 300, program.text()[-2000:]
        time.sleep(0.01)
    program.kill()
    assert not (after.parent / f"step-{STEPS:08d}").exists()
    run(written("cut"), "--resume")
    a, b = weights(tmp_path / "whole", STEPS), weights(tmp_path / "cut", STEPS)
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert [row["loss"] for row in rows(tmp_path / "whole")] == [row["loss"] for row in rows(tmp_path / "cut")]
