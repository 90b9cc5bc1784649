"""What several processes gain and cost: an online epoch on 1, 2, 4 processes of one machine, each pinned to a core.

    python scripts/bench/parallel.py [--processes 1 2] [--engines ddp fsdp2] [--epochs 4] [--method online/flow_grpo]

The processes share the samples of an epoch, so that twice as many should take half the time. One core computes for one
process whatever their number; where other work runs, efficiency by processor time is the one to read. Bytes are those
of the tensors handed to torch.distributed by one process in an epoch, waiting is at a barrier before gradients are
shared. A rollout under FSDP2 is timed with the weights gathered once, and with each block gathered at each step.
"""

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

GROUPS = 2
"""Of an epoch: small enough for a minute on a core."""

SHARDED = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}


class Sent(TorchDispatchMode):
    """Counts the bytes of tensors that are handed to collectives."""

    def __init__(self):
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.namespace == "c10d":
            tensors = [each for each in tree_leaves(args) if isinstance(each, torch.Tensor)]
            self.bytes += max((each.numel() * each.element_size() for each in tensors), default=0)
        return func(*args, **(kwargs or {}))


def pin(rank: int) -> None:
    """To one core, where the system allows it."""
    torch.set_num_threads(1)
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[rank % len(cores)]})


def measure(method: str, epochs: int, folder: str) -> None:
    """One process's part; the first one prints the figures as JSON."""
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    pin(rank)
    sys.path.insert(0, str(Path(__file__).parent))
    from online import CONFIGS

    from visalign.config.load import parse_config
    from visalign.generators import load_generator
    from visalign.jobs.training_setup import build_online
    from visalign.storage.run_folder import RunFolder
    from visalign.storage.yaml_files import read_mapping
    from visalign.trainers.opening import open_accelerator

    raw = read_mapping(CONFIGS / f"{method}.yaml", "recipe")
    raw["train"] |= {"epochs": 10**6, "device": "cpu"}
    group = raw["rollout"]["group_size"]  # the processes draw a group together
    raw["rollout"] |= {"cache": f"{folder}/cache-{rank}", "batch_size": group // world, "prompts_per_epoch": GROUPS}
    raw["output"] = {"folder": folder, "trackers": [], "checkpoint_every": 0}
    config = parse_config(raw)
    accelerator = open_accelerator(config)
    run = RunFolder(folder, config, is_main=not rank)
    accelerator.wait_for_everyone()
    trainer, counts = build_online(config, load_generator(config.model, "cpu"), run, accelerator)
    waited, share = [0.0], trainer.engine.reduce

    def timed(parameters) -> None:
        started = time.perf_counter()
        accelerator.wait_for_everyone()
        waited[0] += time.perf_counter() - started
        share(parameters)

    trainer.engine.reduce = timed
    seconds, sent, sampling = [], [], []
    with trainer.learning():
        for epoch in range(epochs + 1):
            accelerator.wait_for_everyone()
            started, computed, waited[0] = time.perf_counter(), time.process_time(), 0.0
            with Sent() as counted:
                batch = trainer.batch(epoch)
                sampling.append(batch.seconds["sampling"])
                torch.manual_seed(epoch)
                trainer.train_unit(epoch, batch)
            accelerator.wait_for_everyone()
            seconds.append((time.perf_counter() - started, waited[0], time.process_time() - computed))
            sent.append(counted.bytes)
            trainer.state.step += 1
        found = {"processes": world, "samples": counts["samples an epoch"],
                 "trained": sum(local(p).numel() * local(p).element_size() for p in trainer.parameters),
                 **{name: statistics.median(column) for name, column in zip(
                     ("seconds", "waiting", "processor seconds"), zip(*seconds[1:], strict=True), strict=True)},
                 "bytes": sent[-1]}
        if trainer.engine.sharded:
            found |= rollouts(trainer, epochs)
    if not rank:
        print("FIGURES " + json.dumps(found), flush=True)
    accelerator.end_training()


def local(parameter: torch.Tensor) -> torch.Tensor:
    return parameter.to_local() if hasattr(parameter, "to_local") else parameter


def rollouts(trainer, epochs: int) -> dict[str, float]:
    """Seconds and bytes of an epoch's sampling with the weights gathered once, and anew at every pass."""
    import contextlib

    def sampled(context) -> tuple[float, int]:
        trainer.engine.gathered = context
        trainer.accelerator.wait_for_everyone()
        with Sent() as counted:
            started = time.perf_counter()
            trainer.batch(0)
        return time.perf_counter() - started, counted.bytes

    once = [sampled(type(trainer.engine).gathered.__get__(trainer.engine)) for _ in range(epochs)]
    each = [sampled(contextlib.nullcontext) for _ in range(epochs)]
    return {"rollout gathered once": statistics.median(s for s, _ in once), "its bytes": once[-1][1],
            "rollout gathered at each pass": statistics.median(s for s, _ in each), "those bytes": each[-1][1]}


def launch(count: int, engine: str, args: argparse.Namespace) -> dict:
    """The figures of `count` processes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = os.environ | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(count),
                           "LOCAL_WORLD_SIZE": str(count), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    shared |= SHARDED if engine == "fsdp2" else {}
    with tempfile.TemporaryDirectory(prefix="bench-parallel-") as folder:
        command = [sys.executable, __file__, "--one", folder, "--epochs", str(args.epochs), "--method", args.method]
        programs = [subprocess.Popen(command, env=shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)}, text=True,
                                     stdout=subprocess.PIPE, stderr=subprocess.PIPE) for rank in range(count)]
        said = [program.communicate() for program in programs]
    if any(program.returncode for program in programs):
        raise SystemExit("\n".join(error[-2000:] for _, error in said))
    line = next(line for line in said[0][0].splitlines() if line.startswith("FIGURES "))
    return json.loads(line.removeprefix("FIGURES "))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--engines", nargs="+", choices=["ddp", "fsdp2"], default=["ddp", "fsdp2"])
    parser.add_argument("--method", default="online/flow_grpo")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        measure(args.method, args.epochs, args.one)
        return
    alone = ()
    for engine in args.engines:
        for count in args.processes:
            if count == 1 and engine == "fsdp2":
                continue
            found = launch(count, engine, args)
            spent = found["seconds"] * count, found["processor seconds"] * count
            alone = alone or spent
            print(json.dumps({"engine": engine, "efficiency": round(alone[0] / spent[0], 3),
                              "efficiency by processor time": round(alone[1] / spent[1], 3)} | found), flush=True)


if __name__ == "__main__":
    main()
