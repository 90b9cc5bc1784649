"""`visalign score --engine ray`: the same scores as here, exactly once, whatever is killed."""

import json
import os
import signal
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from PIL import Image

from visalign.cli import main
from visalign.errors import UserError
from visalign.jobs import score_on_ray as module
from visalign.jobs.on_ray import RaySettings, WorkerShare, _Worker, ray_errors_told, share_of


@pytest.fixture
def folder(tmp_path):
    """Sixty images with prompts, one of them broken."""
    root = tmp_path / "media"
    root.mkdir()
    for i in range(60):
        Image.effect_noise((32, 32), 20 + i).convert("RGB").save(root / f"{i:02d}.png")
        (root / f"{i:02d}.txt").write_text(f"a red fruit {i % 7}")
    (root / "33.png").write_bytes(b"nope")
    return root


def invoke(*arguments):
    return CliRunner().invoke(main, ["score", *map(str, arguments)])


def rows_of(out) -> list[dict]:
    return [row for part in sorted(Path(out).glob("part-*.parquet")) for row in pq.read_table(part).to_pylist()]


def dies_once(specs, out, threads, share):
    """A worker whose process is killed in the middle of partition 3."""
    work, flag = module.scorer(specs, out, threads, share), Path(out.out.given).with_name("died")

    def once(number, part):
        if number == 3 and not flag.exists():
            flag.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return work(number, part)

    return once


def check_equal(rows: list[dict], expected: list[dict]) -> None:
    """Texts alike, numbers to 1e-6."""
    assert len(rows) == len(expected) == 60
    for row, same in zip(rows, expected, strict=True):
        assert {k: v for k, v in row.items() if not isinstance(v, float)} == {
            k: v for k, v in same.items() if not isinstance(v, float)}
        assert [v for v in row.values() if isinstance(v, float)] == pytest.approx(
            [v for v in same.values() if isinstance(v, float)], abs=1e-6)


def test_two_actors_of_which_one_is_killed_give_the_local_scores_once(folder, tmp_path, monkeypatch):
    local, out = tmp_path / "local.parquet", tmp_path / "scores"
    assert invoke(folder, "-r", "sharpness", "-o", local, "--no-gallery").exit_code == 0
    monkeypatch.setattr(module, "scorer", dies_once)
    ray = RaySettings(workers=2, partition_size=8)
    done = module.score_on_ray(str(folder), ["sharpness"], str(out), ray, device="cpu")
    assert (tmp_path / "died").exists() and (done.rows, done.broken) == (60, 1)
    rows, expected = rows_of(out), pq.read_table(local).to_pylist()
    assert len(list(out.glob("part-*.parquet"))) == 8
    check_equal(rows, expected)
    figures = json.loads((out / "summary.json").read_text())
    assert figures["rows"] == 60 and figures["scores"]["sharpness.score"]["scored"] == 59
    assert figures["scores"]["sharpness.score"]["mean"] == pytest.approx(
        sum(row["sharpness.score"] for row in expected if row["sharpness.score"] is not None) / 59, abs=1e-6)


def test_a_network_scores_partitions_as_it_scores_all(folder, tmp_path, here):
    local, out = tmp_path / "local.parquet", tmp_path / "scores"
    assert invoke(folder, "-r", "tiny-clip", "-o", local, "--no-gallery").exit_code == 0
    result = invoke(folder, "-r", "tiny-clip", "-o", out, "--engine", "ray", "--partition-size", 11)
    assert result.exit_code == 0 and "60 rows in" in result.output and "1 files unreadable" in result.output
    check_equal(rows_of(out), pq.read_table(local).to_pylist())


def test_a_killed_command_makes_only_what_is_missing(folder, tmp_path, here):
    out, ray = tmp_path / "scores", RaySettings(partition_size=8)

    def score(specs=("sharpness",), ray=ray):
        return module.score_on_ray(str(folder), list(specs), str(out), ray, device="cpu")

    score()
    before = rows_of(out)
    (out / "summary.json").unlink()  # as if it had been killed
    parts = sorted(out.glob("part-*.parquet"))
    parts[2].unlink()
    (out / f".tmp-{parts[2].name}").write_bytes(b"half")
    (out / "part-of-mine.txt").write_bytes(b"kept")
    kept = {part: part.stat().st_mtime_ns for part in out.glob("part-*.parquet")}
    here.clear()
    assert score().rows == 60 and here == [2] and rows_of(out) == before
    assert all(part.stat().st_mtime_ns == when for part, when in kept.items()) and not list(out.glob(".tmp*"))
    assert (out / "part-of-mine.txt").exists()
    with pytest.raises(UserError, match="is complete"):
        score()
    (out / "summary.json").unlink()
    with pytest.raises(UserError, match=r"other settings \(rewards\)"):
        score(["saturation"])
    with pytest.raises(UserError, match="partition_size"):
        score(ray=RaySettings(partition_size=9))
    Image.new("RGB", (32, 32)).save(folder / "33.png")
    here.clear()
    assert score().broken == 0 and here == [4] and len(list(out.glob("part-*.parquet"))) == 8
    (out / "summary.json").unlink()
    (folder / "33.png").unlink()
    with pytest.raises(UserError, match="files"):
        score()


