"""The run folder: atomic checkpoints, kept by count, intact when the disk is full; metrics that were cut short."""

import errno
import json

import pytest
from safetensors import SafetensorError

from visalign.config.load import parse_config
from visalign.errors import UserError
from visalign.storage.run_folder import RunFolder, fault_of, read_metrics

RAW = {"model": {"source": "tiny-sd3"}, "data": {"path": "x"}, "objective": {"name": "sft"}}
CONFIG = parse_config(RAW)


def good(folder):
    (folder / "state.json").write_text("{}")
    (folder / "trainable.safetensors").write_bytes(b"weights")


def changed(**sections):
    return parse_config(RAW | sections)


def test_checkpoints_are_kept_by_count(tmp_path):
    run = RunFolder(tmp_path / "run", CONFIG)
    for step in (1, 2, 3):
        run.save_checkpoint(step, good, keep=2)
    assert [p.name for p in run.checkpoints()] == ["step-00000002", "step-00000003"]


def test_the_step_kept_is_that_of_the_newest_complete_checkpoint_of_either_loop(tmp_path):
    run = RunFolder(tmp_path / "run", CONFIG)
    assert run.step_kept() is None
    run.save_checkpoint(3, good, keep=2)
    assert run.step_kept() == 3
    for step, file in ((9, "trainer_state.json"), (10, "trainer_state.json"), (12, "adapter_model.safetensors")):
        folder = run.path / "checkpoints" / f"checkpoint-{step}"
        folder.mkdir()
        (folder / file).write_text("{}")
    assert run.step_kept() == 10


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"),
                                   SafetensorError("I/O error: No space left on device (os error 28)")])
def test_full_disk_keeps_the_old_checkpoint_and_says_so(tmp_path, error):
    def runs_out(folder):
        (folder / "trainable.safetensors").write_bytes(b"half")
        raise error

    run = RunFolder(tmp_path / "run", CONFIG)
    run.save_checkpoint(1, good, keep=1)
    with pytest.raises(UserError, match="disk is full.*step-00000001"):
        run.save_checkpoint(2, runs_out, keep=1)
    assert [p.name for p in (tmp_path / "run" / "checkpoints").iterdir()] == ["step-00000001"]


@pytest.mark.parametrize("harm, words", [
    (lambda folder: (folder / "trainable.safetensors").write_bytes(b"weight"), "has 6 bytes and had 7"),
    (lambda folder: (folder / "trainable.safetensors").write_bytes(b""), "has 0 bytes"),
    (lambda folder: (folder / "trainable.safetensors").write_bytes(b"weightz"), "is not what was written"),
    (lambda folder: (folder / "trainable.safetensors").unlink(), "trainable.safetensors is missing"),
    (lambda folder: (folder / "state.json").unlink(), "state.json is missing"),
    (lambda folder: (folder / "files.json").write_text("[1"), "Expecting"),
    (lambda folder: (folder / "files.json").write_text("[1]"), "list"),
])
def test_what_a_checkpoint_lacks_is_found(tmp_path, harm, words):
    run = RunFolder(tmp_path / "run", CONFIG)
    run.save_checkpoint(1, good, keep=1)
    (folder,) = run.checkpoints()
    assert fault_of(folder) is None
    harm(folder)
    assert words in fault_of(folder)


def test_a_checkpoint_is_written_over_one_of_the_same_step(tmp_path):
    run = RunFolder(tmp_path / "run", CONFIG)
    run.save_checkpoint(1, good, keep=1)
    run.save_checkpoint(1, good, keep=1)
    assert [p.name for p in (tmp_path / "run" / "checkpoints").iterdir()] == ["step-00000001"]


def test_metrics_after_a_checkpoint_are_forgotten_and_each_row_stands_once(tmp_path):
    run = RunFolder(tmp_path / "run", CONFIG)
    rows = [("start", 0), ("train", 1), ("train", 2), ("start", 2), ("self_check", 2), ("held_out", 2), ("train", 3)]
    for kind, step in rows:
        run.log({"kind": kind, "step": step})
    run.forget_after(2)
    assert [(row["kind"], row["step"]) for row in run.metrics()] == [
        ("start", 0), ("train", 1), ("train", 2), ("held_out", 2)]


@pytest.mark.parametrize("tail", ['{"kind": "train", "st', '{"kind": "train", "step": 5, "by_step": {"0": 1}', "}",
                                  "null", '"kind"', "\x00\x00\x00", "[" * 100_000])
def test_a_last_line_that_was_cut_short_is_left_out(tmp_path, tail):
    (tmp_path / "metrics.jsonl").write_text('{"kind": "train", "step": 1}\n' + tail)
    assert [row["step"] for row in read_metrics(tmp_path)] == [1]


def test_a_line_in_the_middle_that_is_no_row_is_named(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"kind": "train", "step": 1}\nhello\n{"kind": "train", "step": 2}\n')
    with pytest.raises(UserError, match="line 2"):
        read_metrics(tmp_path)


def test_resuming_where_nothing_is_names_the_runs_near_it(tmp_path):
    RunFolder(tmp_path / "run", CONFIG)
    with pytest.raises(UserError, match="nothing to resume.*runs near it: .*/run "):
        RunFolder(tmp_path / "rum", CONFIG, resume=True)
    with pytest.raises(UserError, match="nothing to resume.*/run "):
        RunFolder(tmp_path / "nowhere" / "deep" / "run", CONFIG, resume=True)
    assert not (tmp_path / "rum").exists()


@pytest.mark.parametrize("sections, words", [
    ({"optim": {"lr": 0.5}}, "optim.lr was 0.0001 and is 0.5"),
    ({"eval": {"seed": 7}, "data": {"path": "y"}}, "data.path was x and is y; eval.seed was 1000 and is 7"),
    ({"guard": {"action": "warn"}}, "guard.action was off and is warn"),
    ({"objective": {"name": "flow_dpo"}}, "objective.name was sft and is flow_dpo"),
])
def test_settings_that_would_make_another_run_are_all_named(tmp_path, sections, words):
    RunFolder(tmp_path / "run", CONFIG)
    with pytest.raises(UserError, match="cannot resume") as error:
        RunFolder(tmp_path / "run", changed(**sections), resume=True)
    assert words in str(error.value) and "train.steps" in str(error.value)


@pytest.mark.parametrize("sections", [
    {"train": {"steps": 7, "device": "cpu"}}, {"eval": {"every": 3}}, {"output": {"checkpoint_every": 9}},
    {"guard": {"budget": 0.5}}, {"data": {"path": "x", "cache": "elsewhere"}}])
def test_settings_that_change_nothing_done_may_change(tmp_path, sections):
    RunFolder(tmp_path / "run", CONFIG)
    RunFolder(tmp_path / "run", changed(**sections), resume=True)


def test_settings_of_an_older_version_have_the_defaults_of_what_they_lack(tmp_path):
    run = RunFolder(tmp_path / "run", CONFIG)
    text = (run.path / "config.yaml").read_text()
    (run.path / "config.yaml").write_text(text.replace("  checkpoint_minutes: 10.0\n", ""))
    RunFolder(run.path, CONFIG, resume=True)
    (run.path / "config.yaml").write_text("hello")
    with pytest.raises(UserError, match=r"config\.yaml"):
        RunFolder(run.path, CONFIG, resume=True)


def test_what_a_run_started_from_is_kept(tmp_path):
    run = RunFolder(tmp_path / "run", CONFIG)
    assert run.started_from("weights", "abc") == "abc" == RunFolder(run.path, CONFIG, True).started_from("weights", "d")
    assert json.loads((run.path / "started.json").read_text()) == {"weights": "abc"}
