"""Which engine a run has: as accelerate was configured, by `accelerate launch --config_file` or the same variables."""

import os
from datetime import timedelta
from typing import Any

from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs, patch_environment

from visalign.errors import UserError, check_package, notice
from visalign.parallel.engine import Engine
from visalign.parallel.meeting import all_met


def says(name: str) -> bool:
    """Whether accelerate's configuration turned something on."""
    return os.environ.get(name, "false").lower() in ("true", "1")


def another_precision(wanted: str) -> None:
    """Let a program that ran something before run this in another precision: accelerate holds to the first one."""
    if AcceleratorState._shared_state and AcceleratorState().mixed_precision != wanted:
        AcceleratorState._reset_state()


def open_processes(wait: timedelta, mixed_precision: str = "no", **options: Any) -> Accelerator:
    """An accelerator that knows of no shards: those are this package's. wait: for another process, at most."""
    another_precision(mixed_precision)
    if uses_deepspeed():
        check_package("accelerate: distributed_type DEEPSPEED", "deepspeed", "'visalign[deepspeed]'")
    # SD3's last block discards the text stream, so part of an adapter there never gets a gradient
    unused = DistributedDataParallelKwargs(find_unused_parameters=True)
    with all_met(), patch_environment(ACCELERATE_USE_FSDP="false", ACCELERATE_USE_PARALLELISM_CONFIG="false",
                                      ACCELERATE_USE_DEEPSPEED="false"):
        return Accelerator(kwargs_handlers=[unused, InitProcessGroupKwargs(timeout=wait)],
                           mixed_precision=mixed_precision, **options)


def uses_deepspeed() -> bool:
    return says("ACCELERATE_USE_DEEPSPEED")


def is_sharded_run() -> bool:
    """Whether the processes of this run divide the network, or what trains it, among them."""
    asked = says("ACCELERATE_USE_FSDP") or uses_deepspeed()
    return asked and int(os.environ.get("WORLD_SIZE", "1")) > 1


def replicas_asked() -> int:
    """How many groups of processes are to hold the whole network in parts each."""
    asked = says("ACCELERATE_USE_PARALLELISM_CONFIG")
    return int(os.environ.get("PARALLELISM_CONFIG_DP_REPLICATE_SIZE", "1")) if asked else 1


def engine_of(accelerator: Accelerator) -> Engine:
    """Raises UserError for a configuration that is not supported."""
    if not is_sharded_run() or accelerator.num_processes == 1:
        return Engine(accelerator)
    if uses_deepspeed():
        from visalign.parallel.zero import ZeroEngine

        return ZeroEngine(accelerator)
    return sharded_engine(accelerator)


def sharded_engine(accelerator: Accelerator) -> Engine:
    from accelerate.utils import FullyShardedDataParallelPlugin

    from visalign.parallel.sharded import ShardedEngine

    return ShardedEngine(accelerator, FullyShardedDataParallelPlugin(), replicas_asked(),
                         os.environ.get("ACCELERATE_MIXED_PRECISION", "no"))


def check_configuration() -> None:
    """Raise UserError for what accelerate's configuration asks and is not supported here; say where it is left out."""
    if says("ACCELERATE_USE_CPU") and "WORLD_SIZE" not in os.environ:
        notice("accelerate: with --cpu or use_cpu it starts one process, whatever its configuration asks; for several "
               "on a CPU leave that out and set train.device=cpu")
    if uses_deepspeed():
        check_deepspeed()
    if not says("ACCELERATE_USE_FSDP"):
        return
    if os.environ.get("FSDP_VERSION", "1") != "2":
        raise UserError("accelerate: fsdp_version 1 is not supported; set fsdp_version: 2")
    if os.environ.get("FSDP_RESHARD_AFTER_FORWARD", "true").lower() not in ("true", "full_shard"):
        raise UserError("accelerate: fsdp_reshard_after_forward false keeps whole weights between passes, and training "
                        "would then sample with old ones; leave it true, or use configs/accelerate/ddp.yaml")
    policy = os.environ.get("FSDP_AUTO_WRAP_POLICY", "TRANSFORMER_BASED_WRAP").upper()
    if policy == "SIZE_BASED_WRAP":
        raise UserError("accelerate: fsdp_auto_wrap_policy SIZE_BASED_WRAP is not supported; use "
                        "TRANSFORMER_BASED_WRAP, which divides the model by its own blocks")
    if os.environ.get("ACCELERATE_MIXED_PRECISION", "no") == "fp16":
        raise UserError("accelerate: mixed_precision fp16 is not for sharded training; use bf16 or no")


def check_deepspeed() -> None:
    """Raise UserError for what DeepSpeed offers, and this does not."""
    stage = os.environ.get("ACCELERATE_DEEPSPEED_ZERO_STAGE", "2")
    if stage != "2":
        raise UserError(f"accelerate: zero_stage {stage} is not supported, only 2; configs/accelerate/fsdp2.yaml "
                        "divides weights, gradients and optimiser state as ZeRO-3 does")
    for name in ("OPTIMIZER", "PARAM"):
        if os.environ.get(f"ACCELERATE_DEEPSPEED_OFFLOAD_{name}_DEVICE", "none") != "none":
            raise UserError(f"accelerate: offload_{name.lower()}_device is not supported; use fsdp_offload_params of "
                            "configs/accelerate/fsdp2.yaml")
    if os.environ.get("ACCELERATE_DEEPSPEED_CONFIG_FILE", "none") != "none":
        raise UserError("accelerate: deepspeed_config_file is not read, since the recipe sets the optimiser, clipping "
                        "and accumulation; leave it out")
    if os.environ.get("ACCELERATE_MIXED_PRECISION", "no") == "fp16":
        raise UserError("accelerate: mixed_precision fp16 is not for ZeRO-2; set it to no, and model.precision decides")
