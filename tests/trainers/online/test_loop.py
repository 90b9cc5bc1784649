"""The online loop through the command line a user types: methods, families, resume, processes, faults."""

import shutil
import signal

import pytest
import torch
from safetensors.torch import load_file

from tests.programs import Program

from ..commands import UNMEASURED, fails, rows, run, weights

ODE = {"rollout": {"sampler": "ode"}}
MARBLE = {"advantage": {"combine": "marble", "every": 3, "drop_zero": False},
          "reward": {"models": ["colourfulness", "contrast"]}} | ODE
CONSTRAINED = {"advantage": {"combine": "constrained", "thresholds": {"colourfulness": 20.0}, "squash": "sigmoid"},
               "reward": {"models": ["colourfulness", "contrast"]}}
SCHEDULED = {"advantage": {"schedule": {"layout": ["contrast"], "texture": ["colourfulness"], "split": 0.8}},
             "reward": {"models": ["colourfulness", "contrast"]}}
WORST = {"advantage": {"combine": "worst", "rate": 0.5}, "reward": {"models": ["colourfulness", "contrast"]}}


@pytest.mark.parametrize("base, method, sections", [
    ("sd3", "grpo", {"objective": {"beta": 0.1}}), ("flux", "grpo", {"rollout": {"guidance_scale": 3.5}}),
    ("sdxl", "grpo", {"advantage": {"history": 8}}), ("sd15", "grpo", {}), ("sd15-v", "d3po", {}),
    ("sd3", "grpo_guard", {}), ("flux", "grpo_guard", {}), ("sd3", "flow_dppo", {}), ("sd3", "d3po", {}),
    ("sdxl", "d3po", {}), ("sd3", "nft", ODE), ("flux", "nft", ODE), ("sd3", "awm", ODE), ("sd3", "raft", ODE),
    ("sdxl", "raft", ODE), ("sd3", "draft", ODE), ("sdxl", "draft", ODE), ("sd3", "pairs_in_group", {}),
    ("sd3", "dgpo", ODE), ("sdxl", "dgpo", ODE), ("sd3", "crd", ODE), ("sdxl", "crd", ODE),
    ("sd3", "direct_align", ODE), ("sdxl", "direct_align", ODE | {"objective": {"branches": "both"}})])
def test_every_method_changes_every_trainable_weight_and_leaves_a_complete_run(online_recipe, tmp_path, base, method,
                                                                               sections):
    run(online_recipe(base, method, **sections), "train.epochs=2")
    folder = tmp_path / "run"
    first, last = weights(folder, 1), weights(folder, 2)
    unchanged = {name for name in first if torch.equal(first[name], last[name])}
    assert {name for name in unchanged if "add_" not in name} == set() and len(unchanged) <= 2
    assert {p.name for p in folder.iterdir()} >= {"config.yaml", "metrics.jsonl", "report.html", "export", "samples",
                                                  "rollouts"}
    trained = rows(folder)
    assert len(trained) == 2 and len(rows(folder, "held_out")) == 2
    assert {"reward", "reward/colourfulness/std", "zero_std_ratio", "unique_prompts", "advantage_abs", "grad_norm",
            "update_norm", "lr", "samples_a_second", "seconds/sampling", "peak_memory_gib"} <= trained[0].keys()
    assert "reward/contrast" in rows(folder, "held_out")[0]["values"]
    if method in ("grpo", "grpo_guard", "flow_dppo"):
        first_row = trained[0]
        assert first_row["ratio"] == pytest.approx(1, abs=1e-6) and first_row["approx_kl"] == pytest.approx(0, abs=1e-9)
        assert first_row["clipped_above"] == first_row["clipped_below"] == 0
        assert len(first_row["by_step"]["ratio"]) == len(first_row["by_step"]["ratio_std"]) >= 2
    if method in ("d3po", "pairs_in_group"):
        assert trained[0]["loss"] == pytest.approx(0.693147, abs=1e-4)
    if method == "dgpo":
        assert trained[0]["group_weight"] == pytest.approx(0.5, abs=1e-6) and trained[0]["clipped"] == 0
    if method == "crd":
        assert trained[0]["implicit_reward"] == pytest.approx(0, abs=1e-6) and "sampler_distance" in trained[0]
    if method in ("nft", "awm", "dgpo", "crd"):
        assert trained[0]["old_deviate"] == pytest.approx(0, abs=1e-9) and "old_distance" in trained[0]


