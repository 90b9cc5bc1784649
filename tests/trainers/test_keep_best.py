"""`eval.keep_best`: a run ends with its best weights, says which, and continues to the same choice."""

import shutil

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from visalign.evaluation.held_out import HeldOut
from visalign.trainers.best import Best

from .commands import fails, rows, run, weights

KEPT = {"every": 1, "keep_best": "tiny-clip", "reward": "tiny-clip", "also": [], "features": None, "max_prompts": 1,
        "samples_per_prompt": 1}


@pytest.fixture
def scripted(monkeypatch):
    """Replaces the held-out rewards by {step: mean}."""
    real = HeldOut.look

    def install(script: dict[int, float]):
        def look(self, generator, label):
            found, samples = real(self, generator, label)
            found.values["reward/tiny-clip"][:] = [script[int(label.removeprefix("samples, step "))]]
            return found, samples

        monkeypatch.setattr(HeldOut, "look", look)

    return install


def trained(folder):
    return load_file(folder / "export" / "pytorch_lora_weights.safetensors")


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.values(), b.values(), strict=True))


def kept(folder):
    file = folder / "best" / "best.safetensors"
    with safe_open(file, "pt") as opened:
        return opened.metadata()["step"], load_file(file)


def short(request, kind, tmp_path, folder, last, **more):
    write = request.getfixturevalue(kind)
    length = {"steps": last} if kind == "recipe" else {"epochs": last}
    sections = {"eval": KEPT, "train": length, "output": {"folder": str(tmp_path / folder), "checkpoint_every": 1,
                                                          "keep_checkpoints": 0}}
    return write(name=f"{folder}.yaml", **{name: value | more.get(name, {}) for name, value in sections.items()})


@pytest.mark.parametrize("kind", ["recipe", "online_recipe"])
def test_a_run_ends_with_the_weights_of_its_best_measurement(kind, request, tmp_path, scripted):
    scripted({0: 0.1, 1: 0.2, 2: 0.9, 3: 0.9})
    output = run(short(request, kind, tmp_path, "run", 3)).output
    folder = tmp_path / "run"
    held = rows(folder, "held_out")
    assert [(row["folder"], row["best_step"]) for row in held] == [
        ("step-00000000", 0), ("step-00000001", 1), ("step-00000002", 2), ("step-00000003", 2),
        ("step-00000003-returned", 2)]
    step, best = kept(folder)
    assert step == "2" and same(best, weights(folder, 2)) and not same(best, weights(folder, 3))
    unit = "step" if kind == "recipe" else "epoch"
    assert f"those of {unit} 2 of 3, where tiny-clip was best" in output
    assert f"the weights are those of {unit} 2 of 3" in (folder / "report.html").read_text()
    assert (folder / "samples" / "step-00000003-returned" / "grid.png").exists()
    run(short(request, kind, tmp_path, "two", 2, eval={"keep_best": None}))
    assert same(trained(folder), trained(tmp_path / "two"))  # what a run of two steps exports


@pytest.mark.parametrize("kind", ["recipe", "online_recipe"])
def test_a_run_that_was_cut_keeps_the_same(kind, request, tmp_path, scripted):
    scripted({0: 0.1, 1: 0.8, 2: 0.5, 3: 0.6})
    run(short(request, kind, tmp_path, "whole", 3))
    file = short(request, kind, tmp_path, "cut", 3)
    run(file)
    for step in (2, 3):
        shutil.rmtree(tmp_path / "cut" / "checkpoints" / f"step-{step:08d}")
    shutil.rmtree(tmp_path / "cut" / "export")
    run(file, "--resume")
    assert kept(tmp_path / "whole")[0] == kept(tmp_path / "cut")[0] == "1"
    assert same(trained(tmp_path / "whole"), trained(tmp_path / "cut"))
    assert same(weights(tmp_path / "whole", 3), weights(tmp_path / "cut", 3))
    assert [row["best_step"] for row in rows(tmp_path / "cut", "held_out")] == [0, 1, 1, 1, 1]
    run(file, "--resume")  # nothing is left to do
    assert same(trained(tmp_path / "whole"), trained(tmp_path / "cut"))


def test_the_last_weights_where_they_are_the_best_and_the_first_where_nothing_helped(request, tmp_path, scripted):
    scripted({0: 0.1, 1: 0.8, 2: 0.9})
    output = run(short(request, "recipe", tmp_path, "run", 2)).output
    assert "those of step 2 of 2" in output and len(rows(tmp_path / "run", "held_out")) == 3
    scripted({0: 0.9, 1: 0.8, 2: 0.1})
    run(short(request, "recipe", tmp_path, "none", 2))
    step, start = kept(tmp_path / "none")
    assert step == "0" and not any(value.any() for name, value in start.items() if "lora_B" in name)
    assert rows(tmp_path / "none", "held_out")[-1]["folder"] == "step-00000002-returned"


def test_a_broken_file_of_kept_weights_is_named(request, tmp_path, scripted):
    scripted({0: 0.9, 1: 0.1})
    file = short(request, "recipe", tmp_path, "run", 1)
    run(file)
    (tmp_path / "run" / "best" / "best.safetensors").write_bytes(b"none")
    assert "best.safetensors: cannot be read" in fails(file, "--resume")


def test_a_measurement_without_a_score_is_never_the_best():
    def row(step, value, folder="step"):
        return {"step": step, "folder": folder, "values": {"reward/a": [value]}}

    best = Best.__new__(Best)
    best.metric = "reward/a"
    nan = float("nan")
    assert best.step([row(0, nan), row(1, -5.0), row(2, nan)]) == 1 and best.step([row(0, nan), row(1, nan)]) == 0
    assert best.step([row(0, 1.0), row(1, 1.0), row(2, 2.0, "step-returned")]) == 0


def test_what_does_not_go_is_said(recipe, online_recipe):
    assert "eval.keep_best tiny-clip: the best of several" in fails(recipe(eval=KEPT | {"every": 0}))
    for write in (recipe, online_recipe):
        message = fails(write(eval=KEPT | {"keep_best": "tiny-clop"}))
        assert "eval.keep_best tiny-clop: the rewards that are measured are tiny-clip" in message
    assert "no reward is measured" in fails(recipe(eval=KEPT | {"reward": None, "also": []}))
    assert "guard.action rollback and eval.keep_best" in fails(recipe(
        eval=KEPT | {"features": "tiny-clip"}, guard={"action": "rollback"}))
