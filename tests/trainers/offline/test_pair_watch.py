"""The guard asks offline runs about their held-out pairs: measured when due, kept, and disturbing nothing."""

import pytest
import torch

from tests.trainers.commands import fails, rows, run, weights
from visalign.config.load import build_objective, load_config
from visalign.evaluators.pair_watch import PairSuspicion
from visalign.trainers.offline.pair_watch import PairWatch, every_steps, mean_over_levels


def test_measuring_costs_one_percent_of_the_passes(recipe):
    config = load_config(recipe(guard={"action": "warn"}))
    objective = build_objective(config.objective)
    # a step: 2 pairs of 2 sides, 3 + 1 passes each: 16; a measurement of 4 pairs: 2 levels, 2 sides, 2 passes: 32
    assert every_steps(config, objective, 4) == 200 and every_steps(config, objective, 4, world=4) == 50


def test_levels_are_averaged_pair_by_pair():
    assert mean_over_levels([torch.tensor([1.0, 2.0]), torch.tensor([3.0, 5.0])]) == [2.0, 3.5]


@pytest.fixture
def often(monkeypatch):
    """Held-out pairs are measured at every step."""
    monkeypatch.setattr("visalign.trainers.offline.pair_watch.every_steps", lambda *given: 1)


def watched(recipe, folder, **guard):
    return recipe(guard={"action": "warn", "every": 4, "max_prompts": 1, "samples_per_prompt": 2, "start_sets": 1,
                         "watch_pairs": 2} | guard, data={"holdout": 0.5}, output={"folder": str(folder)})


def test_pairs_are_measured_from_the_start_and_disturb_nothing(recipe, tmp_path, often):
    for name, pairs in (("with", 2), ("without", 0)):
        assert run(watched(recipe, tmp_path / name, watch_pairs=pairs)).exit_code == 0
    kept = rows(tmp_path / "with", "watch")
    assert [row["step"] for row in kept] == [0, 1, 2, 3, 4] and rows(tmp_path / "without", "watch") == []
    assert all(len(row["chosen"]) == len(row["rejected"]) > 0 for row in kept)
    assert kept[0]["chosen"] != kept[-1]["chosen"] and min(kept[-1]["chosen"]) > 0
    for name, value in weights(tmp_path / "with").items():
        assert torch.equal(value, weights(tmp_path / "without")[name])


def test_a_suspicion_makes_the_guard_look_at_samples(recipe, tmp_path, often, monkeypatch):
    asked = []

    def suspicion(watch, limits):
        asked.append(watch.step)
        return PairSuspicion(0.2, None, 2, watch.step == 2, False)

    monkeypatch.setattr(PairWatch, "suspicion", suspicion)
    file = watched(recipe, tmp_path / "run")
    output = run(file).output
    assert "guard, step 2: looks before it is due, since the error on the chosen samples of 2 held-out pairs" in output
    looks = rows(tmp_path / "run", "guard")
    assert [row["step"] for row in looks] == [0, 2, 4] and asked == [1, 2, 3]
    assert looks[1]["error"] == pytest.approx(0.5 * 0.05 / 4 / 3)
    assert looks[1]["suspicion"].startswith("the error on")


def test_without_held_out_pairs_it_is_refused_before_a_model_is_loaded(recipe, monkeypatch):
    monkeypatch.setattr("visalign.jobs.train.load_generator", lambda *args: pytest.fail("it was loaded"))
    message = fails(recipe(guard={"action": "warn", "watch_pairs": 4}, data={"holdout": 0.0}))
    assert "guard.watch_pairs: no pair is held out that could be watched" in message
