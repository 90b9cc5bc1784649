"""The online loop through the command line a user types: methods, families, resume, processes, faults."""

import signal
import subprocess
import sys
import threading
import time

import pytest
import torch
from safetensors.torch import load_file

from visalign.rewards.base import Judge, Scores
from visalign.rewards.registry import REWARDS

from ..commands import ENVIRONMENT, fails, rows, run, weights

ODE = {"rollout": {"sampler": "ode"}}


@pytest.mark.parametrize("base, method, sections", [
    ("sd3", "grpo", {"objective": {"beta": 0.1}}), ("flux", "grpo", {"rollout": {"guidance_scale": 3.5}}),
    ("sdxl", "grpo", {"advantage": {"history": 8}}), ("sd15", "grpo", {}), ("sd15-v", "d3po", {}),
    ("sd3", "grpo_guard", {}), ("flux", "grpo_guard", {}), ("sd3", "flow_dppo", {}), ("sd3", "d3po", {}),
    ("sdxl", "d3po", {}), ("sd3", "nft", ODE), ("flux", "nft", ODE), ("sd3", "awm", ODE), ("sd3", "raft", ODE),
    ("sdxl", "raft", ODE), ("sd3", "draft", ODE), ("sdxl", "draft", ODE)])
def test_every_method_changes_every_trainable_weight_and_leaves_a_complete_run(online_recipe, tmp_path, base, method,
                                                                               sections):
    run(online_recipe(base, method, **sections))
    folder = tmp_path / "run"
    first, last = weights(folder, 2), weights(folder, 3)
    unchanged = {name for name in first if torch.equal(first[name], last[name])}
    assert {name for name in unchanged if "add_" not in name} == set() and len(unchanged) <= 2
    assert {p.name for p in folder.iterdir()} >= {"config.yaml", "metrics.jsonl", "report.html", "export", "samples",
                                                  "rollouts"}
    trained = rows(folder)
    assert len(trained) == 3 and len(rows(folder, "held_out")) == 2
    assert {"reward", "reward/colourfulness/std", "zero_std_ratio", "unique_prompts", "advantage_abs", "grad_norm",
            "update_norm", "lr", "samples_a_second", "seconds/sampling", "peak_memory_gib"} <= trained[0].keys()
    assert rows(folder, "held_out")[0]["others"].keys() == {"contrast"}
    if method in ("grpo", "grpo_guard", "flow_dppo"):
        first_row = trained[0]
        assert first_row["ratio"] == pytest.approx(1, abs=1e-6) and first_row["approx_kl"] == pytest.approx(0, abs=1e-9)
        assert first_row["clipped_above"] == first_row["clipped_below"] == 0
        assert len(first_row["by_step"]["ratio"]) == len(first_row["by_step"]["ratio_std"]) >= 2
    if method == "d3po":
        assert trained[0]["loss"] == pytest.approx(0.693147, abs=1e-4)
    if method in ("nft", "awm"):
        assert trained[0]["old_deviate"] == pytest.approx(0, abs=1e-9) and "old_distance" in trained[0]


