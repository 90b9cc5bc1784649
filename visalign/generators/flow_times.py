"""The times a diffusers flow scheduler samples at, so that sampling here equals the pipeline's own."""

import torch
from torch import Tensor


def scheduler_times(scheduler, steps: int, tokens: int, sigmas: list[float] | None = None) -> Tensor:
    """Noise levels from 1 to 0, float32 [steps + 1]. tokens: image tokens, which set the shift where it is dynamic."""
    from diffusers.pipelines.flux.pipeline_flux import calculate_shift

    config, options = scheduler.config, {}
    if config.get("use_dynamic_shifting"):
        options["mu"] = calculate_shift(tokens, config.get("base_image_seq_len", 256),
                                        config.get("max_image_seq_len", 4096), config.get("base_shift", 0.5),
                                        config.get("max_shift", 1.15))
    own = type(scheduler).from_config(config)
    if sigmas is None:
        own.set_timesteps(steps, **options)
    else:
        own.set_timesteps(sigmas=sigmas, **options)
    return own.sigmas.to(torch.float32).cpu()
