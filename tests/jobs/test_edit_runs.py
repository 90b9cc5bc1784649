"""Runs on data with source images: a model that edits learns from them; another refuses them in one sentence."""

import json

import pytest
from PIL import Image

from ..trainers.commands import fails, rows, run


@pytest.fixture
def edits(pairs_file, tmp_path):
    """Gives the pairs these source images in turn, and a table of the same prompts without pairs."""
    for name in ("red", "blue"):
        Image.new("RGB", (40, 20), name).save(tmp_path / f"{name}-source.png")

    def write(*sources):
        lines = [json.loads(line) for line in pairs_file.read_text().splitlines()]
        for i, line in enumerate(lines):
            line["source"] = sources[i % len(sources)]
        pairs_file.write_text("\n".join(map(json.dumps, lines)))
        (tmp_path / "edits.jsonl").write_text("\n".join(
            json.dumps({"prompt": line["prompt"], "image": line["source"], "target_caption": line["prompt"]})
            for line in lines))

    write("red-source.png", "blue-source.png")
    return write


def test_pairs_with_a_source_column_train_a_model_that_edits(recipe, edits, tmp_path):
    measured = {"eval": {"prompts": None, "steps": 2, "reward": "source_change"}}
    run(recipe("flux_kontext", **measured))
    assert len(rows(tmp_path / "run")) == 4
    [prompts] = {tuple(row["prompts"]) for row in rows(tmp_path / "run", "held_out")}
    assert all(f"@@{tmp_path}" in prompt for prompt in prompts)
    assert 'class="source"' in (tmp_path / "run" / "report.html").read_text()
    elsewhere = {"output": {"folder": str(tmp_path / "words")}}
    assert "takes none" in fails(recipe("sd3", name="words.yaml", **elsewhere, **measured))
    edits("red-source.png@@blue-source.png")
    assert "names 2 images; an edit takes" in fails(recipe("flux_kontext", name="two.yaml", **measured))
    edits("")
    assert "names no image; an edit takes" in fails(recipe("flux_kontext", name="none.yaml", **measured))


def test_grpo_on_edits_is_paid_for_the_change_and_for_what_is_kept(online_recipe, edits, tmp_path):
    direction = {"kind": "clip_direction", "source": "tiny-clip"}
    prompts = f"edit:{tmp_path / 'edits.jsonl'}"
    sections = {"rollout": {"prompts": prompts}, "eval": {"prompts": prompts, "reward": direction,
                                                          "also": ["source_change"]},
                "reward": {"models": [{"reward": direction}, {"reward": "background_kept", "weight": 0.5}]}}
    run(online_recipe("flux_kontext", **sections))
    trained = rows(tmp_path / "run")
    assert len(trained) == 3 and trained[0]["ratio"] == pytest.approx(1, abs=1e-5)
    wrong = sections | {"rollout": {"prompts": str(tmp_path / "train.txt")}}
    assert "names no image; an edit takes" in fails(online_recipe("flux_kontext", name="wrong.yaml", **wrong))
    plain = {"reward": {"models": [{"reward": "background_kept"}]}, "output": {"folder": str(tmp_path / "plain")}}
    assert "compares results with their source images" in fails(online_recipe("sd3", name="plain.yaml", **plain))
