"""`eval.keep_best`: a run ends with its best weights, says which, and continues to the same choice."""

import shutil

import numpy as np
import pytest
import scipy
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from visalign.evaluation.held_out import HeldOut
from visalign.evaluators.prompt_metrics import PromptMetrics
from visalign.evaluators.statistics import Estimate
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
    assert f"those of {unit} 2 of 3, where tiny-clip was best; not clearly better than untrained: +0.8000" in output
    page = " ".join((folder / "report.html").read_text().split())
    assert f"the weights are those of {unit} 2 of 3" in page and "chosen on these prompts and seeds" in page
    assert "are one look, at the run's end, with intervals of 95 % each" in page
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


class Saved:
    """Stands in for the file of kept weights: the steps whose weights were saved."""

    def __init__(self):
        self.steps = []

    def save(self, step):
        self.steps.append(step)


def followed(measurements, looks=None, unit="epoch"):
    """(what is kept, rows as logged, what it has saved) of measurements {step: (rewards, diversity)} of one run."""
    best = Best.__new__(Best)
    best.reward, best.unit, best.looks, best.weights = "a", unit, looks or len(measurements) - 1, Saved()
    rows = []
    for step, (rewards, diversity) in measurements.items():
        values = {"reward/a": list(rewards), "diversity/extra": list(diversity)}
        found = PromptMetrics([str(i) for i in range(len(rewards))], 2, values, dict.fromkeys(values, 1.0))
        folder = f"step-{step:08d}"
        rows.append({"step": step, "folder": folder, **found.as_dict(), **best.look(rows, step, folder, found)})
    return best, rows, best.weights.steps


def test_a_measurement_without_a_score_is_never_the_best():
    nan = float("nan")
    best, rows, _ = followed({0: ([nan], [1]), 1: ([-5.0], [1]), 2: ([nan], [1])})
    assert best.step(rows) == 1
    best, rows, _ = followed({0: ([nan], [1]), 1: ([nan], [1])})
    assert best.step(rows) == 0
    found = PromptMetrics(["0"], 2, {"reward/a": [9.0]}, {})
    assert best.look(rows, 1, "step-00000001-returned", found) == {"best_step": 0}  # the same weights once more


LEVEL = np.random.default_rng(0).normal(0, 1, 16)
NOISE = np.random.default_rng(1).normal(0, 0.02, 16)
WIDE = np.random.default_rng(2).normal(0, 1, 16)
WIDE -= WIDE.mean()
FULL = np.ones(16)


def test_what_is_kept_is_the_best_guess_and_how_sure_it_is_is_said():
    best, rows, saved = followed({0: (LEVEL, FULL), 4: (LEVEL + 0.1 + WIDE, FULL), 8: (LEVEL + 0.5 + NOISE, FULL),
                                  9: (LEVEL + 0.4, FULL)})
    assert saved == [0, 4, 8] and [row["best_step"] for row in rows] == [0, 4, 8, 8]
    assert [row.get("best_error") for row in rows] == [None, *[pytest.approx(0.05 / 3)] * 3]
    # of 15 degrees of freedom, half of 5 % / 3 on both sides
    reach = scipy.stats.t.isf(0.05 / 3 / 4, 15) * NOISE.std(ddof=1) / 4
    mean = 0.5 + NOISE.mean()
    assert best.told(rows, 9) == (
        f"those of epoch 8 of 9, where a was best; clearly better than untrained: {mean:+.4f} [{mean - reach:+.4f}, "
        f"{mean + reach:+.4f}], an interval of 95 % that counts that it is the best of 3 looks; not clearly "
        f"better than epoch 4, kept before it: {Estimate(*rows[2]['best_gain'])}")
    step = NOISE + 0.4 - WIDE  # the second look: an eighth of 5 % / 3 on both sides, of two measurements before it
    wide = scipy.stats.t.isf(0.05 / 3 / 8 / 2, 15) * step.std(ddof=1) / 4
    assert rows[2]["best_gain"] == pytest.approx([step.mean(), step.mean() - wide, step.mean() + wide])
    assert "not clearly better than untrained: +0.1000 [-" in best.told(rows[:2], 9)
    _, rows, _ = followed({0: (LEVEL, FULL), 4: (LEVEL - 1, FULL)})
    assert best.told(rows, 9) == ("those of epoch 0 of 9, where a was best; they are the untrained ones, which "
                                  "nothing later replaced")


def test_what_is_higher_within_noise_and_clearly_less_diverse_is_passed_and_told():
    best, rows, saved = followed({0: (LEVEL, FULL), 1: (LEVEL + 0.2 + NOISE, FULL),
                                  2: (LEVEL + 0.3 + WIDE, 0.7 + NOISE), 3: (LEVEL + 0.6 + NOISE, 0.6 + NOISE)})
    assert saved == [0, 1, 3] and best.step(rows) == 3  # in the end the gain is clear
    told = best.told(rows[:3], 3)
    assert told.startswith("those of epoch 1 of 3") and "; epoch 2 was higher than epoch 1 by +0." in told
    assert "which is not clear, and its diversity lower by 3" in told and told.endswith("], which is")


def test_a_run_that_goes_on_beyond_its_plan_spends_anew_and_keeps_what_it_decided():
    measurements = {i: (LEVEL + 0.1 * i + NOISE * i, FULL) for i in range(4)}
    _, rows, _ = followed(measurements, looks=2)
    assert [row.get("best_error") for row in rows] == [None, *[pytest.approx(0.025)] * 3]


def test_what_does_not_go_is_said(recipe, online_recipe):
    assert "eval.keep_best tiny-clip: the best of several" in fails(recipe(eval=KEPT | {"every": 0}))
    for write in (recipe, online_recipe):
        message = fails(write(eval=KEPT | {"keep_best": "tiny-clop"}))
        assert "eval.keep_best tiny-clop: the rewards that are measured are tiny-clip" in message
    assert "no reward is measured" in fails(recipe(eval=KEPT | {"reward": None, "also": []}))
    assert "guard.action rollback and eval.keep_best" in fails(recipe(
        eval=KEPT | {"features": "tiny-clip"}, guard={"action": "rollback"}))


def test_measurements_of_an_older_version_are_told_of_without_what_it_did_not_log():
    """Rows then had best_step alone."""
    best = Best.__new__(Best)
    best.reward, best.unit, best.looks = "r", "step", 3
    rows = [{"step": step, "folder": f"samples/step-{step}", "best_step": kept, "prompts": ["p", "q"],
             "seeds": 1, "spread": {}, "values": {"reward/r": values}} for step, kept, values in (
                 (0, 0, [0.0, 0.1]), (1, 1, [0.5, 0.4]), (2, 2, [0.9, 0.8]))]
    assert best.told(rows, 3).startswith("those of step 2 of 3, where r was best; ")
