"""`visalign evaluate RUN RUN ...`: runs of one recipe as one answer."""

import numpy as np
import pytest

from ..jobs.generations import write_folder
from ..trainers.commands import run
from .test_compare import OPTIONS, cache, invoke, results  # noqa: F401, fixtures


@pytest.fixture
def seeded(recipe, tmp_path):
    def train(seed, **sections):
        folder = tmp_path / f"seed-{seed}"
        settings = {"train": {"steps": 1, "seed": seed}, "optim": {"lr": 0.05}, "output": {"folder": str(folder)}}
        assert run(recipe(**settings | sections)).exit_code == 0
        return folder

    return train


def test_runs_of_one_recipe_are_one_answer(seeded, invoke, tmp_path):  # noqa: F811
    runs = [seeded(0), seeded(1)]
    done = invoke("evaluate", *runs, *OPTIONS, "-o", tmp_path / "out")
    assert done.exit_code == 0, done.output
    found = results(tmp_path / "out")
    assert found["models"] == ["base", "seed-0", "seed-1"]
    over = found["over_training_seeds"]["reward/contrast"]
    each = [found["verdicts"][name]["rewards"]["contrast"]["value"] for name in ("seed-0", "seed-1")]
    assert over["each"] == pytest.approx(each) and over["change"]["value"] == pytest.approx(np.mean(each))
    assert over["change"]["low"] < min(each) and max(each) < over["change"]["high"]
    assert "over 2 training seeds contrast changed by" in done.output and "deviation between runs" in done.output
    alone = invoke("evaluate", *runs, "--max-prompts", 1, "--samples-per-prompt", 2, "-r", "contrast", "--steps", 2,
                   "--guidance-scale", 1, "-o", tmp_path / "alone")
    assert alone.exit_code == 0, alone.output
    assert "contrast over training seeds: training seeds need at least 2 runs at 2 prompts" in alone.output
    assert "over_training_seeds" not in results(tmp_path / "alone")


def test_what_is_no_set_of_training_seeds_is_refused_before_anything_is_loaded(seeded, invoke, tmp_path,  # noqa: F811
                                                                               monkeypatch):
    from visalign.jobs import evaluate

    first, same, other = seeded(0), seeded(1), seeded(2, optim={"lr": 0.01})
    monkeypatch.setattr(evaluate, "compare_models", lambda *_: pytest.fail("measured"))
    file = same / "config.yaml"
    file.write_text(file.read_text().replace("seed: 1\n", "seed: 0\n", 1))
    for given, said in (((first, other), "differ in optim.lr (0.05 and 0.01)"),
                        ((first, same), "the same train.seed 0"),
                        ((first, write_folder(tmp_path / "images", 2)), "is no run"),
                        ((first, other, "--checkpoints", "all"), "--checkpoints all goes through one run"),
                        ((first, other, "--strengths", "0:1:3"), "--strengths goes through one run")):
        done = invoke("evaluate", *given, *OPTIONS, "-o", tmp_path / "out")
        assert done.exit_code != 0 and said in " ".join(done.output.split()), done.output