@pytest.mark.parametrize("method, sections", [
    ("grpo", {"model": {"tuning": "full"}}), ("nft", {"model": {"tuning": "full"}} | ODE),
    ("grpo", {"optim": {"ema_decay": 0.9}}), ("grpo", {"train": {"updates_per_epoch": 2}}),
    ("grpo", {"rollout": {"guidance_scale": 3.0}}),
    ("grpo", {"rollout": {"guidance_scale": 3.0, "detach_negative": False}}),
    ("grpo", {"rollout": {"window": {"size": 2, "last": 1}, "same_noise": True}}),
    ("grpo", {"rollout": {"window": {"size": 1, "schedule": "progressive", "iterations": 1, "last": 2}}}),
    ("grpo", {"rollout": {"sampler": "dance_sde", "noise_level": 0.3, "clean_steps": 1, "train_choice": "random",
                          "train_fraction": 0.6}}),
    ("grpo", {"rollout": {"sampler": "cps", "noise_level": 0.8, "log_prob": "unnormalised"}}),
    ("grpo_guard", {"rollout": {"sampler": "cps", "noise_level": 0.8}}),
    ("grpo", {"objective": {"best_of": 2}}), ("grpo", {"objective": {"beta": 0.1, "kl": "velocity"}}),
    ("grpo", {"advantage": {"scale": "global_std", "drop_zero": False}}),
    ("grpo", {"advantage": {"baseline": "median", "scale": "mad"}, "rollout": {"group_size": 5, "batch_size": 5}}),
    ("grpo", {"advantage": {"baseline": "leave_one_out", "scale": "none"}}),
    ("grpo", {"advantage": {"unlikeliness": 0.25}}),
    ("grpo", {"reward": {"of": ["contrast", {"reward": "jpeg", "weight": 0.1}]}, "advantage": {"combine": "gdpo"}}),
    ("grpo", {"reward": {"of": ["contrast", "jpeg"]}, "advantage": {"gate": "contrast", "gate_threshold": 0.1}}),
    ("grpo", {"reward": {"of": [{"reward": "tiny-reward", "dimension": "quality"}], "offload": True}}),
    ("nft", {"objective": {"time_sampling": "logit_normal", "times": 2, "decay": "late"}} | ODE),
    ("raft", {"objective": {"beta_kl": 0.1, "keep": 2, "noisiest": 0.5}} | ODE),
    ("draft", {"objective": {"last_steps": 2, "beta": 0.1}, "reward": {"of": "tiny-reward"}} | ODE),
    ("draft", {"reward": {"of": ["tiny-clip", "saturation", "contrast"]}} | ODE),
    ("awm", {"objective": {"weighting": "huber", "beta_kl": 0.0}} | ODE),
    ("d3po", {"objective": {"pairs_per_group": 2}}), ("grpo", {"eval": {"every": 1}}),
    ("grpo", {"model": {"gradient_checkpointing": True}}), ("grpo", {"model": {"precision": "bf16"}}),
    ("grpo", {"optim": {"schedule": "cosine", "warmup_steps": 1}}),
])
def test_every_option_trains(online_recipe, tmp_path, method, sections):
    run(online_recipe("sd3", method, **sections), "train.epochs=2")
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
            ("nft", {"objective": {"decay": "slow", "mixing": 0.5}} | ODE), ("grpo", {"advantage": {"history": 8}})]


@pytest.mark.parametrize("method, sections", STATEFUL)
def test_a_continued_run_ends_with_the_same_bits(online_recipe, tmp_path, method, sections):
    whole = online_recipe("sd3", method, name="whole.yaml", output={"folder": str(tmp_path / "whole")}, **sections)
    run(whole, "train.epochs=4")
    part = online_recipe("sd3", method, name="part.yaml", output={"folder": str(tmp_path / "part")}, **sections)
    run(part, "train.epochs=4", "output.checkpoint_every=2")
    import shutil

    shutil.rmtree(tmp_path / "part" / "checkpoints" / "step-00000004")
    run(part, "train.epochs=4", "--resume")
    a, b = weights(tmp_path / "whole", 4), weights(tmp_path / "part", 4)
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert [row["step"] for row in rows(tmp_path / "part")] == [1, 2, 3, 4]


KILLED = """
import os, signal, sys
from visalign.trainers.online import judging, loop as online
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
    online.Sampler.draw = dying(online.Sampler.draw)
elif phase == "judging":
    judging.Panel.judge = dying(judging.Panel.judge)
elif phase == "update":
    online.OnlineTrainer._step = dying(online.OnlineTrainer._step)
elif phase == "saving":
    import torch
    torch.save = dying(torch.save)
main(["train", *sys.argv[3:]])
"""


@pytest.mark.parametrize("phase, call", [("sampling", 4), ("judging", 4), ("update", 4), ("saving", 2)])
def test_a_kill_in_any_phase_loses_at_most_the_epoch(online_recipe, tmp_path, phase, call):
    sections = {"train": {"updates_per_epoch": 2, "epochs": 3}, "eval": {"reward": None, "also": [], "features": None}}
    whole = online_recipe("sd3", "grpo", name="whole.yaml", **sections)
    run(whole, f"output.folder={tmp_path / 'whole'}")
    arguments = [str(whole), f"output.folder={tmp_path / 'killed'}"]
    died = subprocess.run([sys.executable, "-c", KILLED, phase, str(call), *arguments], env=ENVIRONMENT,
                          capture_output=True, text=True, timeout=120)
    assert died.returncode == -signal.SIGKILL, died.stderr[-1000:]
    assert len(rows(tmp_path / "killed")) >= 1
    finished = subprocess.run([sys.executable, "-m", "visalign", "train", *arguments, "--resume"], env=ENVIRONMENT,
                              capture_output=True, text=True, timeout=120)
    assert finished.returncode == 0, finished.stderr[-1000:]
    a, b = weights(tmp_path / "whole", 3), weights(tmp_path / "killed", 3)
    for name in a:
        torch.testing.assert_close(a[name], b[name], atol=1e-6, rtol=1e-4)
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
    ("grpo", {"train": {"updates_per_epoch": 2}}), ("nft", {"advantage": {"drop_zero": False}} | ODE)])