@pytest.mark.parametrize("method, sections", [
    ("grpo", {"model": {"tuning": "full"}, "optim": {"ema_decay": 0.9, "schedule": "cosine", "warmup_steps": 1}}),
    ("nft", {"model": {"tuning": "full"},
             "objective": {"time_sampling": "logit_normal", "times": 2, "decay": "late"}} | ODE),
    ("grpo", {"rollout": {"guidance_scale": 3.0}, "train": {"updates_per_epoch": 2}}),
    ("grpo", {"rollout": {"guidance_scale": 3.0, "detach_negative": False}, "eval": {"every": 1}}),
    ("grpo", {"rollout": {"window": {"size": 2, "last": 1}, "same_noise": True}, "objective": {"best_of": 2}}),
    ("grpo", {"rollout": {"window": {"size": 1, "schedule": "progressive", "iterations": 1, "last": 2}},
              "objective": {"beta": 0.1, "kl": "velocity"}}),
    ("grpo", {"rollout": {"sampler": "dance_sde", "noise_level": 0.3, "clean_steps": 1, "train_choice": "random",
                          "train_fraction": 0.6}, "advantage": {"scale": "global_std", "drop_zero": False}}),
    ("grpo", {"rollout": {"sampler": "cps", "noise_level": 0.8, "log_prob": "unnormalised"},
              "advantage": {"unlikeliness": 0.25}}),
    ("grpo_guard", {"rollout": {"sampler": "cps", "noise_level": 0.8}, "model": {"gradient_checkpointing": True}}),
    ("grpo", {"advantage": {"baseline": "median", "scale": "mad"}, "rollout": {"group_size": 5, "batch_size": 5}}),
    ("grpo", {"advantage": {"baseline": "leave_one_out", "scale": "none"}, "model": {"precision": "bf16"}}),
    ("grpo", {"reward": {"models": ["contrast", {"reward": "jpeg", "weight": 0.1}]}, "advantage": {"combine": "gdpo"}}),
    ("grpo", {"reward": {"models": ["contrast", "jpeg"]}, "advantage": {"gate": "contrast", "gate_threshold": 0.1}}),
    ("grpo", {"reward": {"models": [{"reward": "tiny-reward", "dimension": "quality"}], "offload": True}}),
    ("awm", {"objective": {"draws": "group", "time_sampling": "shifted"}} | ODE),
    ("raft", {"objective": {"beta_kl": 0.1, "keep": 2, "noisiest": 0.5}} | ODE),
    ("draft", {"objective": {"last_steps": 2, "beta": 0.1}, "reward": {"models": "tiny-reward"}} | ODE),
    ("draft", {"reward": {"models": ["tiny-clip", "saturation", "contrast"]}} | ODE),
    ("direct_align", {"objective": {"branches": "both", "times": 2, "beta": 0.1, "ceiling": 0.7}, "reward": {"models": [
        {"kind": "relative", "of": "tiny-clip", "good": "yellow", "bad": "blue", "k": [0.1, 0.25],
         "k_swapped": [0.3, 0.01]}, "tiny-reward"]}} | ODE),
    ("awm", {"objective": {"weighting": "huber", "beta_kl": 0.0}} | ODE),
    ("d3po", {"objective": {"pairs_per_group": 2}}),
    ("grpo", {"advantage": {"shape": "win_rate"}, "reward": {"models": ["contrast", "jpeg"]}}),
    ("grpo", {"objective": {"step_weight": "noise", "beta": 0.1},
              "rollout": {"train_choice": "random", "train_fraction": 0.6}}),
    ("grpo", {"rollout": {"steps": 6, "tail": {"ratio": 0.4}, "window": {"size": 1, "schedule": "progressive",
                                                                         "iterations": 1, "stride": 2}}}),
    ("grpo", {"objective": {"kl": "early", "kl_steps": 1, "beta": 0.1}, "advantage": {"rarity": 0.3, "kinds": 2},
              "reward": {"features": "tiny-clip"}}),
    ("dgpo", {"objective": {"train_guidance": 1.0, "ref_guidance": 4.5, "moving_reference": True, "switch": 0},
              "rollout": {"sampler": "ode", "guidance_scale": 3.0}}),
    ("crd", {"objective": {"ref_guidance": 4.5, "loss": "bce", "temperature": 0.5, "adaptive": False,
                           "adaptive_kl": False}} | ODE),
    ("nft", MARBLE | {"train": {"updates_per_epoch": 2}}),
    ("awm", MARBLE | {"objective": {"decay_max": 0.0}, "advantage": {"combine": "marble", "normalise": False}}),
])
def test_every_option_trains(online_recipe, tmp_path, method, sections):
    run(online_recipe("sd3", method, **{"eval": UNMEASURED} | sections), "train.epochs=2")
    trained = rows(tmp_path / "run")
    assert len(trained) == 2 and all(torch.tensor(row["loss"]).isfinite() for row in trained)
    assert all(row["bad_updates"] == 0 for row in trained)


