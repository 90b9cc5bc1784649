"""The offline loop through the command line a user types: every family and method, resume, processes, faults."""

import itertools
import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from tests.programs import VISALIGN, Program
from tests.trainers.commands import ENVIRONMENT, UNMEASURED, WITHOUT_GRADIENT, fails, rows, run, weights
from visalign.storage.shards import ShardStore


@pytest.mark.parametrize("model, method", [("sd3", "flow_dpo"), ("sd3", "flow_rwr"), ("sd3", "sft"), ("sd3", "soar"),
                                           ("sdxl", "diffusion_dpo"), ("sdxl", "sft"), ("sd15", "diffusion_dpo"),
                                           ("sd15-v", "diffusion_dpo")])
def test_every_method_changes_every_trainable_weight_and_leaves_a_complete_run(recipe, tmp_path, model, method):
    run(recipe(model, method))
    folder = tmp_path / "run"
    first, last = weights(folder, 2), weights(folder, 4)
    assert {name for name in first if torch.equal(first[name], last[name])} <= WITHOUT_GRADIENT
    assert {p.name for p in folder.iterdir()} >= {"config.yaml", "metrics.jsonl", "report.html", "export", "samples"}
    assert len(rows(folder)) == 4 and len(rows(folder, "held_out")) == 2
    assert "data:image" in (folder / "report.html").read_text()
    if "dpo" in method:
        first_row = rows(folder)[0]
        assert first_row["loss"] == pytest.approx(0.693147, abs=1e-4)
        assert {"chosen_error_minus_ref", "rejected_error_minus_ref", "displaced"} <= first_row.keys()
        assert any(name.startswith("margin/q") for name in first_row)
        assert "held_out/implicit_accuracy" in rows(folder, "held_out")[1]


@pytest.mark.parametrize("sections", [
    {"model": {"tuning": "full", "attention": "math", "offload": "blocks"},
     "optim": {"ema_decay": 0.9, "fused_backward": True, "grad_clip": None}},
    {"optim": {"name": "adafactor", "lr": 0.001, "schedule": "cosine", "warmup_steps": 1},
     "train": {"gradient_accumulation": 2}},
    {"train": {"timestep_sampling": "logit_normal", "one_side_at_a_time": True},
     "data": {"caption_dropout": 0.5}, "eval": {"every": 2}},
    {"train": {"timestep_sampling": "shifted", "timestep_shift": 3},
     "data": {"score_with": "tiny-clip", "rerank": True}},
    {"model": {"gradient_checkpointing": True, "offload": "frozen", "vae_slicing": True, "vae_tiling": True},
     "output": {"trackers": ["tensorboard"]}},
    {"model": {"precision": "bf16"}, "objective": {"weighting": "derived", "label_smoothing": 0.1}},
])
def test_every_option_trains(recipe, tmp_path, sections):
    run(recipe("sd3", **{"eval": UNMEASURED} | sections))
    trained = rows(tmp_path / "run")
    assert len(trained) == 4 and all(torch.tensor(row["loss"]).isfinite() for row in trained)


def test_dpo_learns_the_preference(recipe, tmp_path):
    run(recipe("sd3", train={"steps": 200, "batch_size": 6}, optim={"lr": 0.01}, data={"holdout": 0.0},
               model={"lora": {"rank": 8, "alpha": 8}}, objective={"beta": 300}, eval=UNMEASURED,
               output={"checkpoint_every": 0}))
    late = rows(tmp_path / "run")[-60:]
    assert sum(row["implicit_accuracy"] for row in late) / len(late) > 0.75
    assert sum(row["loss"] for row in late) / len(late) < 0.6


