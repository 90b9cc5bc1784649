"""Images a second of `visalign score` against the bare forward pass of the same model, in one run.

    OMP_WAIT_POLICY=passive python scripts/bench/score.py --files 10000

The command line sets that variable itself: waiting OpenMP threads would otherwise spin on the decoding threads' core.

Writes distinct 64x64 PNGs to a temporary folder, scores them with tiny-clip through the same function as the command,
and times the model's image tower alone on as many images in the same batches: a slice before each chunk's share of
the scoring and one after, so that both see the same machine. Also prints the peak memory after a tenth and at the end.
"""

import argparse
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from visalign.jobs import score as scoring
from visalign.rewards import load_reward


def write_images(folder: Path, count: int) -> None:
    rng = np.random.default_rng(0)
    for i in range(count):
        small = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(small).resize((64, 64), Image.Resampling.BICUBIC).save(folder / f"{i:06d}.png")
        (folder / f"{i:06d}.txt").write_text(f"a red fruit {i % 100}")


def peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=10000)
    parser.add_argument("--workers", type=int, help="threads that decode (default: as the command)")
    args = parser.parse_args()
    reward = load_reward("tiny-clip")
    batch = torch.rand(reward.batch_size, 3, 64, 64)
    network = reward.network
    bare: list[float] = []
    memory: list[float] = []

    def bare_pass(images: int) -> None:
        started = time.perf_counter()
        with torch.no_grad():
            for _ in range(-(-images // len(batch))):
                network.encode_image(batch)
        bare.append((time.perf_counter() - started) / (-(-images // len(batch)) * len(batch)))

    original = scoring.score_chunk
    spent = 0.0

    def interleaved(*arguments):
        nonlocal spent
        table = original(*arguments)
        started = time.perf_counter()
        if len(memory) % 4 == 0:
            bare_pass(scoring.CHUNK)
        memory.append(peak())
        spent += time.perf_counter() - started
        return table

    scoring.score_chunk = interleaved
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "images"
        folder.mkdir()
        write_images(folder, args.files)
        bare_pass(1024)
        bare.clear()
        started = time.perf_counter()
        scoring.score_generations(str(folder), ["tiny-clip"], Path(temporary) / "scores.parquet", workers=args.workers,
                                  gallery=False)
        seconds = time.perf_counter() - started - spent
    alone = args.files * float(np.mean(bare))
    print(f"{args.files} images: {args.files / seconds:.0f} a second; bare forward {args.files / alone:.0f}; "
          f"ratio {alone / seconds:.2f}; peak memory {memory[len(memory) // 10]:.2f} GiB after a tenth, "
          f"{memory[-1]:.2f} GiB at the end; {torch.get_num_threads()} threads")


if __name__ == "__main__":
    main()