def test_two_processes_learn_what_one_does_with_twice_the_batch(online_recipe, two_processes, tmp_path, method,
                                                                sections):
    quiet = {"eval": {"reward": None, "also": [], "features": None}}
    recipe = online_recipe("sd3", method, **sections | quiet)
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


class Scripted(Judge):
    """Does what a test says."""

    action = None
    asked = 0

    def judge(self, samples):
        type(self).asked += 1
        return type(self).action(samples)


@pytest.fixture
def scripted(monkeypatch):
    """Registers a reward whose answer is the given function of the samples."""
    from dataclasses import dataclass

    def use(action):
        kind = dataclass(type("Scripted", (Scripted,), {"action": staticmethod(action), "asked": 0,
                                                        "__doc__": "Does what a test says."}))
        monkeypatch.setitem(REWARDS, "scripted", kind)
        return kind

    return use


QUIET = {"eval": {"reward": None, "also": [], "features": None}, "reward": {"of": "scripted"}}


def brightness(samples):
    return torch.tensor([[float(sum(s.image.convert("L").resize((1, 1)).getdata()))] for s in samples])


def test_a_reward_that_is_nan_for_some_samples_leaves_them_out_and_counts_them(online_recipe, tmp_path, scripted):
    def some(samples):
        values = brightness(samples)
        values[0] = float("nan")
        return values

    scripted(some)
    run(online_recipe("sd3", **QUIET), "train.epochs=1", "reward.max_failures=0.5")
    row = rows(tmp_path / "run")[0]
    assert row["unjudged"] == 2 and row["trained_samples"] == 6


def test_too_many_unjudged_samples_stop_the_run_with_the_reason(online_recipe, scripted):
    scripted(lambda samples: torch.full((len(samples), 1), float("nan")))
    message = fails(online_recipe("sd3", **QUIET))
    assert "reward scripted: 100% of the epoch's samples have no judgement" in message and "finite number" in message


def test_one_of_several_judges_that_judges_nothing_stops_the_run(online_recipe, scripted):
    scripted(lambda samples: torch.full((len(samples), 1), float("nan")))
    message = fails(online_recipe("sd3", **{"eval": QUIET["eval"], "reward": {"of": ["contrast", "scripted"]}}))
    assert "100% of the epoch's samples have no judgement or lack one" in message and "scripted" in message


def test_a_reward_that_does_not_apply_drops_out_without_being_asked_again(online_recipe, tmp_path):
    # `colour` refuses prompts that name no colour: cat face is judged by contrast alone, and nobody waits
    started = time.perf_counter()
    run(online_recipe("sd3", **{"eval": QUIET["eval"], "reward": {"of": ["contrast", "colour"], "retry_wait": 60}}),
        "train.epochs=2")
    assert time.perf_counter() - started < 50 and rows(tmp_path / "run")[0]["unjudged"] == 0


def test_a_constant_reward_changes_nothing_and_stops_after_a_while(online_recipe, tmp_path, scripted):
    scripted(lambda samples: torch.ones(len(samples), 1))
    message = fails(online_recipe("sd3", **QUIET), "train.epochs=9", "train.patience=2")
    assert "epoch 2: for 2 epochs no sample could be learnt from" in message
    row = rows(tmp_path / "run")[0]
    assert row["zero_std_ratio"] == 1 and row["trained_samples"] == 0 and row["updates"] == 0


def test_a_reward_of_the_wrong_shape_is_named(online_recipe, monkeypatch, scripted):
    kind = scripted(brightness)

    def wrong(self, samples):
        return Scores(torch.zeros(len(samples)))

    monkeypatch.setattr(kind, "score", wrong)
    assert "reward scripted: answered with shape (4,) where (4, 1)" in fails(online_recipe("sd3", **QUIET))


def test_a_reward_that_raises_is_asked_again_and_then_named(online_recipe, scripted):
    def broken(samples):
        raise RuntimeError("the judge\nis tired")

    kind = scripted(broken)
    message = fails(online_recipe("sd3", **QUIET), "rollout.batch_size=8")
    assert "reward scripted: failed 3 times, last with RuntimeError: the judge is tired" in message
    assert kind.asked == 3


