"""What lies beside the model: rewards as they are held, and samples with the steps in which they were drawn."""

from types import SimpleNamespace

import pytest
import torch

from visalign.config.load import build_objective, load_config
from visalign.generators import load_generator
from visalign.generators.hardware.weightless import Weightless
from visalign.jobs.memory_beside import SampleSizes, reward_sizes
from visalign.jobs.memory_plan import plan_memory
from visalign.jobs.memory_sizes import PassSizes
from visalign.jobs.memory_words import memory_table
from visalign.rewards import build_reward
from visalign.trainers.online.rollout import Sampler, Start
from visalign.trainers.online.step_selection import noisy_steps, plan_steps


@pytest.mark.parametrize("spec", ["tiny-clip", "tiny-reward"])
def test_a_reward_is_as_large_as_what_it_loads(spec):
    reward = build_reward(spec)
    assert reward.held_bytes() == sum(p.nbytes for p in reward.network.parameters())


def test_sizes_of_published_rewards_are_known_without_their_weights():
    assert build_reward("clip").held_bytes() == 4 * 427_616_513  # ViT-L-14 in single precision
    assert build_reward("pickscore").held_bytes() == build_reward("hpsv2").held_bytes() == 4 * 986_109_441  # ViT-H-14
    both = build_reward({"kind": "weighted_sum", "of": ["clip", "jpeg", "aesthetic"]})
    assert both.held_bytes() == 2 * 4 * 427_616_513
    assert build_reward("vlm:http://127.0.0.1:9/v1").held_bytes() == 0
    assert build_reward("imagereward").held_bytes() is None  # not downloaded


def test_samples_of_sd35_at_1024_pixels_by_hand(online_recipe):
    config = load_config(online_recipe(), ("rollout.steps=10", "rollout.prompts_per_epoch=8", "rollout.group_size=24",
                                           "rollout.batch_size=48"))
    sample = SampleSizes(4 * 16 * 128 * 128, 0)
    of = {name: sample.trajectory(config, build_objective({"name": name}, loop="online")) for name in ("grpo", "nft")}
    # 262,144 numbers of 4 bytes; 9 of 10 steps, each with the latents before and after, a place and a log-probability
    assert of == {"grpo": 2**20 + 9 * (2 * 2**20 + 8 + 4), "nft": 2**20}


def test_samples_take_what_is_counted(online_recipe):
    config = load_config(online_recipe())
    generator, objective = load_generator(config.model, "cpu"), build_objective(config.objective, loop="online")
    sample = PassSizes(Weightless(config.model, torch.device("cpu"))).sample
    sampler = Sampler(generator, config.rollout, keep_mean=False)
    plan = plan_steps(config.rollout, noisy_steps(generator.process, sampler.times, config.rollout), 0, 0, [0])
    prompt = generator.encode_prompts(["a red fruit"])
    [drawn] = sampler.draw([Start(0, "a red fruit", "key", 1, 2)], prompt, None, plan.stochastic, plan.trained)
    kept = (drawn.latents, drawn.steps, drawn.before, drawn.after, drawn.log_prob)
    assert sum(tensor.nbytes for tensor in kept) == sample.trajectory(config, objective)
    assert sum(tensor.nbytes for tensor in prompt.values()) == pytest.approx(sample.embeddings, rel=0.5)
    assert sample.epoch(config, objective, 2)["trajectories"] == 2 * 4 // 2 * sample.trajectory(config, objective)


def test_rewards_and_samples_are_in_the_plan_where_they_lie(online_recipe, monkeypatch):
    config = load_config(online_recipe(reward={"models": ["tiny-clip", "imagereward"]}, eval={
        "reward": "tiny-clip", "also": [], "features": "tiny-clip"}))
    clip = build_reward("tiny-clip").held_bytes()
    assert vars(reward_sizes(config)) == {"scoring": clip, "measuring": clip, "unknown": ("imagereward",)}
    sizes = PassSizes(Weightless(config.model, torch.device("cuda")))
    plan = plan_memory(config, sizes)
    assert plan.held["rewards"] == 2 * clip and "trajectories" not in plan.held
    assert set(plan.host) == {"trajectories", "embeddings"} and plan.moments["sampling"]["trajectories"] > 0
    away = plan_memory(config.model_copy(update={"reward": config.reward.model_copy(update={"offload": True})}), sizes)
    saved = {moment: plan.at(moment) - away.at(moment) for moment in plan.moments}
    assert {moment for moment, size in saved.items() if size == clip} == {"a step's backward pass",
                                                                          "the optimiser's step"}
    card = SimpleNamespace(words="a GPU", bytes=2**40)
    lines = memory_table(config, sizes, card)
    assert "  rewards are not counted: imagereward" in lines and any("of an epoch" in line for line in lines)
    monkeypatch.setattr(sizes.model, "device", torch.device("cpu"))
    on_cpu = plan_memory(config, sizes)
    assert on_cpu.held["trajectories"] == plan.host["trajectories"] and not on_cpu.host
