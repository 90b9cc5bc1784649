"""Opening a run: its accelerator, its folder and its trackers."""

import contextlib
from collections.abc import Iterator
from datetime import timedelta

import torch
from accelerate import Accelerator

from visalign.config import GuideConfig, OfflineConfig, OnlineConfig, RewardConfig
from visalign.config.load import build_advantage, build_objective
from visalign.errors import UserError
from visalign.generators.hardware.devices import pick_device, pick_dtype
from visalign.parallel.opening import check_configuration, is_sharded_run, open_processes, uses_deepspeed
from visalign.parallel.sharing import Processes
from visalign.parallel.watch import watched
from visalign.storage.run_folder import RunFolder
from visalign.trainers.tracking import check_trackers, tracked

STEPS_ON_PARTS = ("adamw", "lion", "adamw_schedulefree")
"""Optimisers that step each part of a tensor as they would step the whole (tried); others look at rows or norms."""

AnyConfig = OfflineConfig | OnlineConfig | RewardConfig | GuideConfig


def open_accelerator(config: AnyConfig) -> Accelerator:
    """The accelerator of a run, with a loss scale where gradients are computed in fp16."""
    device = pick_device(config.train.device)
    compute_dtype = pick_dtype(config.learning_precision, device)
    # later than a run that watches itself, which sees whether anybody moves and says who is late
    patience = max(timedelta(hours=3), timedelta(minutes=2 * config.train.wait_minutes))
    return open_processes(patience, cpu=device.type == "cpu",
                          mixed_precision="fp16" if compute_dtype == torch.float16 else "no")


def check_sharded(config: AnyConfig) -> None:
    """Raise UserError for a setting that cannot be where every process holds a part of the network."""
    if not is_sharded_run():
        return
    model = None if config.loop == "reward" else config.model
    averages = uses_deepspeed() and config.optim.name == "adamw_schedulefree"
    wrong = {"optim.name adamw_schedulefree: puts its average into DeepSpeed's copy of the weights": averages,
             f"optim.name {config.optim.name}: looks at whole tensors": config.optim.name not in STEPS_ON_PARTS,
             "optim.fused_backward: uses gradients before all processes have them": config.optim.fused_backward}
    if model is not None:
        wrong |= {
            f"model.quantization {model.quantization}: packed weights cannot be divided": model.quantization != "none",
            "model.offload blocks: moves whole blocks to host memory (fsdp_offload_params of accelerate's file moves "
            "parts)": model.offload == "blocks",
            "model.precision fp16: its loss scale needs whole gradients": model.precision == "fp16",
            "model.compile: compiled blocks were not tried in parts": model.compile,
            "model.tuning user: what is told of users was not tried in parts":
                getattr(model, "tuning", None) == "user"}
    if config.loop == "offline":
        made = "data.feedback: samples before the network is divided (make the pairs first, with `visalign data pairs`)"
        wrong[made] = config.data.feedback is not None
        own = f"objective {config.objective.get('name')}: lets each process sample earlier selves as often as it has to"
        wrong[own] = "own" in build_objective(config.objective).needs
        wrong["data.subject: samples before the network is divided"] = config.data.subject is not None
    if config.loop == "online":
        rule = build_advantage(config.advantage)
        wrong[f"advantage.combine {rule.combine}: compares whole gradients"] = rule.probes
    for what, is_set in wrong.items():
        if is_set:
            raise UserError(f"{what}, which does not go with sharded training; change it, or use "
                            "configs/accelerate/ddp.yaml")


@contextlib.contextmanager
def opened_run(config: AnyConfig, resume: bool) -> Iterator[tuple[Accelerator, RunFolder]]:
    """A run, within which its processes end together. Raises UserError when the folder cannot be this run's."""
    check_configuration()
    check_sharded(config)
    check_trackers(config.output.trackers)
    with run_of_processes(open_accelerator(config), config, resume) as run:
        yield run


@contextlib.contextmanager
def run_of_processes(accelerator: Accelerator, config, resume: bool) -> Iterator[tuple[Accelerator, RunFolder]]:
    """The run of processes that are open: watched, with its folder and trackers. Raises UserError when the folder
    cannot be this run's."""
    with watched(Processes(accelerator.process_index, accelerator.num_processes), 60 * config.train.wait_minutes):
        run = RunFolder(config.output.folder, config, resume, accelerator.is_main_process)
        with tracked(accelerator, config.output.trackers, config, run):
            accelerator.wait_for_everyone()
            yield accelerator, run
        accelerator.wait_for_everyone()
        accelerator.end_training()
