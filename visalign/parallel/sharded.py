"""FSDP2: every process holds a part of each tensor, of its gradient and of its optimiser's state.

A block's tensors are gathered while it computes. Every pass is therefore one that all processes make together, unless
all tensors are gathered before (`gathered`), as for sampling: once an epoch instead of once a network pass.
"""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import torch
from accelerate import Accelerator
from accelerate.utils import FullyShardedDataParallelPlugin
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, MixedPrecisionPolicy, OffloadPolicy, fully_shard

from visalign.errors import UserError
from visalign.parallel.engine import FIRST_VALUES, TogetherEngine
from visalign.parallel.tensors import local, whole

FEW = 0.1
"""Share of trained weights up to which their gradients are held whole between the passes of a step: a LoRA's."""


class ShardedEngine(TogetherEngine):
    """Tensors divided as accelerate's configuration says, by torch itself: accelerate leaves them whole on a CPU.

    replicas: how many groups of processes hold all tensors, such as one a node.
    """

    sharded: ClassVar[bool] = True

    def __init__(self, accelerator: Accelerator, plugin: FullyShardedDataParallelPlugin, replicas: int = 1,
                 arithmetic: str = "no"):
        super().__init__(accelerator)
        world = self.processes.world
        if world % replicas:
            raise UserError(f"accelerate: {world} processes cannot be divided into parallelism_config_dp_replicate_size"
                            f" {replicas} groups")
        shape, names = (world // replicas,), ("shard",)
        if replicas > 1:
            shape, names = (replicas, *shape), ("replicate", *names)
        self.mesh = init_device_mesh(accelerator.device.type, shape, mesh_dim_names=names)
        self.plugin, self._networks = plugin, []
        self._policies = {"mp_policy": precision_of(arithmetic), "offload_policy": offload_of(plugin)}
        self._hold = True

    def send_home(self, network: nn.Module) -> None:
        network.to("cpu")  # fully_shard moves each part to the device

    def shard(self, network: nn.Module) -> None:
        single = {name: p for name, p in network.named_parameters() if p.ndim == 0}
        if trained := next((name for name, p in single.items() if p.requires_grad), None):
            raise UserError(f"{type(network).__name__}: trains {trained}, a single number, which cannot be divided "
                            "among processes; use configs/accelerate/ddp.yaml")
        for block in [*gathered_blocks(network, self.plugin), network]:
            fully_shard(block, mesh=self.mesh, reshard_after_forward=True, ignored_params=set(single.values()),
                        **self._policies)
        self._networks.append(network)
        if not any(hasattr(p, "device_mesh") for p in network.parameters()):
            raise UserError("accelerate: nothing of the network was divided among the processes")

    def prepare(self, network: nn.Module, optimizer: torch.optim.Optimizer, summed: bool = False) -> tuple[Any, Any]:
        self._summed = summed
        sizes = [(p.numel(), p.requires_grad) for p in network.parameters()]
        self._hold = sum(n for n, trained in sizes if trained) <= FEW * sum(n for n, _ in sizes)
        return network, self.accelerator.prepare(optimizer)

    @contextlib.contextmanager
    def accumulation(self, policy: Any, last: bool) -> Iterator[None]:
        policy.set_requires_gradient_sync(last or not self._hold)
        yield

    def clip(self, parameters: Sequence[nn.Parameter], largest: float) -> Tensor:
        return super().clip(parameters, largest).full_tensor()

    @contextlib.contextmanager
    def gathered(self) -> Iterator[None]:
        modules = [m for network in self._networks for m in network.modules() if isinstance(m, FSDPModule)]
        for network in self._networks:
            network.set_reshard_after_forward(False)
        try:
            for module in modules:
                module.unshard()
            yield
        finally:
            for network in self._networks:
                network.set_reshard_after_forward(True)
            for module in modules:
                module.reshard()

    def first_values(self, parameters: Sequence[nn.Parameter]) -> Tensor:
        most = FIRST_VALUES // self.processes.world
        return torch.cat([local(p.detach()).flatten()[:most] for p in parameters])

    def norm(self, values: Tensor) -> Tensor:
        return self.accelerator.reduce(values.square().sum(), "sum").sqrt()

    def empty(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        from torch.distributed.tensor import Replicate, Shard, zeros

        placements = [Replicate()] * (self.mesh.ndim - 1) + [Shard(0)]
        return zeros(*shape, dtype=dtype, device_mesh=self.mesh, placements=placements)

    def whole_on_first(self, *networks: nn.Module) -> None:
        for network in networks:
            tensors = whole(network.named_parameters(), self.processes.is_first)
            for module in list(network.modules()):
                if isinstance(module, FSDPModule):
                    without_hooks(module)
            for name, parameter in list(network.named_parameters()):
                owner, _, last = name.rpartition(".")
                value = tensors.get(name, torch.empty(0, dtype=parameter.dtype))
                setattr(network.get_submodule(owner), last, nn.Parameter(value, parameter.requires_grad))
            self._networks.remove(network)


def without_hooks(module: FSDPModule) -> None:
    """Make it the class that it was, whose forward gathers nothing."""
    state = module._get_fsdp_state()
    for name in ("_pre_forward_hook_handle", "_post_forward_hook_handle"):
        getattr(state, name).remove()
    module.__class__ = type(module).__mro__[2]


def gathered_blocks(network: nn.Module, plugin: FullyShardedDataParallelPlugin) -> list[nn.Module]:
    """The modules that are gathered as one, inner ones first: those whose classes accelerate's configuration names, or
    the network itself; else the members of its lists of modules."""
    names = plugin.transformer_cls_names_to_wrap or getattr(network, "_no_split_modules", None) or ()
    names = names.split(",") if isinstance(names, str) else names
    found = [m for m in network.modules() if type(m).__name__ in names]
    if plugin.transformer_cls_names_to_wrap and not found:
        raise UserError(f"accelerate: fsdp_transformer_layer_cls_to_wrap {','.join(names)}: {type(network).__name__} "
                        "has no such module; leave it out to take the model's own blocks")
    return (found or [each for m in network.modules() if isinstance(m, nn.ModuleList) for each in m])[::-1]


def precision_of(arithmetic: str) -> MixedPrecisionPolicy:
    """In which type tensors are gathered: bf16 halves what is sent, gradients are summed in float32 all the same."""
    if arithmetic == "bf16":
        return MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    return MixedPrecisionPolicy()


def offload_of(plugin: FullyShardedDataParallelPlugin) -> OffloadPolicy:
    return CPUOffloadPolicy() if isinstance(plugin.cpu_offload, CPUOffloadPolicy) else OffloadPolicy()
