"""`visalign score --engine ray` on many small images: memory, a killed worker, a killed command, each row once.

    python scripts/bench/millions.py --images 100000 --folder /tmp/millions

Writes webdataset shards of a thousand 64x64 PNGs, scores them in a process of its own, and samples the memory (PSS:
shared pages counted once) and the processor time of that process and all below it. At 40 % of the partitions one worker
gets SIGKILL; at 70 % the whole command does, and is given again. In the end every path must be there exactly once.
"""

import argparse
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from collections import Counter
from dataclasses import dataclass, field
from itertools import pairwise
from multiprocessing import Pool
from pathlib import Path

import numpy as np
import psutil
import pyarrow.parquet as pq
from PIL import Image

SHARD = 1000
EVERY = 2.0
"""Images in a shard; seconds between two looks at memory."""


def write_shard(given: tuple[Path, int, int]) -> None:
    folder, number, count = given
    rng = np.random.default_rng(number)
    with tarfile.open(folder / f"shard-{number:06d}.tar", "w") as tar:
        for i in range(number * SHARD, number * SHARD + count):
            small, sink = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8), io.BytesIO()
            Image.fromarray(small).resize((64, 64), Image.Resampling.BICUBIC).save(sink, "PNG")
            for name, data in ((f"{i:08d}.png", sink.getvalue()), (f"{i:08d}.txt", f"a red fruit {i % 100}".encode())):
                info = tarfile.TarInfo(name)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))


def write_shards(folder: Path, images: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with Pool(2) as pool:
        pool.map(write_shard, [(folder, number, min(SHARD, images - number * SHARD))
                               for number in range(-(-images // SHARD))], chunksize=1)


@dataclass
class Watch:
    """What is seen of a command: seconds, MiB and partitions at each look, processor seconds by kind of process, and
    how many partitions were there at each start."""

    out: Path
    starts: list[int] = field(default_factory=list)
    looks: list[tuple[float, dict[str, float], int]] = field(default_factory=list)
    seconds: dict[tuple[int, str], float] = field(default_factory=dict)

    def done(self) -> int:
        return sum(1 for _ in self.out.glob("part-*"))

    def look(self, command: psutil.Process, started: float) -> int:
        memory: Counter[str] = Counter()
        for process in [command, *command.children(recursive=True)]:
            try:
                kind = kind_of(process, command)
                memory[kind] += process.memory_full_info().pss / 2**20
                spent = process.cpu_times()
                self.seconds[process.pid, kind] = spent.user + spent.system
            except psutil.Error:
                continue
        done = self.done()
        self.looks.append((time.time() - started, dict(memory), done))
        return done

    def rate(self) -> float:
        """Partitions a second between the first and the last of each start."""
        count = seconds = 0.0
        for start, end in pairwise([*self.starts, 10**9]):
            came = {done: when for when, _, done in reversed(self.looks) if start < done <= end}
            count, seconds = count + max(came) - min(came), seconds + came[max(came)] - came[min(came)]
        return count / seconds

    def spent(self) -> Counter:
        by_kind: Counter[str] = Counter()
        for (_, kind), seconds in self.seconds.items():
            by_kind[kind] += seconds
        return by_kind


def kind_of(process: psutil.Process, command: psutil.Process) -> str:
    title = " ".join(process.cmdline())
    return "command" if process == command else "workers" if "MapWorker" in title else "ray"


def run(shards: Path, out: Path, rewards: str, workers: int | None, watch: Watch, started: float,
        worker_at: int | None, command_at: int | None) -> int:
    """Score once, killing a worker and the command when so many partitions are there; the exit code."""
    words = [sys.executable, "-m", "visalign", "score", str(shards), "-r", rewards, "--engine", "ray", "-o", str(out)]
    watch.starts.append(watch.done())
    with (out.parent / "said.txt").open("a") as said:
        process = subprocess.Popen([*words, *(["--ray-workers", str(workers)] if workers else [])], stdout=said,
                                   stderr=subprocess.STDOUT)
        command = psutil.Process(process.pid)
        while process.poll() is None:
            try:
                done = watch.look(command, started)
            except psutil.NoSuchProcess:
                break
            if worker_at is not None and done >= worker_at:
                victim = next((each for each in command.children(recursive=True)
                               if kind_of(each, command) == "workers"), None)
                if victim:
                    print(f"{time.time() - started:6.0f} s: worker {victim.pid} killed at {done} partitions")
                    os.kill(victim.pid, signal.SIGKILL)
                    worker_at = None
            if command_at is not None and done >= command_at:
                print(f"{time.time() - started:6.0f} s: command killed at {done} partitions")
                process.kill()
            time.sleep(EVERY)
        return process.wait()


def check_once(out: Path, images: int) -> None:
    """Raise where a path is missing or there twice, or a value is."""
    paths: Counter[str] = Counter()
    empty = 0
    for part in out.glob("part-*"):
        table = pq.read_table(part)
        paths.update(table.column("path").to_pylist())
        empty += table.column(table.column_names[-2]).null_count
    expected = {f"{i:08d}.png" for i in range(images)}
    assert set(paths) == expected and max(paths.values()) == 1 and not empty, "not every image exactly once"
    summary = json.loads((out / "summary.json").read_text())
    assert summary["rows"] == images and summary["unreadable"] == 0, summary
    print(f"{images:,} images, each exactly once; {json.dumps(summary['scores'])}")


def report(watch: Watch, images: int) -> None:
    total = -(-images // SHARD)
    print(f"\n{'partitions':>10} {'seconds':>8} {'workers':>9} {'command':>9} {'ray':>9}  MiB")
    for share in (0.2, 0.35, 0.5, 0.65, 0.8, 1.0):
        when, memory, done = next((look for look in watch.looks if look[2] >= share * total), watch.looks[-1])
        figures = " ".join(f"{memory.get(kind, 0.0):9.0f}" for kind in ("workers", "command", "ray"))
        print(f"{done:10} {when:8.0f} {figures}")
    peak = max(sum(memory.values()) for _, memory, _ in watch.looks)
    print(f"most at any look: {peak:.0f} MiB")
    spent = watch.spent()
    for kind, seconds in spent.items():
        print(f"{kind:8} {seconds:8.0f} processor seconds, {1000 * seconds / images:.3f} ms an image")
    everything = sum(spent.values())
    print(f"all      {everything:8.0f} processor seconds, {images / everything:.0f} images a second and core")
    print(f"by the clock: {watch.looks[-1][0]:.0f} s in all, both starts included; while partitions came, "
          f"{SHARD * watch.rate():.0f} images a second")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--rewards", default="sharpness")
    parser.add_argument("--workers", type=int)
    args = parser.parse_args()
    shards, out = args.folder / "shards", args.folder / "scores"
    write_shards(shards, args.images)
    total, watch, started = -(-args.images // SHARD), Watch(out), time.time()
    code = run(shards, out, args.rewards, args.workers, watch, started, int(0.4 * total), int(0.7 * total))
    assert code == -signal.SIGKILL, (args.folder / "said.txt").read_text()[-2000:]
    assert run(shards, out, args.rewards, args.workers, watch, started, None, None) == 0, \
        (args.folder / "said.txt").read_text()[-2000:]
    watch.looks.append((time.time() - started, watch.looks[-1][1], total))
    check_once(out, args.images)
    report(watch, args.images)


if __name__ == "__main__":
    main()