def test_gradient_accumulation_equals_the_larger_batch(recipe, tmp_path):
    run(recipe("sd3", output={"folder": str(tmp_path / "a")}, train={"batch_size": 4}, eval=UNMEASURED))
    run(recipe("sd3", output={"folder": str(tmp_path / "b")}, train={"batch_size": 2, "gradient_accumulation": 2},
               eval=UNMEASURED))
    a, b = weights(tmp_path / "a", 4), weights(tmp_path / "b", 4)
    for name in a:
        torch.testing.assert_close(a[name], b[name], atol=2e-5, rtol=1e-3)


def test_kill_then_resume_gives_the_same_bits(recipe, tmp_path):
    options = dict(train={"steps": 40}, optim={"ema_decay": 0.9, "schedule": "cosine"}, eval=UNMEASURED,
                   model={"lora": {"rank": 2, "alpha": 4, "dropout": 0.2}})
    whole = recipe("sd3", name="whole.yaml", output={"folder": str(tmp_path / "whole")}, **options)
    run(whole)
    cut = recipe("sd3", name="cut.yaml", output={"folder": str(tmp_path / "cut")}, **options)
    process = Program(VISALIGN, "train", cut, output=tmp_path / "said")
    deadline = time.time() + 120
    while time.time() < deadline and not (tmp_path / "cut" / "checkpoints" / "step-00000006").exists():
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "cut" / "report.html").exists(), "the run ended before it could be killed"
    with (tmp_path / "cut" / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "train", "st')  # a line cut short by the kill
    run(cut, "--resume")
    a, b = weights(tmp_path / "whole", 40), weights(tmp_path / "cut", 40)
    assert all(torch.equal(a[name], b[name]) for name in a)
    exports = [load_file(tmp_path / name / "export" / "pytorch_lora_weights.safetensors") for name in ("whole", "cut")]
    assert all(torch.equal(exports[0][name], exports[1][name]) for name in exports[0])
    assert [row["step"] for row in rows(tmp_path / "cut")] == list(range(1, 41))


@pytest.mark.parametrize("launcher", ["fork", pytest.param("torchrun", marks=pytest.mark.slow)])
def test_two_processes_equal_one_with_twice_the_batch(recipe, two_processes, tmp_path, launcher):
    one = recipe("sd3", name="one.yaml", output={"folder": str(tmp_path / "one")}, train={"batch_size": 2},
                 eval=UNMEASURED)
    run(one)
    two = recipe("sd3", name="two.yaml", output={"folder": str(tmp_path / "two")}, train={"batch_size": 1},
                 eval={"every": 2}, data={"cache": str(tmp_path / "cache2")})
    if launcher == "torchrun":  # as a user starts it
        subprocess.run([sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2",
                        "-m", "visalign", "train", str(two)], check=True, env=ENVIRONMENT, capture_output=True)
    else:
        two_processes(VISALIGN, "train", two)
    assert rows(tmp_path / "two", "start")[0]["processes"] == 2
    a, b = weights(tmp_path / "one", 4), weights(tmp_path / "two", 4)
    for name in a:
        torch.testing.assert_close(a[name], b[name], atol=2e-5, rtol=1e-3)
    for mine, theirs in zip(rows(tmp_path / "one"), rows(tmp_path / "two"), strict=True):
        assert mine["loss"] == pytest.approx(theirs["loss"], rel=1e-3)


def test_two_processes_visit_several_sources_and_captions_as_one_does(recipe, two_processes, tmp_path):
    for name, many in (("mine", 3), ("prior", 2)):
        (tmp_path / name).mkdir()
        for number in range(many):
            Image.new("RGB", (16, 16), (90 * number, 40, 9)).save(tmp_path / name / f"{number}.png")
            text = f"{name}, red {number}, round\na {name} thing, {number}, old"
            (tmp_path / name / f"{number}.txt").write_text(text)
    sources = [{"path": str(tmp_path / "mine"), "repeats": 2},
               {"path": str(tmp_path / "prior"), "share": 0.4, "loss_weight": 0.25}]
    captions = {"wildcards": True, "shuffle_tags": True, "keep_tags": 1, "tag_dropout": 0.5, "variants": 3}

    def written(name, batch_size):
        data = {"path": None, "sources": sources, "captions": captions, "caption_dropout": 0.3, "holdout": 0.0,
                "cache": str(tmp_path / f"cache-{name}")}
        return recipe("sd3", "sft", name=f"{name}.yaml", data=data, eval=UNMEASURED | {"prompts": ["a red fruit"]},
                      train={"batch_size": batch_size, "steps": 6}, output={"folder": str(tmp_path / name)})

    run(written("one", 2))
    two_processes(VISALIGN, "train", written("two", 1))
    assert rows(tmp_path / "two", "start")[0]["processes"] == 2
    assert [row["loss"] for row in rows(tmp_path / "two")] == pytest.approx(
        [row["loss"] for row in rows(tmp_path / "one")], rel=1e-3)
    a, b = weights(tmp_path / "one", 6), weights(tmp_path / "two", 6)
    for name in a:
        torch.testing.assert_close(a[name], b[name], atol=2e-5, rtol=1e-3)


def test_feedback_pairs_are_made_once_and_kept(recipe, tmp_path):
    feedback = {"prompts": str(tmp_path / "prompts.txt"), "samples_per_prompt": 3, "steps": 2}
    file = recipe("sd3", data={"path": None, "feedback": feedback, "holdout": 0.0}, train={"steps": 2})
    run(file)
    made = (tmp_path / "run" / "pairs.parquet").read_bytes()
    run(file, "train.steps=4", "--resume")
    assert (tmp_path / "run" / "pairs.parquet").read_bytes() == made
    assert [row["step"] for row in rows(tmp_path / "run")] == [1, 2, 3, 4]


def test_a_used_folder_needs_resume_and_the_same_settings(recipe, tmp_path):
    file = recipe("sd3", eval=UNMEASURED)
    run(file)
    assert "--resume" in fails(file)
    assert "optim.lr" in fails(file, "optim.lr=0.5", "--resume")


def test_loss_that_is_not_finite_stops_with_rows_and_last_checkpoint(recipe, tmp_path, monkeypatch):
    from visalign.trainers import base

    build = base.build_optimizer  # a recipe's learning rate is at most 1
    monkeypatch.setattr(base, "build_optimizer", lambda settings, parameters: build(
        settings.model_copy(update={"lr": 1e30}), parameters))
    message = fails(recipe("sd3", output={"checkpoint_every": 1}))
    assert "not finite" in message and "step-00000001" in message
    saved = json.loads((tmp_path / "run" / "failure-rank0.json").read_text())
    assert saved["step"] == 2 and saved["rows"][0]["prompt"].startswith("a ")


@pytest.mark.parametrize("base, method, words", [
    ("sd3", "diffusion_dpo", ["diffusion", "flow", "flow_dpo"]),
    ("sdxl", "flow_dpo", ["flow", "diffusion_dpo"]),
])
def test_objective_of_the_other_process_is_refused_before_loading(recipe, base, method, words):
    message = fails(recipe(base, method))
    for word in words:
        assert word in message


@pytest.mark.parametrize("override, words", [
    ("data.path=nowhere.jsonl", ["nowhere.jsonl", "no such"]),
    ("eval.reward=tiny-clop", ["tiny-clop", "tiny-clip"]),
    ("eval.prompts=nowhere.txt", ["nowhere.txt"]),
    ("optim.name=adamw8bit", ["bitsandbytes", "pip install"]),
    ("output.trackers=[wandb]", ["wandb", "visalign[trackers]"]),
    ("model.attention=xformers", ["xformers", "visalign[xformers]"]),
    ("model.lora.targets=[nothing]", ["nothing"]),
    ("data.holdout=0.999", ["data.holdout", "nothing to train on"]),
    ("output.folder=/proc/visalign", ["/proc/visalign", "cannot be written"]),
    ("data.cache=/proc/visalign", ["data.cache", "/proc/visalign"]),
])
def test_bad_input_is_one_sentence(recipe, override, words):
    message = fails(recipe("sd3"), override)
    for word in words:
        assert word in message


def test_reward_weighting_without_rewards_says_where_to_get_them(recipe, pairs_file):
    lines = [json.loads(line) for line in pairs_file.read_text().splitlines()]
    pairs_file.write_text("\n".join(json.dumps({k: row[k] for k in ("prompt", "chosen", "rejected")})
                                    for row in lines))
    assert "data.score_with" in fails(recipe("sd3", "flow_rwr"))


def test_a_broken_checkpoint_is_named_set_aside_and_an_older_one_continues_to_the_same_weights(recipe, tmp_path):
    file = recipe("sd3", eval=UNMEASURED)
    run(file)
    kept = tmp_path / "run" / "checkpoints"
    whole = weights(tmp_path / "run", 4)
    (kept / "step-00000004" / "optimizer.pt").write_bytes(b"broken")
    said = run(file, "--resume").output
    assert "step-00000004" in said and "step-00000002" in said
    assert all(torch.equal(value, weights(tmp_path / "run", 4)[name]) for name, value in whole.items())
    assert [row["step"] for row in rows(tmp_path / "run")] == [1, 2, 3, 4]
    for folder in kept.glob("step-*"):
        (folder / "trainable.safetensors").unlink()
    assert "no older one is intact" in fails(file, "--resume", "train.steps=6")


def test_what_may_not_change_at_a_resume_is_said_before_training(recipe, tmp_path):
    file = recipe("sd3", train={"steps": 1})
    run(file)
    message = fails(file, "--resume", "train.steps=3", "eval.samples_per_prompt=3", "guard.max_prompts=1")
    assert "eval.samples_per_prompt was 2 and is 3" in message and "guard.max_prompts" in message


def test_soft_labels_reach_the_loss_and_certain_ones_change_no_bit(recipe, pairs_file, tmp_path):
    lines = [json.loads(line) for line in pairs_file.read_text().splitlines()]

    def ended(name, chance, **options):
        pairs_file.write_text("\n".join(json.dumps(row | chance) for row in lines))
        run(recipe("sd3", output={"folder": str(tmp_path / name)}, eval=UNMEASURED, train={"steps": 2}, **options))
        return weights(tmp_path / name, 2)

    plain, certain, soft = ended("plain", {}), ended("certain", {"chance": 1.0}), ended("soft", {"chance": 0.8})
    smoothed = ended("smoothed", {}, objective={"label_smoothing": 0.2})
    assert all(torch.equal(plain[name], certain[name]) for name in plain)
    assert not all(torch.equal(plain[name], soft[name]) for name in plain)
    for name in soft:
        torch.testing.assert_close(soft[name], smoothed[name], atol=1e-6, rtol=1e-4)
    message = fails(recipe("sd3", output={"folder": str(tmp_path / "soft")}, eval=UNMEASURED, train={"steps": 2}),
                    "--resume")
    assert "the data changed" in message


def test_slow_reading_does_not_change_what_is_learnt(recipe, tmp_path, monkeypatch):
    options = {"train": {"gradient_accumulation": 2}, "data": {"caption_dropout": 0.3}, "eval": UNMEASURED}
    run(recipe("sd3", output={"folder": str(tmp_path / "quick")}, **options))
    read, seconds = ShardStore.get, itertools.cycle([0.05, 0.0, 0.01])
    monkeypatch.setattr(ShardStore, "get", lambda store, key: time.sleep(next(seconds)) or read(store, key))
    run(recipe("sd3", output={"folder": str(tmp_path / "slow")}, **options))
    quick, slow = weights(tmp_path / "quick", 4), weights(tmp_path / "slow", 4)
    assert all(torch.equal(quick[name], slow[name]) for name in quick)
