"""How the gradients of chosen and rejected lie to each other on held-out pairs (Yuan et al. 2024), in a run."""

from dataclasses import replace

import pytest
import torch

from tests.programs import VISALIGN
from tests.trainers.commands import UNMEASURED, rows, run, weights
from visalign.evaluators.displacement import entanglement, flat_gradient
from visalign.trainers.offline.loop import ENTANGLED, FIXED_FRACTIONS, OfflineTrainer

METRICS = {"held_out/gradient_cosine", "held_out/gradient_norm_ratio", "held_out/both_fall"}


@pytest.fixture
def looked(monkeypatch):
    """Calls of `_entangled` are passed to `looked.by(trainer, items, what it found)` as well."""
    class Looked:
        by = staticmethod(lambda *given: None)

    measured = OfflineTrainer._entangled

    def noting(trainer, items):
        found = measured(trainer, items)
        Looked.by(trainer, items, found)
        return found

    monkeypatch.setattr(OfflineTrainer, "_entangled", noting)
    return Looked


@pytest.mark.parametrize("model, method", [("sd3", "flow_dpo"), ("sdxl", "diffusion_dpo")])
def test_each_side_alone_gives_the_gradients_of_both_together(recipe, tmp_path, looked, model, method):
    seen = []

    def by(trainer, items, found):
        assert len(found) == len(items) * len(FIXED_FRACTIONS) and len(items) <= ENTANGLED
        with torch.enable_grad():
            for each, prepared in zip(found, trainer._at_levels(0, items[:1]), strict=False):
                errors = trainer.errors(*prepared)
                both = [flat_gradient(side.sum(), trainer.parameters, keep_graph=True)
                        for side in (errors.chosen, errors.rejected)]
                assert each == pytest.approx(entanglement(*both), rel=1e-3, abs=1e-4)
                seen.append(each)
        assert all(p.grad is None for p in trainer.parameters) or trainer.state.step

    looked.by = by
    run(recipe(model, method, eval=UNMEASURED))
    assert len(seen) == 2 * len(FIXED_FRACTIONS), "before and after"
    for row in rows(tmp_path / "run", "held_out"):
        assert row.keys() >= METRICS and abs(row["held_out/gradient_cosine"]) < 1
        assert row["held_out/gradient_norm_ratio"] > 0 and 0 <= row["held_out/both_fall"] <= 1


def test_gradients_of_one_image_twice_are_the_same(recipe, looked):
    found = []

    def by(trainer, items, _):
        looked.by = lambda *given: found.extend(given[2])
        trainer._entangled([replace(items[0], rejected_key=items[0].chosen_key)])
        looked.by = lambda *given: None

    looked.by = by
    run(recipe("sd3", eval=UNMEASURED, train={"steps": 1}))
    assert len(found) == len(FIXED_FRACTIONS)
    for each in found:
        assert each == pytest.approx((1, 1, False))


@pytest.mark.parametrize("method, sections", [
    ("sft", {}), ("flow_dpo", {"model": {"tuning": "full"}}), ("flow_dpo", {"data": {"holdout": 0.0}})])
def test_nothing_is_compared_where_there_is_nothing_or_too_much(recipe, tmp_path, method, sections):
    run(recipe("sd3", method, **{"eval": UNMEASURED, "train": {"steps": 1}} | sections))
    assert not METRICS & rows(tmp_path / "run", "held_out")[1].keys()


@pytest.mark.parametrize("sections", [{"model": {"gradient_checkpointing": True}},
                                      {"train": {"one_side_at_a_time": True}}, {"model": {"precision": "bf16"}}])
def test_it_is_compared_however_memory_is_saved(recipe, tmp_path, sections):
    run(recipe("sd3", eval=UNMEASURED, **sections))
    assert rows(tmp_path / "run", "held_out")[1].keys() >= METRICS


def test_looking_changes_nothing_that_is_learnt(recipe, tmp_path, monkeypatch):
    options = {"model": {"lora": {"rank": 2, "alpha": 4, "dropout": 0.2}}, "eval": UNMEASURED | {"every": 2}}
    run(recipe("sd3", output={"folder": str(tmp_path / "looked")}, **options))
    monkeypatch.setattr(OfflineTrainer, "_entangled", lambda trainer, items: [])
    run(recipe("sd3", output={"folder": str(tmp_path / "blind")}, **options))
    a, b = weights(tmp_path / "looked", 4), weights(tmp_path / "blind", 4)
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_the_page_says_what_was_found(recipe, tmp_path):
    run(recipe("sd3", eval=UNMEASURED))
    row, page = rows(tmp_path / "run", "held_out")[1], (tmp_path / "run" / "report.html").read_text()
    assert len(row["held_out/reference_gap"]) == row["likelihoods"]["pairs"]
    assert "a step towards the chosen makes both less likely" in page and "own gap, chosen minus rejected: 5 %" in page
    assert f"→ {row['held_out/gradient_cosine']:.3f}" in page


def test_several_processes_leave_it_out(recipe, two_processes, tmp_path):
    two_processes(VISALIGN, "train", recipe("sd3", eval=UNMEASURED, train={"steps": 1, "batch_size": 1}))
    held = rows(tmp_path / "run", "held_out")[1]
    assert "likelihoods" in held and not METRICS & held.keys()