def test_failures_of_a_reward_end_it_and_are_scored_again(folder, tmp_path, here, monkeypatch):
    from visalign.rewards.rules import Sharpness

    good = Sharpness.score_batch
    monkeypatch.setattr(Sharpness, "score_batch", lambda self, samples: good(self, samples) * float("nan"))
    out, ray = str(tmp_path / "scores"), RaySettings(partition_size=8)
    with pytest.raises(UserError, match="could not score 24 of 24"):
        module.score_on_ray(str(folder), ["sharpness"], out, ray, device="cpu")
    monkeypatch.setattr(Sharpness, "score_batch", good)
    here.clear()
    assert module.score_on_ray(str(folder), ["sharpness"], out, ray, device="cpu").rows == 60
    assert here == list(range(8))


def test_cores_are_shared_so_that_some_are_left():
    two = share_of(RaySettings(), [{"CPU": 2.0}], "auto")
    assert (two.workers, two.cpus, two.gpus, two.device) == (2, 0.75, 0.0, "cpu")
    nodes = [{"CPU": 64.0, "GPU": 8.0}, {"CPU": 64.0, "GPU": 8.0}, {"CPU": 4.0}]
    many = share_of(RaySettings(), nodes, "auto")
    assert (many.workers, many.gpus, many.device) == (16, 1.0, "cuda") and 16 * many.cpus <= 128
    assert share_of(RaySettings(), nodes, "cpu").gpus == 0
    for settings, device, said in ((RaySettings(workers=3, cpus=1.0), "cpu", "3 workers of 1 cores do not fit"),
                                   (RaySettings(gpus=1.0), "auto", "and 1 GPUs"),
                                   (RaySettings(), "cuda", "no machine")):
        with pytest.raises(UserError, match=said):
            share_of(settings, [{"CPU": 2.0}], device)


def test_what_ends_the_command_is_a_sentence():
    def full(share):
        def work(number, part):
            raise OSError(28, "No space left on device", "/scores/part")
        return work

    class Attempts:
        class begin:
            remote = staticmethod(lambda number: number)

        end = begin

    worker = _Worker(full, WorkerShare(1, 1.0, 0.0, "cpu"), Attempts, ".")
    worker_ray = pytest.importorskip("ray")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(worker_ray, "get", lambda value: value)
        part = type("P", (), {"name": lambda self: "shard-7.tar"})()
        assert "the disk is full" in worker.result(1, part)["problem"]
        assert "partition 4 (shard-7.tar): 3 workers died of it" in worker.result(4, part)["problem"]


def test_what_ray_says_of_its_cluster_is_a_sentence():
    from ray import exceptions
    from ray.data.exceptions import ExecutionTimeoutError

    for error, said in ((exceptions.ObjectStoreFullError("full"), "its object store is full"),
                        (exceptions.OutOfMemoryError("oom"), "no memory left"),
                        (exceptions.NodeDiedError("gone"), "a machine of it was lost"),
                        (ExecutionTimeoutError("idle"), "no partition was finished in 60 minutes")):
        with pytest.raises(UserError, match=f"the Ray cluster: .*{said}.*the same command continues"):  # noqa: SIM117
            with ray_errors_told(RaySettings()):
                raise RuntimeError("of Ray Data") from error
    fault = exceptions.RayActorError(error_msg="It died because of an error raised in its creation task, KeyError")
    for ours in (ZeroDivisionError(), fault):
        with pytest.raises(type(ours)), ray_errors_told(RaySettings()):
            raise ours


def test_bad_input_ends_before_a_cluster_is_joined(folder, tmp_path, monkeypatch):
    def never(*_):
        raise AssertionError("a cluster was joined")

    monkeypatch.setattr(module, "run_partitions", never)
    for arguments, said in ((["-r", "sharpnes"], "sharpness"), (["-o", "x.parquet"], "a folder of partitions"),
                            ([tmp_path / "none.tar"], "no such file")):
        source = folder if isinstance(arguments[0], str) else arguments.pop()
        result = invoke(source, "--engine", "ray", *arguments)
        assert result.exit_code == 1 and said in result.output and "Traceback" not in result.output
    result = invoke(folder, "--ray-workers", 2)
    assert result.exit_code == 2 and "--ray-workers belongs to --engine ray" in result.output