def test_the_old_policy_of_nft_follows_its_schedule(online_recipe, tmp_path):
    run(online_recipe("sd3", "nft", **ODE), "objective.decay=late", "train.epochs=2")
    # decay 0 before step 75: the old policy is the current one after each epoch, so the distance is one update's
    distances = [row["old_distance"] for row in rows(tmp_path / "run")]
    state = torch.load(tmp_path / "run" / "checkpoints" / "step-00000002" / "optimizer.pt", weights_only=True)
    now = load_file(tmp_path / "run" / "checkpoints" / "step-00000002" / "trainable.safetensors")
    old = state["extras"]["old"]["values"]
    assert sum(v.numel() for v in old) == sum(v.numel() for v in now.values())
    assert min(distances) > 0
    norms = [torch.cat([v.flatten() for v in values]).norm().item() for values in (old, now.values())]
    assert norms[0] == pytest.approx(norms[1], rel=1e-6)


STATEFUL = [("grpo", {"optim": {"ema_decay": 0.9, "schedule": "cosine"}, "train": {"updates_per_epoch": 2}}),
            ("nft", {"objective": {"decay": "slow", "mixing": 0.5}} | ODE), ("grpo", {"advantage": {"history": 8}}),
            ("nft", {"objective": {"draws": "group", "times": 2}} | ODE), ("nft", MARBLE),
            ("grpo", CONSTRAINED), ("grpo", WORST),
            ("dgpo", {"objective": {"switch": 1, "decay_ramp": 4}, "train": {"updates_per_epoch": 2}} | ODE),
            ("crd", ODE), ("direct_align", {"objective": {"branches": "both"}} | ODE),
            ("grpo", {"advantage": {"rarity": 0.3, "kinds": 2}, "reward": {"features": "tiny-clip"}})]


@pytest.mark.parametrize("method, sections", STATEFUL)
def test_a_continued_run_ends_with_the_same_bits(online_recipe, tmp_path, method, sections):
    file = online_recipe("sd3", method, **{"eval": UNMEASURED} | sections)
    run(file, "train.epochs=4", "output.checkpoint_every=2")
    whole = weights(tmp_path / "run", 4)
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "step-00000004")
    run(file, "train.epochs=4", "--resume")
    continued = weights(tmp_path / "run", 4)
    assert all(torch.equal(whole[name], continued[name]) for name in whole)
    assert [row["step"] for row in rows(tmp_path / "run")] == [1, 2, 3, 4]


