"""The run folder: atomic checkpoints, kept by count, intact when the disk is full."""

import errno

import pytest

from visalign.configfile import parse_config
from visalign.errors import UserError
from visalign.runs import RunFolder

CONFIG = parse_config({"model": {"source": "tiny-sd3"}, "data": {"path": "x"}, "objective": {"name": "sft"}})


def good(folder):
    (folder / "state.json").write_text("{}")


def test_checkpoints_are_kept_by_count(tmp_path):
    run = RunFolder(tmp_path / "run", CONFIG)
    for step in (1, 2, 3):
        run.save_checkpoint(step, good, keep=2)
    assert [p.name for p in run.checkpoints()] == ["step-00000002", "step-00000003"]


def test_full_disk_keeps_the_old_checkpoint_and_says_so(tmp_path):
    def runs_out(folder):
        (folder / "trainable.safetensors").write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    run = RunFolder(tmp_path / "run", CONFIG)
    run.save_checkpoint(1, good, keep=1)
    with pytest.raises(UserError, match="disk is full.*step-00000001"):
        run.save_checkpoint(2, runs_out, keep=1)
    assert [p.name for p in (tmp_path / "run" / "checkpoints").iterdir()] == ["step-00000001"]


def test_metrics_after_a_checkpoint_are_forgotten(tmp_path):
    run = RunFolder(tmp_path / "run", CONFIG)
    for step in (1, 2, 3):
        run.log({"kind": "train", "step": step})
    run.forget_after(2)
    assert [row["step"] for row in run.metrics()] == [1, 2]
