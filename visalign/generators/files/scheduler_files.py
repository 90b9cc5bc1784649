"""From a checkpoint's files to the scheduler that it was trained with."""

import inspect

from visalign.errors import UserError
from visalign.generators.files.locating import ModelLocation
from visalign.generators.files.parts import parts_of
from visalign.generators.schedulers import check_agrees, rises


def load_scheduler(checkpoint: ModelLocation):
    """The pipeline's scheduler, configured as a single file states. Raises UserError when training cannot follow it."""
    try:
        return _load_scheduler(checkpoint)
    except UserError as error:
        raise UserError(f"model {checkpoint.name}: {error}") from error
    except OSError as error:
        raise UserError(f"model {checkpoint.folder}: its scheduler_config.json cannot be read "
                        f"({' '.join(str(error).split())[:160]})") from None


def _load_scheduler(checkpoint: ModelLocation):
    import diffusers

    index = checkpoint.index()
    checkpoint.family.check_pipeline(index)
    _, name = parts_of(index).get("scheduler", (None, None))
    kind = getattr(diffusers, str(name), None)
    if kind is None:
        raise UserError(f"its scheduler {name} is not a scheduler of diffusers {diffusers.__version__}")
    config = kind.load_config(checkpoint.folder, subfolder="scheduler")
    written = config.get("_class_name", name)
    scheduler = kind.from_config(config)
    settings = _stated(checkpoint)
    if settings:
        if not settings.keys() <= inspect.signature(kind.__init__).parameters.keys():
            kind = diffusers.EulerDiscreteScheduler  # knows them all
        scheduler = kind.from_config(scheduler.config, **settings)
    if rises(scheduler) and not checkpoint.family.rises:
        raise UserError(f"its scheduler {name} (invert_sigmas True) counts noise levels from noise to data, which its "
                        "family was not trained with")
    process = checkpoint.family.process_of(scheduler)
    check_agrees(process, scheduler)
    if written != name and hasattr(diffusers, written):  # the index decides, but both must describe the same training
        other = getattr(diffusers, written).from_config(config)
        checkpoint.family.process_of(other)
        check_agrees(process, other)
    return scheduler


def _stated(checkpoint: ModelLocation) -> dict:
    """What the settings and the denoiser's file state of prediction and noise, as a scheduler's settings."""
    if checkpoint.family.process_kind != "diffusion":
        if checkpoint.prediction != "auto":
            raise UserError(f"model.prediction {checkpoint.prediction}: {checkpoint.family.pipeline_class} is a flow, "
                            "which predicts a velocity; leave it at auto")
        return {}
    file = checkpoint.denoiser_file
    stated = file.noise_settings() if file else {}
    return stated if checkpoint.prediction == "auto" else stated | {"prediction_type": checkpoint.prediction}