def test_a_reward_that_raises_once_is_forgiven(online_recipe, tmp_path, scripted):
    def once(samples):
        if kind.asked == 2:
            raise RuntimeError("only now")
        return brightness(samples)

    kind = scripted(once)
    run(online_recipe("sd3", **QUIET), "train.epochs=1")
    assert rows(tmp_path / "run")[0]["unjudged"] == 0


def test_a_reward_that_hangs_ends_the_run_in_time(online_recipe, scripted):
    release = threading.Event()
    scripted(lambda samples: release.wait(60) or brightness(samples))
    started = time.perf_counter()
    message = fails(online_recipe("sd3", **QUIET), "reward.timeout=1")
    release.set()
    assert "no answer for a batch within reward.timeout 1 s" in message and time.perf_counter() - started < 30


@pytest.mark.parametrize("comes_back", [True, False])
def test_a_judge_server_that_dies_during_the_run(online_recipe, tmp_path, comes_back):
    from ...rewards.vlm.server import ChatServer

    def reply(text, images, count):
        if count > 8 and (count <= 14 or not comes_back):
            return None
        return str(1 + len(images[0]) % 5)

    with ChatServer(reply) as server:
        judge = {"kind": "vlm", "url": server.url, "retries": 0, "cache": None, "concurrency": 1,
                 "principles": {"alignment": "Does it fit?"}}
        recipe = online_recipe("sd3", **{"eval": QUIET["eval"], "reward": {"of": [judge], "retries": 3},
                                         "train": {"epochs": 2, "patience": 9}})
        if comes_back:
            run(recipe)
            assert len(rows(tmp_path / "run")) == 2
        else:
            message = fails(recipe)
            assert "no judgement" in message and server.url in message and "--resume" in message
            assert len(rows(tmp_path / "run")) == 1 and weights(tmp_path / "run", 1)


def test_judges_work_while_the_next_batch_is_sampled(online_recipe, tmp_path, scripted):
    who = set()

    def note(samples):
        who.add(threading.current_thread() is threading.main_thread())
        return brightness(samples)

    scripted(note)
    run(online_recipe("sd3", **QUIET), "train.epochs=1")
    assert who == {False}


def test_gradients_that_are_not_finite_are_skipped_counted_and_end_the_run(online_recipe, tmp_path, monkeypatch):
    from visalign.trainers.online import loop as online

    calls = []
    honest = online.sum_gradients

    def poisoned(parameters, accelerator):
        honest(parameters, accelerator)
        calls.append(1)
        if len(calls) >= 2:
            parameters[0].grad.fill_(float("nan"))

    monkeypatch.setattr(online, "sum_gradients", poisoned)
    message = fails(online_recipe("sd3", **{"eval": QUIET["eval"]}), "train.epochs=9", "train.patience=3")
    assert "3 updates in a row had a gradient that is not finite" in message and "step-00000003" in message
    assert [row["bad_updates"] for row in rows(tmp_path / "run")] == [0, 1, 2]
    first, last = weights(tmp_path / "run", 2), weights(tmp_path / "run", 3)
    assert all(torch.equal(first[name], last[name]) for name in first)


def test_the_self_check_finds_a_policy_that_is_not_the_one_that_sampled(online_recipe, monkeypatch):
    from visalign.trainers.online import views

    honest = views.StepView.build

    def other_guidance(self, batch, term):
        from dataclasses import replace
        return honest(self, replace(batch, guidance=replace(batch.guidance, scale=4.0)), term)

    monkeypatch.setattr(views.StepView, "build", other_guidance)
    message = fails(online_recipe("sd3"))
    assert "self-check: before the first update the ratio at sampling step" in message and "guidance" in message


def test_the_self_check_blames_dropout_and_coarse_arithmetic(online_recipe, monkeypatch):
    from visalign.trainers.online import loop as online
    from visalign.trainers.online import self_check

    monkeypatch.setattr(self_check, "TOLERANCE", dict.fromkeys(self_check.TOLERANCE, -1.0))
    monkeypatch.setattr(online.OnlineTrainer, "_collect", _then_training(online.OnlineTrainer._collect))
    assert "training mode" in fails(online_recipe("sd3"))


def _then_training(collect):
    def wrapped(self, *arguments):
        collected = collect(self, *arguments)
        self.generator.denoiser.train()
        return collected

    return wrapped


