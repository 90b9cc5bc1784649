"""A scheduler's process is the one training needs, or the scheduler is refused; samplers are free."""

import diffusers
import pytest
import torch
from diffusers import CogVideoXDDIMScheduler, DDPMScheduler

from visalign.errors import UserError
from visalign.generators.schedulers import check_agrees, trained_diffusion, trained_flow
from visalign.processes import Diffusion, Flow

BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
SAMPLERS = ["DDIM", "DDPM", "PNDM", "EulerDiscrete", "EulerAncestralDiscrete", "DPMSolverMultistep",
            "DPMSolverSinglestep", "UniPCMultistep", "DEISMultistep", "HeunDiscrete", "LMSDiscrete", "LCM", "TCD",
            "SASolver", "KDPM2Discrete"]


def scheduler(name: str, **settings):
    return getattr(diffusers, f"{name}Scheduler").from_config(BETAS | settings)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("name", SAMPLERS)
def test_every_sampler_of_a_diffusion_is_taken(name, prediction):
    own = scheduler(name, prediction_type=prediction)
    process = trained_diffusion(own, DDPMScheduler)
    check_agrees(process, own)
    assert process.prediction_type == prediction
    torch.testing.assert_close(process.alphas_cumprod, DDPMScheduler.from_config(BETAS).alphas_cumprod)


@pytest.mark.parametrize("name", ["DDIM", "PNDM", "EulerDiscrete", "DPMSolverMultistep"])
@pytest.mark.parametrize("settings", [{"use_karras_sigmas": True}, {"timestep_spacing": "trailing"},
                                      {"timestep_spacing": "linspace"}, {"clip_sample": True, "thresholding": True}])
def test_how_it_samples_is_the_users_affair(name, settings):
    own = scheduler(name, **settings)
    check_agrees(trained_diffusion(own, DDPMScheduler), own)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("name", SAMPLERS[:-1])
def test_the_step_tells_one_prediction_from_the_other(name, prediction):
    own = scheduler(name, prediction_type=prediction)
    other = {"epsilon": "v_prediction", "v_prediction": "epsilon"}[prediction]
    with pytest.raises(UserError, match=f"{name}Scheduler"):
        check_agrees(Diffusion(own.alphas_cumprod, other), own)


@pytest.mark.parametrize("name", ["DDIM", "DDPM", "EulerDiscrete", "EulerAncestralDiscrete", "DPMSolverMultistep",
                                  "UniPCMultistep", "LCM", "TCD"])
def test_zero_terminal_snr_is_rebuilt(name):
    own = scheduler(name, prediction_type="v_prediction", rescale_betas_zero_snr=True, timestep_spacing="trailing")
    process = trained_diffusion(own, DDPMScheduler)
    check_agrees(process, own)
    assert process.alphas_cumprod[-1] < 1e-6


@pytest.mark.parametrize("name, settings, word", [
    ("EDMEuler", {}, "no table of betas"),
    ("EDMDPMSolverMultistep", {}, "no table of betas"),
    ("FlowMatchEulerDiscrete", {}, "no table of betas"),
    ("ScoreSdeVe", {}, "no table of betas"),
    ("DDIM", {"prediction_type": "sample"}, "prediction_type 'sample'"),
    ("UniPCMultistep", {"prediction_type": "flow_prediction", "use_flow_sigmas": True}, "flow_prediction"),
    ("DPMSolverMultistep", {"use_flow_sigmas": True}, "use_flow_sigmas True"),
    ("EulerDiscrete", {"prediction_type": "v_prediction", "timestep_type": "continuous"}, "timestep_type continuous"),
    ("DDIMInverse", {}, "DDIMInverseScheduler"),
    ("DPMSolverMultistepInverse", {}, "DPMSolverMultistepInverseScheduler"),
    ("RePaint", {}, "cannot take a step"),
    ("PNDM", {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True}, "other noise levels"),
    ("DDIM", {"prediction_type": "epsilon", "rescale_betas_zero_snr": True}, "rescale_betas_zero_snr"),
])
def test_what_training_could_not_follow_is_refused(name, settings, word):
    own = scheduler(name, **settings)
    with pytest.raises(UserError, match=word) as caught:
        check_agrees(trained_diffusion(own, DDPMScheduler), own)
    assert f"{name}Scheduler" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["CogVideoXDDIM", "CogVideoXDPM"])
def test_cogvideox(name):
    own = scheduler(name, prediction_type="v_prediction", snr_shift_scale=3.0, rescale_betas_zero_snr=True)
    process = trained_diffusion(own, CogVideoXDDIMScheduler)
    check_agrees(process, own)
    plain = scheduler("DDIM", prediction_type="v_prediction")
    with pytest.raises(UserError, match="other noise levels"):
        trained_diffusion(plain, CogVideoXDDIMScheduler)


@pytest.mark.parametrize("name, settings, shift", [
    ("FlowMatchEulerDiscrete", {"shift": 3.0}, 3.0),
    ("FlowMatchEulerDiscrete", {"shift": 3.0, "use_dynamic_shifting": True}, 3.0),
    ("FlowMatchEulerDiscrete", {"stochastic_sampling": True}, 1.0),
    ("FlowMatchHeunDiscrete", {"shift": 3.0}, 3.0),
    ("FlowMatchLCM", {}, 1.0),
    ("UniPCMultistep", {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 5.0}, 5.0),
    ("DPMSolverMultistep", {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 5.0}, 5.0),
])
def test_every_sampler_of_a_flow_is_taken(name, settings, shift):
    own = getattr(diffusers, f"{name}Scheduler").from_config(settings)
    process = trained_flow(own)
    check_agrees(process, own)
    assert process.shift == shift


@pytest.mark.parametrize("name, settings", [
    ("DDIM", BETAS), ("EulerDiscrete", BETAS), ("EDMEuler", {}), ("UniPCMultistep", BETAS),
    ("FlowMatchEulerDiscrete", {"num_train_timesteps": 10})])
def test_another_flow_is_refused(name, settings):
    own = getattr(diffusers, f"{name}Scheduler").from_config(settings)
    with pytest.raises(UserError, match=f"{name}Scheduler"):
        check_agrees(Flow(), own)
