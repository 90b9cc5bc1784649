"""DeepSpeed's ZeRO-2: every process holds the whole weights, and a part of their gradients and optimiser state.

DeepSpeed shares gradients during backward, clips, steps its part of a float32 copy of the trained weights, and gathers
these. The optimiser stays the recipe's.
"""

import contextlib
import copy
import logging
import os
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from visalign.errors import UserError
from visalign.parallel.engine import TogetherEngine

BUCKET = 50_000_000
"""Numbers that are shared at once, at most: 200 MB (DeepSpeed's own default is ten times that)."""


class ZeroEngine(TogetherEngine):
    """The settings are the recipe's; of accelerate's file only the stage counts."""

    def __init__(self, accelerator: Accelerator):
        super().__init__(accelerator)
        self._reached: set[int] = set()

    def divided(self, optimizer: torch.optim.Optimizer) -> "DividedOptimizer":
        self._optimizer = DividedOptimizer(optimizer, self.accelerator.device.type)
        mine, all_of_it = (sum(map(torch.numel, of)) for of in (self._optimizer.masters, self._optimizer.parameters))
        if mine * self.processes.world >= 2 * all_of_it:
            raise UserError("accelerate: nothing of the optimiser's state was divided among the processes")
        for parameter in self._optimizer.parameters:
            parameter.register_post_accumulate_grad_hook(lambda p: self._reached.add(id(p)))
        return self._optimizer

    def reached(self, parameter: nn.Parameter) -> bool:
        return id(parameter) in self._reached

    def prepare(self, network: nn.Module, optimizer: Any, summed: bool = False) -> tuple[Any, Any]:
        self._summed = summed
        return network, optimizer

    @contextlib.contextmanager
    def accumulation(self, policy: Any, last: bool) -> Iterator[None]:
        self._optimizer.engine.set_gradient_accumulation_boundary(last)
        yield

    def backward(self, loss: Tensor) -> None:
        loss = loss * self.processes.world if self._summed else loss
        self._optimizer.engine.backward(loss, scale_wrt_gas=False)

    def clip(self, parameters: Sequence[nn.Parameter], largest: float) -> Tensor:
        """What the norm is before; DeepSpeed clips as it steps."""
        return self._optimizer.norm(largest)

    def whole_on_first(self, *networks: nn.Module) -> None:
        """The weights out of the one buffer that they lie in, which what writes files would take for one tensor."""
        for parameter in self._optimizer.parameters:
            parameter.data = parameter.data.clone()


class DividedOptimizer:
    """An optimiser whose state is divided, with the interface of a whole one: it gives and takes whole states."""

    def __init__(self, optimizer: torch.optim.Optimizer, device: str):
        deepspeed = imported(device)
        self.optimizer, self.groups = optimizer, [list(group["params"]) for group in optimizer.param_groups]
        held = nn.ParameterList(self.parameters)
        self.engine = deepspeed.initialize(model=held, optimizer=optimizer, dist_init_required=False,
                                           config=configuration(sum(p.numel() for p in held)))[0]
        self.zero, self._stepped = self.engine.optimizer, False

    @property
    def parameters(self) -> list[nn.Parameter]:
        return [parameter for group in self.groups for parameter in group]

    @property
    def masters(self) -> list[Tensor]:
        """This process's part of each group's weights, which is what is stepped."""
        return [group["params"][0] for group in self.optimizer.param_groups]

    @property
    def param_groups(self) -> list[dict]:
        return [group | {"params": params} for group, params in
                zip(self.optimizer.param_groups, self.groups, strict=True)]

    @property
    def step_was_skipped(self) -> bool:
        return self.zero.overflow

    def norm(self, largest: float) -> Tensor:
        """Of the gradients, which the next step scales to `largest` at most."""
        self.zero.clip_grad = 0.0 if largest == float("inf") else largest
        norm = self.zero.scaled_global_norm()
        return torch.where(norm < 0, torch.nan, norm)  # DeepSpeed's mark of one that is not finite

    def step(self) -> None:
        self.engine.step()
        self._stepped = True

    def zero_grad(self) -> None:
        if not self._stepped:
            self.engine.step()  # it finds gradients that are not finite, and drops them
        self._stepped = False

    def state_dict(self) -> dict:
        """Whole, on the CPU of the first process, gathered tensor by tensor. All must call this."""
        places, state = {id(p): place for place, p in enumerate(self.parameters)}, {}
        for group, master in zip(self.groups, self.masters, strict=True):
            parts = self.optimizer.state.get(master, {})
            for parameter in group if parts else ():
                state[places[id(parameter)]] = {
                    name: self._whole(parameter, part) if is_part(part, master) else copy.deepcopy(part)
                    for name, part in parts.items()}
        numbers = iter(range(len(places)))
        groups = [group | {"params": [next(numbers) for _ in group["params"]]} for group in self.param_groups]
        return {"state": state, "param_groups": groups}

    def load_state_dict(self, state: dict) -> None:
        """Take this process's part of a whole state, and of weights that were put in place before."""
        groups = iter(state["param_groups"])
        of_one = iter(sorted(state["state"].items()))
        for group, target, master in zip(self.groups, self.optimizer.param_groups, self.masters, strict=True):
            target.update({name: value for name, value in next(groups).items() if name != "params"})
            for parameter in group if state["state"] else ():
                self._take(parameter, next(of_one)[1], master)
        self.zero.refresh_fp32_params()

    def _whole(self, parameter: nn.Parameter, part: Tensor) -> Tensor:
        import torch.distributed as dist

        found = torch.zeros(parameter.numel(), dtype=part.dtype, device=part.device)
        for of_whole, of_part in part_of(parameter):
            found[of_whole] = part.detach()[of_part]
        dist.reduce(found, 0)
        return found.view(parameter.shape).cpu()

    def _take(self, parameter: nn.Parameter, saved: dict, master: Tensor) -> None:
        parts = self.optimizer.state[master]
        for name, value in saved.items():
            if name == "step" or not isinstance(value, Tensor) or value.shape != parameter.shape:
                parts[name] = value
                continue
            if name not in parts:
                parts[name] = torch.zeros_like(master, requires_grad=False)
            for of_whole, of_part in part_of(parameter):
                parts[name][of_part] = value.flatten()[of_whole].to(parts[name])


def part_of(parameter: nn.Parameter) -> Iterator[tuple[slice, slice]]:
    """Which of a parameter's numbers this process has, and where they lie in its part; nothing where it has none."""
    found = parameter._hp_mapping
    if found is not None:
        yield tuple(slice(at.start, at.start + at.numel)
                    for at in (found.lp_fragment_address, found.hp_fragment_address))


def is_part(value: Any, master: Tensor) -> bool:
    return isinstance(value, Tensor) and value.shape == master.shape


def configuration(numbers: int) -> dict:
    """Of DeepSpeed; numbers: how many are trained."""
    bucket = max(2, min(BUCKET, numbers + numbers % 2))
    return {"train_micro_batch_size_per_gpu": 1, "gradient_accumulation_steps": 1, "steps_per_print": 10**9,
            "zero_allow_untested_optimizer": True, "zero_force_ds_cpu_optimizer": False,
            "zero_optimization": {"stage": 2, "reduce_bucket_size": bucket, "allgather_bucket_size": bucket,
                                  "overlap_comm": False}}


def imported(device: str) -> Any:
    """DeepSpeed, for the device that the run computes on."""
    os.environ.setdefault("DS_ACCELERATOR", device)
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)  # it tells every size it was given
    import deepspeed

    return deepspeed
