"""Runs of several processes on one machine, and what two runs have to have in common."""

import json

import pytest
import torch
from safetensors.torch import load_file

from tests.programs import environments, together
from tests.trainers.commands import rows
from visalign.storage.checkpoint_files import read_checkpoint

CODE = """
import json, os, sys
import torch
from accelerate import PartialState
from accelerate.state import AcceleratorState
from visalign.cli import main

engine, commands = sys.argv[1], json.loads(sys.argv[2])
groups = 2 if engine == "groups" else 1  # that hold the whole network in parts each
divided = []


def halved(mine, all_of_it):
    assert mine < 1.2 * all_of_it * groups / int(os.environ["WORLD_SIZE"]), (mine, all_of_it)
    divided.append(mine)


if engine == "zero":
    os.environ |= {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": "2"}
    from visalign.parallel.zero import DividedOptimizer
    real_step = DividedOptimizer.step

    def step(self):
        real_step(self)
        kept = [value for state in self.optimizer.state.values() for value in state.values() if value.ndim]
        halved(sum(map(torch.numel, kept)), 2 * sum(map(torch.numel, self.parameters)))

    DividedOptimizer.step = step
    torch.distributed.destroy_process_group = lambda group=None: None  # DeepSpeed keeps its own for ever
elif engine != "ddp":
    os.environ |= {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}
    if groups > 1:
        os.environ |= {"ACCELERATE_USE_PARALLELISM_CONFIG": "true", "PARALLELISM_CONFIG_DP_REPLICATE_SIZE": "2"}
    from visalign.parallel.sharded import ShardedEngine, local
    real_shard = ShardedEngine.shard

    def shard(self, network):
        real_shard(self, network)
        assert all(p.placements[-1].is_shard() for p in network.parameters())
        halved(*map(sum, zip(*[(p.to_local().numel(), p.numel()) for p in network.parameters()])))

    real_prepare, real_whole = ShardedEngine.prepare, ShardedEngine.whole_on_first

    def prepare(self, network, optimizer, summed=False):
        self.stepped = optimizer
        return real_prepare(self, network, optimizer, summed)

    def whole_on_first(self, *networks):
        state = [value for each in self.stepped.state.values() for value in each.values() if value.ndim]
        weights = [each for network in networks for each in (*network.parameters(), *network.buffers())]
        if self.processes.is_first:
            print("BYTES", *(sum(local(t).numel() * t.element_size() for t in of) for of in (weights, state)))
        real_whole(self, *networks)

    ShardedEngine.shard, ShardedEngine.prepare, ShardedEngine.whole_on_first = shard, prepare, whole_on_first
for port, words in commands:
    os.environ["MASTER_PORT"] = port  # the store of the run before may still be there
    try:
        main(["--debug", *words])
    except SystemExit as end:
        assert not end.code, end.code
    assert PartialState().num_processes == int(os.environ["WORLD_SIZE"]) > 1
    AcceleratorState._reset_state(True)
assert engine == "ddp" or len(divided) >= len(commands)
"""
QUIET = {"reward": None, "also": [], "features": None, "max_prompts": 1, "samples_per_prompt": 1}


def several(folder, engine: str, *commands, count: int = 2) -> str:
    """What they wrote; of processes with parts the first one's bytes of weights and optimiser state, run by run."""
    ports = [environments(count)[0]["MASTER_PORT"] for _ in commands]
    written = json.dumps([(port, [str(word) for word in words]) for port, words in zip(ports, commands, strict=True)])
    return together(CODE, engine, written, folder=folder, count=count)


def trained(folder) -> dict[str, torch.Tensor]:
    return read_checkpoint(sorted((folder / "checkpoints").glob("step-*"))[-1])[0]


def same(one, two, names=("loss", "grad_norm"), **near) -> None:
    """The rows, weights and exports of two runs, to round-off, but for one weight in a thousand: where a gradient is
    nothing but rounding, Adam makes a whole step of its sign."""
    for a, b in zip(rows(one), rows(two), strict=True):
        assert [a[name] for name in names] == pytest.approx([b[name] for name in names], rel=2e-3, abs=1e-6)
    first, second = trained(one), trained(two)
    assert first.keys() == second.keys()
    for name in first:
        close(first[name], second[name], **near)
    for file in (one / "export").rglob("*.safetensors"):
        first, second = load_file(file), load_file(two / file.relative_to(one))
        assert first.keys() == second.keys()
        for name in first:
            close(first[name], second[name], **near)


def close(one: torch.Tensor, two: torch.Tensor, **near) -> None:
    far = ~torch.isclose(one, two, **near)
    assert far.float().mean() <= 1e-3, torch.testing.assert_close(one, two, **near)
    torch.testing.assert_close(one[far], two[far], atol=10 * near["atol"], rtol=10 * near["rtol"])
