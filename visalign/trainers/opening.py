"""Opening a run: its accelerator, its folder and its trackers."""

from datetime import timedelta

import torch
from accelerate import Accelerator

from visalign.config import GuideConfig, OfflineConfig, OnlineConfig, RewardConfig
from visalign.generators.hardware.devices import pick_device, pick_dtype
from visalign.parallel.opening import open_processes
from visalign.storage.run_folder import RunFolder

AnyConfig = OfflineConfig | OnlineConfig | RewardConfig | GuideConfig


def open_accelerator(config: AnyConfig) -> Accelerator:
    """The accelerator of a run, with a loss scale where gradients are computed in fp16."""
    device = pick_device(config.train.device)
    compute_dtype = pick_dtype(config.learning_precision, device)
    return open_processes(timedelta(hours=3), cpu=device.type == "cpu",
                          mixed_precision="fp16" if compute_dtype == torch.float16 else "no",
                          log_with=list(config.output.trackers) or None, project_dir=config.output.folder)


def open_run(config: AnyConfig, resume: bool) -> tuple[Accelerator, RunFolder]:
    """Raises UserError when the folder cannot be this run's."""
    accelerator = open_accelerator(config)
    run = RunFolder(config.output.folder, config, resume, accelerator.is_main_process)
    accelerator.wait_for_everyone()
    accelerator.init_trackers("logs")
    return accelerator, run
