"""From a checkpoint's scheduler to the process it was trained with, and whether the two agree.

A scheduler mostly chooses how to sample, which is the user's choice; but its noise levels, its kind of prediction and
its times are those of training. Whether ours are the same is not inferred from names: the scheduler takes one step.
"""

import inspect

import torch
from torch import Tensor

from visalign.errors import UserError
from visalign.processes import Diffusion, Flow

STEPS = 4
STEP_TOLERANCE = 0.01  # of the data's scale; second-order samplers visit times between the table's
_OF_SAMPLING = ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas", "use_lu_lambdas", "clip_sample",
                "thresholding")
"""Settings that move sampling times or clip samples, and do not concern training."""
PREDICTIONS = ("epsilon", "v_prediction")


def trained_process(kind: str, scheduler) -> Diffusion | Flow:
    """The process of a model of this kind (`diffusion` or `flow`) that has this scheduler.

    A diffusion's noise levels are rebuilt as it was trained, whatever sampler the checkpoint comes with; a scheduler
    that alters the levels itself (CogVideoX) is its own authority.
    """
    import diffusers

    if kind == "flow":
        return trained_flow(scheduler)
    own = diffusers.CogVideoXDDIMScheduler if "snr_shift_scale" in scheduler.config else diffusers.DDPMScheduler
    return trained_diffusion(scheduler, own)


def trained_diffusion(scheduler, trainer: type) -> Diffusion:
    """The process of a variance-preserving scheduler, with noise levels rebuilt by `trainer`, a scheduler class.

    Raises UserError for a scheduler of another kind of process or of another prediction.
    """
    name, config = type(scheduler).__name__, scheduler.config
    if not hasattr(scheduler, "alphas_cumprod"):
        raise UserError(f"its scheduler {name} has no table of betas, so this model was not trained as a diffusion "
                        f"with prediction {' or '.join(PREDICTIONS)}, which is what is supported for its family")
    prediction = config.get("prediction_type", "epsilon")
    if prediction not in PREDICTIONS:
        raise UserError(f"its scheduler {name} has prediction_type '{prediction}'; supported are "
                        f"{' and '.join(PREDICTIONS)}")
    alphas = trainer.from_config(config).alphas_cumprod.float()
    if prediction == "epsilon" and alphas[-1] < 1e-6:
        raise UserError(f"its scheduler {name} has prediction_type epsilon and betas that end without any signal "
                        "(rescale_betas_zero_snr), where a predicted noise says nothing about the image; set "
                        "prediction_type v_prediction, or rescale_betas_zero_snr false, whichever it was trained with")
    if (scheduler.alphas_cumprod.float() - alphas).abs().max() > 1e-4:
        raise UserError(f"its scheduler {name} samples at other noise levels than its own settings say it was trained "
                        "at (it may not know rescale_betas_zero_snr or snr_shift_scale); name a scheduler that does, "
                        "such as EulerDiscreteScheduler, in its model_index.json and scheduler_config.json")
    return Diffusion(alphas, prediction)


def trained_flow(scheduler) -> Flow:
    """The process of a flow scheduler; training times are shifted by its static shift, however it samples."""
    config = scheduler.config
    return Flow(shift=config.get("flow_shift") or config.get("shift") or 1.0)


def rises(scheduler) -> bool:
    """Whether its noise levels are 0 for pure noise and 1 for data, against ours; its velocity then leads to data."""
    return bool(scheduler.config.get("invert_sigmas"))


def check_agrees(process: Diffusion | Flow, scheduler) -> None:
    """Raise UserError unless `scheduler` takes data without noise where `process` does, in its first step.

    A perfect prediction for such data carries it exactly from one noise level to the next in every correct sampler,
    deterministic or not; another noise table, prediction, time or direction does not. Randomness is removed
    by a second run from zero. One that agreed before is not asked again.
    """
    name, known = type(scheduler).__name__, _settings_of(process, scheduler)
    if known in _AGREED:
        return
    try:
        own, falls = _carried(process, scheduler)
    except Exception as error:
        raise UserError(f"its scheduler {name} cannot take a step that could be compared with training "
                        f"({type(error).__name__}: {' '.join(str(error).split())[:120]})") from error
    if not falls or not own.isfinite().all() or own.abs().max() > STEP_TOLERANCE:
        said = {key: scheduler.config.get(key) for key in ("prediction_type", "beta_schedule", "rescale_betas_zero_snr",
                                                           "timestep_type", "use_flow_sigmas", "invert_sigmas",
                                                           "num_train_timesteps", "snr_shift_scale")
                if key in scheduler.config}
        words = ", ".join(f"{key} {value}" for key, value in said.items())
        raise UserError(f"its scheduler {name} ({words}) does not step as {_KINDS[process.kind]} with "
                        f"{process.prediction_type} prediction, which is how its family is trained here; such a model "
                        "is not supported")
    _AGREED.add(known)


_AGREED: set[tuple] = set()
"""Settings with which a scheduler was seen to step as a process does."""


def _settings_of(process: Diffusion | Flow, scheduler) -> tuple:
    own = (value.numpy().tobytes() if isinstance(value, Tensor) else value for value in vars(process).values())
    return type(process), *own, type(scheduler), scheduler.to_json_string()


_KINDS = {"diffusion": "a variance-preserving diffusion", "flow": "a rectified flow"}


def _carried(process: Diffusion | Flow, scheduler) -> tuple[Tensor, bool]:
    """By how much the scheduler's step misses ours, per unit of data, and whether its times fall from noise to data."""
    data = torch.linspace(-1, 1, 4 * 8 * 8).view(1, 4, 8, 8)
    changes = {name: False for name in _OF_SAMPLING if scheduler.config.get(name)}
    if "timestep_spacing" in scheduler.config:  # with another one DDIM and PNDM step past the next time of their list
        changes["timestep_spacing"] = "leading"
    ends, expected, falls = [], [], True
    for x0 in (data, torch.zeros_like(data)):
        own = type(scheduler).from_config(scheduler.config, **changes)
        own.set_timesteps(STEPS, **({"mu": 1.0} if own.config.get("use_dynamic_shifting") else {}))
        first, second = own.timesteps[:2]
        backwards = rises(own)
        most = own.config.num_train_timesteps
        t, t_next = (process.time_of(torch.as_tensor([1000 * (1 - float(time) / most) if backwards else float(time)]))
                     for time in (first, second))
        scale = getattr(own, "scale_model_input", lambda sample, time: sample)
        nothing = torch.zeros_like(x0)
        seen = process.add_noise(x0, nothing, t)
        options = {name: None for name in ("old_pred_original_sample", "timestep_back")
                   if name in inspect.signature(own.step).parameters}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            after = own.step(model_output=process.target_at(x0, seen, t) * (-1 if backwards else 1), timestep=first,
                             sample=seen / scale(torch.ones(1), first), return_dict=False, **options)[0]
        ends.append(scale(after, second))
        expected.append(process.add_noise(x0, nothing, t_next))
        falls = falls and bool(t > t_next) and bool(process.noise_fraction(t) > 0.25)
    return (ends[0] - ends[1]) - (expected[0] - expected[1]), falls
