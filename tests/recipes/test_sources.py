"""Recipes that name a paper hold the numbers of its published code; where they differ on purpose, they say so."""

from pathlib import Path

import pytest
import torch

from visalign.config.load import build_objective, load_config
from visalign.objectives.online import NoisedTerms

CONFIGS = Path(__file__).resolve().parents[2] / "configs"


def value(config, key):
    for part in key.split("."):
        config = config[part] if isinstance(config, dict) else getattr(config, part)
    return config


@pytest.mark.parametrize("name, numbers", [
    ("online/sd35_flow_grpo", {"optim.ema_decay": 0.9, "optim.ema_every": 8}),
    ("online/sd35_flow_grpo_fast", {"optim.ema_every": 8, "rollout.window.last": 2, "rollout.window.size": 3}),
    ("online/sd35_grpo_guard", {"optim.ema_every": 8}),
    ("online/sd35_tempflow", {"objective.step_weight": "noise", "objective.clip": 1e-4, "guard.action": "rollback"}),
    ("online/sd35_diverse", {"objective.kl": "early", "objective.kl_steps": 3, "objective.beta": 0.04,
                             "advantage.rarity": 0.2, "reward.features": "clip:ViT-L-14/openai"}),
    ("video/wan21_euphonium", {"rollout.guide.scale": 0.01, "rollout.noise_level": 0.25, "rollout.group_size": 8,
                               "rollout.steps": 16, "advantage.process_weight": 1.0, "objective": {
                                   "name": "grpo", "clip": 1e-4}}),
    ("online/sd35_branch_grpo", {"rollout.branches.steps": (0, 3, 6, 9), "rollout.branches.noise": 4.0,
                                 "rollout.noise_level": 0.3, "rollout.group_size": 16, "rollout.steps": 20,
                                 "objective.clip": 1e-3}),
    ("online/flux_mix_grpo_flash", {"rollout.tail.ratio": 0.4, "rollout.window.schedule": "progressive"}),
    ("online/sd35_pref_grpo", {"rollout.group_size": 8, "advantage.combine": "advantages"}),
    ("online/flux_mix_grpo", {"rollout.clean_steps": 2}),
    ("online/sd35_awm", {"advantage.clip": 5.0, "advantage.scale": "global_std", "objective.decay_ramp": 300,
                         "objective.noisiest": 0.7}),
    ("online/sd35_dgpo", {"model.lora.rank": 64, "rollout.guidance_scale": 4.5, "objective.train_guidance": 1.0,
                          "rollout.group_size": 24, "rollout.prompts_per_epoch": 24, "objective.beta": 10,
                          "objective.beta_kl": 1e-3, "objective.clip": 0.05, "objective.switch": 200,
                          "advantage.scale": "global_std", "optim.lr": 3e-4, "optim.ema_every": 8}),
    ("online/sd35_crd", {"model.lora.rank": 32, "rollout.guidance_scale": 1.0, "objective.ref_guidance": 4.5,
                         "rollout.group_size": 24, "rollout.prompts_per_epoch": 48, "train.updates_per_epoch": 2,
                         "objective.beta_kl": 0.1, "objective.decay_start": 0.25, "objective.decay_rise": 0.005}),
    ("online/sd15_spo", {"rollout.siblings.count": 4, "rollout.siblings.threshold": 0.3, "objective.beta": 10,
                         "objective.clip": 0.1, "optim.lr": 6e-5, "model.lora.rank": 4, "rollout.steps": 20,
                         "rollout.guidance_scale": 5.0, "rollout.detach_negative": False}),
    ("online/sdxl_d3po", {"rollout.detach_negative": False, "rollout.train_fraction": 1.0, "optim.weight_decay": 1e-4}),
    ("online/sdxl_ddpo", {"rollout.detach_negative": False, "rollout.train_fraction": 1.0, "optim.weight_decay": 1e-4}),
    ("video/wan21_flow_grpo", {"objective.kl": "closed", "objective.beta": 0.004}),
    ("video/wan21_i2v_flow_grpo", {"objective.kl": "closed", "objective.beta": 0.004}),
    ("online/z_image_grpo", {"optim.ema_every": 4, "rollout.guidance_scale": 5.0, "rollout.window.size": 1,
                             "advantage": {}, "rollout.steps": 10, "rollout.prompts_per_epoch": 48}),
    ("online/sana_nft", {"model.lora.rank": 4, "objective.beta_kl": 1e-4, "objective.times": 9}),
    ("video/ltx2_grpo", {"rollout.sampler": "cps", "rollout.noise_level": 0.8, "rollout.window.last": 7}),
    ("video/hunyuan15_grpo", {"optim.lr": 1e-5, "rollout.noise_level": 0.25, "rollout.clean_steps": 7}),
    ("edit/qwen_edit_nft", {"rollout.group_size": 12, "rollout.steps": 6, "objective.beta_kl": 1e-4}),
    ("sdxl_dpo", {"data.caption_dropout": 0.2}), ("sd15_dpo", {"data.caption_dropout": 0.2}),
    ("sdxl_mapo", {"optim.lr": 1e-5, "train.steps": 2000, "objective.beta": 0.1}),
    ("sd15_kto", {"objective.beta": 1000, "data.positive_ratio": 0.8, "model.lora.rank": 8, "train.steps": 20000}),
    ("sd15_seppo", {"data.own.every": 30, "data.own.keep": 7, "objective.flip": "sign"}),
    ("video/cogvideox_diffusion_dpo", {"data.caption_dropout": 0.2}),
    ("sdxl_inpo", {"objective.beta": 5000, "objective.inversion_steps": 10, "objective.inversion_noise": 0.1,
                   "optim.warmup_steps": 200, "optim.schedule": "constant", "train.steps": 400}),
    ("sd21_rpo", {"model.tuning": "full", "optim.lr": 5e-6, "optim.schedule": "constant", "train.batch_size": 1,
                  "train.steps": 400, "eval.every": 40, "eval.keep_best": "harmonic", "data.shared_noise": False,
                  "eval.reward.similarity_weight": 0.5}),
    ("sdxl_ppd", {"optim.lr": 1e-5, "optim.name": "adamw", "train.batch_size": 8, "train.gradient_accumulation": 96,
                  "data.users.context": 4, "data.path": "yuvalkirstain/pickapic_v2"}),
    ("sdxl_capo", {"objective.link": "calibrated", "objective.snr_bias": 0.0}),
    ("sd3_flow_dpo", {"train.timestep_sampling": "logit_normal", "train.timestep_shift": 3.0}),
    ("sd3_soar", {"objective.points": 6, "objective.weight": 1.0, "objective.guidance_scale": 4.5, "train.steps": 5000,
                  "objective.rollout_steps": 40, "optim.lr": 2e-5, "optim.weight_decay": 1e-2, "train.batch_size": 4,
                  "model.tuning": "full", "model.resolution": 512, "train.timestep_sampling": "logit_normal"}),
])
def test_numbers_of_the_published_code(name, numbers):
    config = load_config(CONFIGS / f"{name}.yaml")
    assert {key: value(config, key) for key in numbers} == numbers


