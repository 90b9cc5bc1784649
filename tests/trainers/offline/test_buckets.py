"""Runs on images of several shapes: each batch at its size, the same bits after a restart, faults in one sentence."""

import functools
import json
import shutil

import pytest
import torch
from PIL import Image

from tests.trainers.commands import UNMEASURED, fails, rows, run, weights
from visalign.trainers.offline.noised import Noised, sample_errors

SHAPES = [(16, 16), (32, 8), (8, 32), (10, 40)]  # width, height: of three sizes, the last two of one


@pytest.fixture
def shaped(tmp_path):
    """Sixteen pairs of prompts of their own, in images of SHAPES; the rejected ones are all square."""
    lines = []
    for number in range(16):
        for side, size in (("chosen", SHAPES[number % 4]), ("rejected", (20, 20))):
            Image.effect_noise(size, 90).convert("RGB").save(tmp_path / f"{number}-{side}.png")
        lines.append(json.dumps({"prompt": f"thing {number}", "chosen": f"{number}-chosen.png",
                                 "rejected": f"{number}-rejected.png"}))
    (tmp_path / "shaped.jsonl").write_text("\n".join(lines))
    return {"path": str(tmp_path / "shaped.jsonl"), "buckets": True, "holdout": 0.2, "caption_dropout": 0.2}


@pytest.fixture
def told(monkeypatch):
    """The shapes of the latents and the time_ids of every pass of a U-Net that is learnt from: one with gradients, of
    whole pairs."""
    from diffusers import UNet2DConditionModel

    seen, own = [], UNet2DConditionModel.forward

    @functools.wraps(own)
    def forward(self, sample, *arguments, **named):
        if torch.is_grad_enabled() and len(sample) > 1:
            seen.append((tuple(sample.shape), named["added_cond_kwargs"]["time_ids"].tolist()))
        return own(self, sample, *arguments, **named)

    monkeypatch.setattr(UNet2DConditionModel, "forward", forward)
    return seen


def test_a_run_learns_each_size_in_its_own_batches_and_continues_to_the_same_bits(recipe, shaped, told, tmp_path):
    options = {"data": shaped, "eval": UNMEASURED, "train": {"steps": 6}}
    run(recipe("sdxl", name="whole.yaml", output={"folder": str(tmp_path / "whole"), "checkpoint_every": 0}, **options))
    sizes = {shape[-2:] for shape, _ in told}
    assert len(told) == 6 and sizes <= {(8, 8), (4, 16), (16, 4)} and len(sizes) > 1
    for shape, ids in told:
        chosen, rejected = ids[:2], ids[2:]
        assert all(each[4:] == [2 * side for side in shape[-2:]] for each in ids)
        assert {tuple(each[:2]) for each in rejected} == {(20, 20)}
        assert all((each[1], each[0]) in SHAPES for each in chosen)
    cut = recipe("sdxl", name="cut.yaml", output={"folder": str(tmp_path / "cut"), "checkpoint_every": 3}, **options)
    run(cut)
    shutil.rmtree(tmp_path / "cut" / "checkpoints" / "step-00000006")
    run(cut, "--resume")
    a, b = weights(tmp_path / "whole", 6), weights(tmp_path / "cut", 6)
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert all(torch.tensor(row["loss"]).isfinite() for row in rows(tmp_path / "cut"))
    with Image.open(tmp_path / "1-chosen.png") as image:
        image.rotate(90, expand=True).save(tmp_path / "1-chosen.png")
    assert "the data changed" in fails(cut, "--resume", "train.steps=8")


def test_one_batch_is_of_the_constant_conditions_where_that_is_asked_for(recipe, shaped, told):
    run(recipe("sdxl", data=shaped | {"micro_conditions": "constant"}, eval=UNMEASURED, train={"steps": 2}))
    for shape, ids in told:
        size = [2 * side for side in shape[-2:]]
        assert ids == [[*size, 0, 0, *size]] * 4


def test_captioned_images_have_sizes_too(recipe, shaped, tmp_path):
    alone = [json.dumps({"prompt": row["prompt"], "image": row["chosen"]})
             for row in map(json.loads, (tmp_path / "shaped.jsonl").read_text().splitlines())]
    (tmp_path / "alone.jsonl").write_text("\n".join(alone))
    run(recipe("sd15", "sft", data=shaped | {"path": str(tmp_path / "alone.jsonl")}, eval=UNMEASURED,
               train={"steps": 2}))
    assert len(rows(tmp_path / "run")) == 2


@pytest.mark.parametrize("overrides, words", [
    (["data.buckets.enlarge=0.1"], ["data.buckets.enlarge 0.1", "all 16 images", "sides of 8 pixels"]),
    (["train.batch_size=64"], ["no size has enough images", "takes 64", "the most common size has 8"]),
    (["data.buckets.step=12"], ["data.buckets.step 12", "multiple of 8"]),
    (["data.buckets.min=32", "data.buckets.max=8"], ["data.buckets.max 8 is less than data.buckets.min 32"])])
def test_bad_sizes_are_one_sentence_before_a_model_is_loaded(recipe, shaped, monkeypatch, overrides, words):
    monkeypatch.setattr("visalign.jobs.train.load_generator", None)
    message = fails(recipe("sdxl", data={**shaped, "buckets": None}), "data.buckets.step=8", *overrides)
    assert all(word in message for word in words), message


def test_an_error_is_of_each_side_s_own_conditioning():
    class Told:
        def predict(self, x_t, t, conditioning):
            return x_t * 0 + conditioning["size"]

    both = Noised(torch.zeros(4, 3), torch.ones(4), torch.zeros(4, 3), ("chosen", "rejected"))
    found = sample_errors(Told(), [both], {"chosen": {"size": torch.tensor([[1.0], [2.0]])},
                                           "rejected": {"size": torch.tensor([[3.0], [4.0]])}})
    assert found["chosen"].tolist() == [1, 4] and found["rejected"].tolist() == [9, 16]
