"""`visalign reward card`: what it measures, what it concludes, and where it is found again."""

import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from PIL import Image

from visalign.cli import main
from visalign.media.samples import to_bytes
from visalign.reports.run import card_of
from visalign.rewards.registry import reward_folder
from visalign.storage.open_clip_models import CLIP_ASSETS


def invoke(*arguments):
    return CliRunner().invoke(main, ["reward", "card", *map(str, arguments)], catch_exceptions=False)


def coloured(level: float, light: float) -> bytes:
    pixels = np.full((24, 24, 3), 255 * light)
    pixels[..., 2] *= 1 - level
    return to_bytes(Image.fromarray(pixels.round().astype(np.uint8)))


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """`quality`: the more saturated image is better, and brighter in half of the pairs. `alignment`: at random."""
    rng, rows = np.random.default_rng(0), []
    for i in range(32):
        better, worse = coloured(0.6, 0.9 if i % 2 else 0.5), coloured(0.4, 0.5 if i % 2 else 0.9)
        turned = rng.random() < 0.5
        rows.append({"prompt": f"prompt {i}", "a": worse if turned else better, "b": better if turned else worse,
                     "quality": "b" if turned else "a", "alignment": "ab"[i // 2 % 2], "kind": "colour"})
    file = tmp_path_factory.mktemp("card") / "pairs.parquet"
    pq.write_table(pa.Table.from_pylist(rows), file)
    return file


def test_a_card_says_what_a_reward_is_for_and_what_it_is_not_for(table, tmp_path):
    out = tmp_path / "card"
    done = invoke("saturation", table, "-o", out, "--against", "contrast,colourfulness", "--attacked", 8)
    assert done.exit_code == 0, done.output
    found = json.loads((out / "card.json").read_text())
    assert found["use"] == ["to order samples by quality: 100 % [89, 100] of 32 labelled pairs are told rightly"]
    [alignment] = [each for each in found["avoid"] if each.startswith("alignment")]
    assert "not told from chance" in alignment
    assert found["sentence"] in done.output and "Do not use it for" in found["sentence"]
    brightness = found["splits"]["quality"]["brightness"]
    assert brightness["gap"][0] == 0 and sorted(brightness["pairs"]) == [16, 16]
    assert "not measured" not in done.output
    assert found["attacks"]["quality"].keys() == {"false high", "false low"} and len(found["distances"]) == 3
    page = (out / "report.html").read_text()
    assert "Card of saturation" in page and "What leads it astray" in page and "Beside other rewards" in page


def test_a_reward_that_pays_for_brightness_is_found_out(table, tmp_path):
    done = invoke("exposure", table, "-o", tmp_path / "card", "--dimensions", "quality,alignment")
    assert done.exit_code == 0, done.output
    found = json.loads((tmp_path / "card" / "card.json").read_text())
    assert any(each.startswith("quality") for each in found["avoid"]) and found["use"] == []
    split = found["splits"]["quality"]["brightness"]
    assert abs(split["gap"][0]) == 1 and split["gap"][0] == split["more"][0] - split["less"][0]
    assert "not measured: attacks on quality: reward exposure: has no gradient" in done.output
    assert "not measured: distances from other rewards: none was named" in done.output


def test_what_changes_of_nothing_turn_and_attacks_turn_is_said(table, tmp_path):
    near = [row | {side: coloured(0.5 + (0.012 if (row["quality"] == side) else 0), 0.7) for side in "ab"}
            for row in pq.read_table(table).to_pylist()]
    pq.write_table(pa.Table.from_pylist(near), tmp_path / "near.parquet")
    done = invoke("saturation", tmp_path / "near.parquet", "-o", tmp_path / "card", "--attacked", 8)
    assert done.exit_code == 0, done.output
    avoid = json.loads((tmp_path / "card" / "card.json").read_text())["avoid"]
    assert any("following its gradient" in each and "100 %" in each for each in avoid), avoid


def test_a_trained_reward_s_card_lies_with_it_and_pages_of_runs_find_it(table, tmp_path):
    folder = tmp_path / "mine"
    shutil.copytree(CLIP_ASSETS / "tiny-reward", folder)
    (folder / "card").mkdir()
    assert reward_folder(str(folder)) == folder and card_of(str(folder)) is None
    (folder / "card" / "report.html").write_text("x")
    assert card_of(str(folder)) == (folder / "card" / "report.html").resolve().as_uri()
    assert card_of(None) is None and card_of("tiny-reward") is None and card_of("saturation") is None


def test_mistakes_end_in_one_sentence(table, tmp_path):
    told = {("nothing", table): "neither a known reward",
            ("motion", table): "could not score any of 32 annotations",
            ("saturation", table, "--dimensions", "style"): "no label in any of the dimensions style",
            ("saturation", table, "--against", "nothing"): "neither a known reward"}
    for arguments, words in told.items():
        done = invoke(*arguments, "-o", tmp_path / "card")
        assert done.exit_code == 1 and words in done.output, (arguments, done.output)
        assert not (tmp_path / "card").exists()