def test_one_reward_balanced_is_the_plain_method(online_recipe, tmp_path):
    file = online_recipe("sd3", "nft", eval=UNMEASURED, objective={"beta_kl": 0.0},
                         advantage={"drop_zero": False}, **ODE)
    run(file, "train.epochs=2", f"output.folder={tmp_path / 'plain'}")
    run(file, "train.epochs=2", "advantage.combine=marble", "advantage.every=2", f"output.folder={tmp_path / 'alone'}")
    plain, alone = weights(tmp_path / "plain", 2), weights(tmp_path / "alone", 2)
    assert all(torch.equal(plain[name], alone[name]) for name in plain)
    first, second = rows(tmp_path / "alone")
    assert first["gradient_cosine/colourfulness"] == pytest.approx(1) and "gradient_norm/colourfulness" not in second


@pytest.mark.parametrize("method, sections", [("grpo", {}), ("nft", ODE)])
def test_all_rewards_at_all_levels_train_to_the_same_bits(online_recipe, tmp_path, method, sections):
    both = "{layout: [contrast, jpeg], texture: [contrast, jpeg], split: 0.8}"
    file = online_recipe("sd3", method, eval=UNMEASURED, reward={"models": ["contrast", "jpeg"]}, **sections)
    run(file, "train.epochs=2", f"output.folder={tmp_path / 'plain'}")
    run(file, "train.epochs=2", f"advantage.schedule={both}", f"output.folder={tmp_path / 'both'}")
    run(file, "train.epochs=2", "advantage.schedule={layout: [contrast], texture: [jpeg], split: 0.8}",
        f"output.folder={tmp_path / 'apart'}")
    plain, same, apart = (weights(tmp_path / name, 2) for name in ("plain", "both", "apart"))
    assert all(torch.equal(plain[name], same[name]) for name in plain)
    assert not all(torch.equal(plain[name], apart[name]) for name in plain)


def test_a_split_beyond_all_levels_is_refused(online_recipe):
    file = online_recipe("sd3", "grpo", reward={"models": ["contrast", "jpeg"]})
    said = fails(file, "advantage.schedule={layout: [contrast], texture: [jpeg], split: 0.1}")
    assert "split 0.1" in said and "texture (jpeg) would never count" in said


KILLED = """
import os, signal, sys
from visalign.trainers.online import loop as online, rollout, scoring
from visalign.cli import main

phase, left = sys.argv[1], [int(sys.argv[2])]

def dying(function):
    def wrapped(*arguments, **options):
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments, **options)
    return wrapped

if phase == "sampling":
    rollout.Sampler.draw = dying(rollout.Sampler.draw)
elif phase == "scoring":
    scoring.RewardSet.score = dying(scoring.RewardSet.score)
elif phase == "update":
    online.OnlineTrainer._step = dying(online.OnlineTrainer._step)
elif phase == "saving":
    import torch
    torch.save = dying(torch.save)
main(["train", *sys.argv[3:]])
"""


@pytest.mark.parametrize("phase, call", [("sampling", 4), ("scoring", 4), ("update", 4), ("saving", 2)])
def test_a_kill_in_any_phase_loses_at_most_the_epoch(online_recipe, tmp_path, phase, call):
    sections = {"train": {"updates_per_epoch": 2, "epochs": 3}, "eval": UNMEASURED}
    whole = online_recipe("sd3", "grpo", name="whole.yaml", **sections)
    run(whole, f"output.folder={tmp_path / 'whole'}")
    arguments = [str(whole), f"output.folder={tmp_path / 'killed'}"]
    died = Program(KILLED, phase, call, *arguments, output=tmp_path / "said")
    assert died.wait() == -signal.SIGKILL, died.text()[-1000:]
    assert len(rows(tmp_path / "killed")) >= 1
    run(*arguments, "--resume")
    a, b = weights(tmp_path / "whole", 3), weights(tmp_path / "killed", 3)
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert [row["step"] for row in rows(tmp_path / "killed")] == [1, 2, 3]


PROCESSES = """
import sys
from accelerate import PartialState
from visalign.cli import main
assert PartialState(cpu=True).num_processes == 2
try:
    main(["--debug", "train", *sys.argv[1:]])
except SystemExit as end:
    assert not end.code, end.code
"""