@pytest.mark.parametrize("world", [1, 2, 4])
def test_processes_share_an_epoch_in_whole_batches(world):
    from types import SimpleNamespace

    from visalign.trainers.online.collect import Collector

    def places(rank):
        collector = Collector.__new__(Collector)
        collector.config = SimpleNamespace(rollout=SimpleNamespace(batch_size=4, prompts_per_epoch=4, group_size=8))
        collector.accelerator = SimpleNamespace(num_processes=world, process_index=rank)
        return collector.places(), [collector.batch_of(place) for place in collector.places()]

    held = [places(rank) for rank in range(world)]
    assert sorted(place for mine, _ in held for place in mine) == list(range(32))
    for number in range(32 // (4 * world)):  # the union over processes of one batch is the same run of places
        together = [place for mine, batches in held for place, b in zip(mine, batches, strict=True) if b == number]
        assert sorted(together) == list(range(number * 4 * world, (number + 1) * 4 * world))


@pytest.mark.parametrize("overrides, message", [
    (["rollout.group_size=1", "rollout.batch_size=1"], "rollout.group_size 1: one sample of a prompt"),
    (["rollout.prompts_per_epoch=3", "rollout.batch_size=8"],
     "rollout.prompts_per_epoch 3 x rollout.group_size 4 = 12 samples are not a multiple of rollout.batch_size 8"),
    (["train.updates_per_epoch=3"], "2 sampling batches of 4, which cannot be divided among train.updates_per_epoch 3"),
    (["objective.name=d3po", "rollout.batch_size=2"], "rollout.batch_size 2 must be a multiple of rollout.group_size"),
    (["objective.name=d3po", "train.batch_size=1"], "train.batch_size 1 must be at least 2"),
    (["advantage.baseline=median"], "rollout.group_size 4: must be odd"),
    (["advantage.baselin=mean"], "unknown key advantage.baselin (did you mean 'baseline'"),
    (["advantage.clip=0"], "advantage: clip must be greater than 0"),
    (["advantage.gate=nothing"], "advantage.gate nothing: names no reward; the rewards are colourfulness"),
    (["rollout.sampler=ddim"], "rollout.sampler ddim is not for flow models"),
    (["rollout.sampler=ode"], "rollout.sampler ode with noise_level 0.7 and clean_steps 0 adds no noise"),
    (["rollout.noise_level=0"], "adds no noise"), (["model.lora.dropout=0.1"], "model.lora.dropout must be 0"),
    (["objective.name=draft", "reward.of=jpeg"], "reward jpeg: has no gradient"),
    (["reward.of=[]"], "set exactly one of reward.of"), (["reward.of=colour_fulness"], "did you mean 'colourfulness'"),
    (["reward.of=[{reward: tiny-reward, dimension: beauty}]"], "has no dimension beauty"),
    (["reward.of=[jpeg, jpeg]"], "are not distinct"), (["objective.name=flow_dpo"], "which is no objective"),
    (["rollout.window={size: 9}"], "rollout.window.size 9 does not fit"),
    (["rollout.same_noise=true", "rollout.sampler=ode"], "all samples of a prompt the same"),
    (["rollout.prompts=missing.txt"], "prompts missing.txt: cannot be read"),
    (["objective.clip=-1"], "clip and clip_high must be greater than 0"),
    (["rollout.grup_size=2"], "unknown key rollout.grup_size (did you mean 'group_size'"),
])
def test_mistakes_end_in_one_sentence_that_names_them(online_recipe, tmp_path, overrides, message):
    said = fails(online_recipe("sd3"), *overrides)
    assert message in said
    assert not (tmp_path / "run").exists()  # found before a model was loaded and a run begun


def test_a_diffusion_model_is_told_which_objectives_fit(online_recipe):
    assert "use one of d3po, draft, grpo, grpo_guard, raft" in fails(online_recipe("sdxl", "nft", **ODE)).replace(
        "flow_dppo, ", "")


def test_fewer_prompts_than_an_epoch_asks_for_are_sampled_more_than_once(online_recipe, tmp_path):
    run(online_recipe("sd3", **{"eval": QUIET["eval"]}), "rollout.prompts_per_epoch=6", "rollout.max_prompts=2",
        "train.epochs=1")
    row = rows(tmp_path / "run")[0]
    assert row["unique_prompts"] == 2 and row["trained_samples"] == 24


def test_changed_settings_cannot_continue_a_run(online_recipe):
    recipe = online_recipe("sd3", **{"eval": QUIET["eval"]})
    run(recipe, "train.epochs=1")
    assert "rollout.noise_level differs" in fails(recipe, "rollout.noise_level=0.5", "--resume")
