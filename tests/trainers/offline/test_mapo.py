"""MaPO through the command line a user types: no reference is asked, and a killed run continues to the same bits."""

import pytest
import torch

from tests.trainers.commands import UNMEASURED, fails, rows, run, weights
from visalign.generators.base import Generator


@pytest.mark.parametrize("model", ["sdxl", "sd3"])
def test_it_learns_from_pairs_without_a_reference_and_continues_to_the_same_bits(recipe, tmp_path, monkeypatch, model):
    monkeypatch.setattr(Generator, "reference", None)
    options = {"eval": UNMEASURED}
    run(recipe(model, "mapo", output={"folder": str(tmp_path / "whole")}, **options))
    cut = recipe(model, "mapo", output={"folder": str(tmp_path / "cut")}, **options)
    run(cut, "train.steps=2")
    run(cut, "train.steps=4", "--resume")
    a, b = weights(tmp_path / "whole", 4), weights(tmp_path / "cut", 4)
    assert all(torch.equal(a[name], b[name]) for name in a)
    first = rows(tmp_path / "whole")[0]
    assert first["loss"] > first["chosen_error"] and "margin" in first
    assert "displaced" not in first
    assert "held_out/implicit_accuracy" in rows(tmp_path / "whole", "held_out")[1]


def test_numbers_out_of_range_are_refused(recipe):
    assert "objective.sharpness" in fails(recipe("sdxl", "mapo"), "objective.sharpness=0")