@pytest.mark.parametrize("name, word", [
    ("online/sdxl_ddpo", "sampling times"), ("online/sdxl_d3po", "sampling times"),
    ("online/sd35_grpo_guard", "first step"), ("online/sd35_nft", "last time"), ("online/sd35_dgpo", "second order"),
    ("online/sd35_crd", "draws 20"), ("online/sd15_spo", "decoded predictions"), ("online/flux_dance_grpo", "n - 1"),
    ("online/flux_mix_grpo", "shift"), ("online/flux_mix_grpo_flash", "still have noise"),
    ("online/sd35_pref_grpo", "one order only"), ("video/hunyuan_dance_grpo", "VQ alone"),
    ("video/ltx2_grpo", "follow one another"),
    ("video/wan21_euphonium", "set out from"), ("online/sd35_branch_grpo", "narrower one"),
    ("edit/qwen_edit_nft", "second order"), ("video/wan22_grpo", "4 and 3"),
    ("edit/kontext_grpo", "forgets"), ("online/z_image_nft", "half"), ("sd3_flow_rwr", "mean 1"), ("sd3_soar", "1/40")])
def test_what_differs_on_purpose_is_said(name, word):
    lines = (CONFIGS / f"{name}.yaml").read_text().splitlines()
    header = " ".join(line.removeprefix("# ") for line in lines if line.startswith("#"))
    assert "Deliberate differences from" in header and word in header


def test_awm_is_five_times_the_published_loss():
    # published: advantage / 5, ema_beta 1, beta 1e-4; an optimiser without a scale of its own takes the same step
    ours = build_objective(load_config(CONFIGS / "online/sd35_awm.yaml").objective, loop="online")
    theirs = build_objective({"name": "awm", "beta_old": 1.0, "beta_kl": 1e-4}, loop="online")
    torch.manual_seed(0)
    x0, noise, prediction, old, reference = torch.randn(5, 2, 3, 4, 4)

    def loss(objective, advantage):
        return objective(NoisedTerms(advantage=advantage, x0=x0, x_t=x0, noise_fraction=torch.tensor([0.4, 0.9]),
                                     target=noise - x0, prediction=prediction, old_prediction=old,
                                     ref_prediction=reference, x0_of=None)).loss.item()

    advantage = torch.tensor([5.0, -1.5])
    assert loss(ours, advantage) == pytest.approx(5 * loss(theirs, advantage / 5), rel=1e-5)
