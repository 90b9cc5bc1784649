"""Samples a second of `visalign reward serve` against the bare forward pass of the same reward, and p95 latency.

    OMP_NUM_THREADS=1 python scripts/bench/serve.py --samples 512 --rate 0.5

The server is a process of its own. At saturation, --clients processes send requests of --per-request images as fast as
they are answered; the bare forward scores as many of the same decoded images in batches of --batch in this process, a
slice before and one after each slice of serving, so that both see the same machine. For the latency one client sends
requests of one image at a steady --rate, as a share of what the bare forward does. The reward is tiny-clip, or with
--reward any other; `vit-b-32` is CLIP ViT-B/32 with random weights, a realistic cost that needs no download.
"""

import argparse
import json
import multiprocessing
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import httpx
import numpy as np
import psutil
import torch
from PIL import Image

from visalign.media.samples import Sample
from visalign.rewards import load_reward
from visalign.rewards.web.wire import SCORE_PATH, packed_sample

VIT = "vit-b-32"


def vit_folder(folder: Path) -> Path:
    """An open_clip folder of ViT-B/32 with random weights."""
    import open_clip
    from safetensors.torch import save_file

    model = open_clip.create_model("ViT-B-32", pretrained=None)
    config = {"model_cfg": open_clip.get_model_config("ViT-B-32"),
              "preprocess_cfg": {"mean": [0.48, 0.46, 0.41], "std": [0.27, 0.26, 0.28]}}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()},
              folder / "open_clip_model.safetensors")
    return folder


def images(count: int, side: int) -> list[Sample]:
    """Distinct images as a generator makes them: neither flat nor noise."""
    rng = np.random.default_rng(0)
    small = rng.integers(0, 256, (count, 16, 16, 3), dtype=np.uint8)
    return [Sample(f"a red fruit {i % 8}", Image.fromarray(each).resize((side, side), Image.Resampling.BICUBIC))
            for i, each in enumerate(small)]


def bodies(samples: list[Sample], per_request: int) -> list[bytes]:
    rows = [packed_sample(sample, False, None) for sample in samples]
    return [json.dumps({"samples": rows[i:i + per_request]}).encode() for i in range(0, len(rows), per_request)]


def send(url: str, waiting: list[bytes]) -> None:
    """One client: its requests one after another, again where the server is full."""
    with httpx.Client(timeout=600) as client:
        for body in waiting:
            while (answer := client.post(url + SCORE_PATH, content=body,
                                         headers={"Content-Type": "application/json"})).status_code == 503:
                time.sleep(0.05)
            answer.raise_for_status()


def saturated(url: str, requests: list[bytes], clients: int) -> float:
    """Seconds until all are answered."""
    pool = [multiprocessing.get_context("fork").Process(target=send, args=(url, requests[k::clients]))
            for k in range(clients)]
    started = time.perf_counter()
    for each in pool:
        each.start()
    for each in pool:
        each.join()
    return time.perf_counter() - started


def latencies(url: str, requests: list[bytes], a_second: float) -> np.ndarray:
    """Seconds that each of the requests took, sent at a steady rate whether or not those before are answered."""
    found: list[float] = []

    def one(body: bytes) -> None:
        started = time.perf_counter()
        send(url, [body])
        found.append(time.perf_counter() - started)

    threads = []
    for body in requests:
        threads.append(threading.Thread(target=one, args=(body,)))
        threads[-1].start()
        time.sleep(1 / a_second)
    for thread in threads:
        thread.join()
    return np.array(found)


def bare(reward, samples: list[Sample], batch: int) -> float:
    """Seconds of scoring decoded images."""
    started = time.perf_counter()
    for i in range(0, len(samples), batch):
        reward.score(samples[i:i + batch])
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reward", default="tiny-clip", help=f"any reward, or {VIT}")
    parser.add_argument("--samples", type=int, default=512)
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--per-request", type=int, default=16)
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--slices", type=int, default=3)
    parser.add_argument("--rate", type=float, default=0.5, help="of the bare forward's samples a second")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        name = f"clip:{vit_folder(Path(folder))}" if arguments.reward == VIT else arguments.reward
        server = subprocess.Popen([sys.executable, "-m", "visalign", "reward", "serve", name, "--port", "0", "--batch",
                                   str(arguments.batch)], stdout=subprocess.PIPE, text=True)
        try:
            measure(load_reward(name), server.stdout.readline().split()[-1], server.pid, arguments)
        finally:
            server.terminate()
            server.wait()


def busy(process: int) -> float:
    """Seconds of processor time that a process has used, all threads together."""
    times = psutil.Process(process).cpu_times()
    return times.user + times.system


def measure(reward, url: str, server: int, arguments: argparse.Namespace) -> None:
    samples = images(arguments.samples, arguments.side)
    requests = bodies(samples, arguments.per_request)
    bare(reward, samples[:arguments.batch], arguments.batch)
    saturated(url, requests[:1], 1)
    here, there = time.process_time(), busy(server)
    served_seconds, bare_seconds = [], [bare(reward, samples, arguments.batch)]
    for _ in range(arguments.slices):
        served_seconds.append(saturated(url, requests, arguments.clients))
        bare_seconds.append(bare(reward, samples, arguments.batch))
    here = (time.process_time() - here) / (arguments.slices + 1) / arguments.samples * 1000
    there = (busy(server) - there) / arguments.slices / arguments.samples * 1000
    print(f"processor time a sample: bare {here:.2f} ms, served {there:.2f} ms with decoding and HTTP")
    alone = arguments.samples / np.median(bare_seconds)
    reached = arguments.samples / np.median(served_seconds)
    print(f"{reward.name}, {arguments.side} px, batches of {arguments.batch}, "
          f"{torch.get_num_threads()} threads of torch")
    print(f"bare forward {alone:8.1f} samples/s   served {reached:8.1f} samples/s   ratio {reached / alone:.2f}")
    rate = arguments.rate * alone
    waits = latencies(url, bodies(samples[:min(arguments.samples, 100)], 1), rate) * 1000
    median, late = np.percentile(waits, [50, 95])
    print(f"steady {rate:.1f} requests/s of one image: median {median:.0f} ms, p95 {late:.0f} ms")


if __name__ == "__main__":
    main()
