"""Runs on data with source images: a model that takes them learns from them; another refuses them in one sentence."""

import csv

from PIL import Image

from ..trainers.commands import fails, rows, run


def with_source_column(file, sources):
    lines = list(csv.DictReader(file.open()))
    for i, line in enumerate(lines):
        line["source"] = sources[i % len(sources)]
    with file.open("w", newline="") as opened:
        writer = csv.DictWriter(opened, lines[0].keys())
        writer.writeheader()
        writer.writerows(lines)


def test_pairs_with_a_source_column_train_a_model_that_takes_images(recipe, video_pairs_file, tmp_path):
    for name in ("red", "blue"):
        Image.new("RGB", (40, 20), name).save(tmp_path / f"{name}.png")
    with_source_column(video_pairs_file, ["red.png", "blue.png"])
    data = {"dimensions": {"VQ": 1}}
    prompts = {"eval": {"prompts": None, "steps": 2, "reward": "colourfulness"}, "data": data}
    run(recipe("wan-image", **prompts))
    assert len(rows(tmp_path / "run")) == 4
    [measured] = {tuple(row["prompts"]) for row in rows(tmp_path / "run", "held_out")}
    assert all(f"@@{tmp_path}" in prompt for prompt in measured)
    elsewhere = {"output": {"folder": str(tmp_path / "words")}}
    assert "takes none" in fails(recipe("wan", name="words.yaml", **elsewhere, **prompts))
    with_source_column(video_pairs_file, ["red.png@@blue.png"])
    assert "names 2 images; image to video takes" in fails(recipe("wan-image", name="two.yaml", **prompts))
    with_source_column(video_pairs_file, [""])
    assert "names no image; image to video takes" in fails(recipe("wan-image", name="none.yaml", **prompts))