@pytest.mark.parametrize("method, sections", [
    ("grpo", {"train": {"updates_per_epoch": 2}}), ("nft", {"advantage": {"drop_zero": False}} | ODE),
    ("nft", {"objective": {"draws": "group"}, "rollout": {"sampler": "ode", "group_size": 2}}),
    ("dgpo", {"rollout": {"sampler": "ode", "group_size": 2}}),
    ("crd", {"rollout": {"sampler": "ode", "group_size": 2}, "advantage": {"drop_zero": False}}),
    ("direct_align", {"objective": {"branches": "both"}, "advantage": {"drop_zero": False}} | ODE),
    ("nft", MARBLE | {"advantage": {"combine": "marble", "every": 1, "drop_zero": False}}), ("grpo", CONSTRAINED),
    ("grpo", WORST), ("grpo", SCHEDULED),
    ("grpo", {"advantage": {"rarity": 0.3, "kinds": 2}, "reward": {"features": "tiny-clip"}})])
def test_two_processes_learn_what_one_does_with_twice_the_batch(online_recipe, two_processes, tmp_path, method,
                                                                sections):
    recipe = online_recipe("sd3", method, **sections | {"eval": UNMEASURED})
    shape = ["rollout.prompts_per_epoch=4", "train.epochs=2"]
    run(recipe, *shape, "rollout.batch_size=4", f"output.folder={tmp_path / 'one'}")
    two_processes(PROCESSES, recipe, *shape, "rollout.batch_size=2", f"output.folder={tmp_path / 'two'}")
    assert rows(tmp_path / "two", "start")[0]["processes"] == 2
    one, two = rows(tmp_path / "one"), rows(tmp_path / "two")
    for a, b in zip(one, two, strict=True):
        assert a["reward"] == pytest.approx(b["reward"], rel=1e-4)
        assert a["trained_samples"] == b["trained_samples"] and a["loss"] == pytest.approx(b["loss"], abs=1e-5)
    first, second = weights(tmp_path / "one", 2), weights(tmp_path / "two", 2)
    for name in first:
        torch.testing.assert_close(first[name], second[name], atol=2e-4, rtol=1e-2)


@pytest.mark.parametrize("world", [1, 2, 4])
def test_processes_share_an_epoch_in_whole_batches(world):
    from types import SimpleNamespace

    from visalign.parallel.sharing import Processes
    from visalign.trainers.online.epochs import Epochs

    def places(rank):
        epochs = Epochs.__new__(Epochs)
        epochs.config = SimpleNamespace(rollout=SimpleNamespace(batch_size=4, prompts_per_epoch=4, group_size=8))
        epochs.processes = Processes(rank, world)
        return epochs.places(), [epochs.batch_of(place) for place in epochs.places()]

    held = [places(rank) for rank in range(world)]
    assert sorted(place for mine, _ in held for place in mine) == list(range(32))
    for number in range(32 // (4 * world)):  # the union over processes of one batch is the same run of places
        together = [place for mine, batches in held for place, b in zip(mine, batches, strict=True) if b == number]
        assert sorted(together) == list(range(number * 4 * world, (number + 1) * 4 * world))


def test_dimensions_of_one_reward_are_terms_that_share_it(online_recipe):
    from PIL import Image

    from visalign.config import RewardSettings
    from visalign.media.samples import Sample
    from visalign.trainers.online.scoring import RewardSet

    terms = [{"reward": "tiny-reward", "dimension": name} for name in ("alignment", "quality")]
    reward_set = RewardSet(RewardSettings(models=tuple(terms)), "cpu", "image")
    assert reward_set.terms[0].reward is reward_set.terms[1].reward
    assert reward_set.names == ("tiny-reward.alignment", "tiny-reward.quality")
    asked, score = [], reward_set.terms[0].reward.score
    reward_set.terms[0].reward.score = lambda samples: asked.append(1) or score(samples)
    verdict = reward_set.score([Sample("a red fruit", Image.new("RGB", (64, 64), "red"))])
    assert verdict.values.shape == (1, 2) and len(asked) == 1
