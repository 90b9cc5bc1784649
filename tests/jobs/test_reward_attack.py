"""`visalign reward attack` from end to end: what turns, what is written, and what it refuses."""

import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from click.testing import CliRunner
from PIL import Image, ImageFilter

from visalign.cli import main
from visalign.data.annotations import read_annotations
from visalign.data.embedded_images import EMOJI
from visalign.jobs import reward_attack as module
from visalign.media.samples import to_bytes
from visalign.rewards import load_reward
from visalign.rewards.rules import Saturation


def invoke(*arguments):
    return CliRunner().invoke(main, ["reward", "attack", *map(str, arguments)], catch_exceptions=False)


@pytest.fixture
def table(tmp_path):
    """Pairs in which the more saturated image is better, by little and by much; and a tie."""
    rows = []
    for i in range(6):
        pale = np.full((32, 32, 3), 120) + np.array([1, 0, -1])
        strong = pale + np.array([2 if i < 3 else 90, 0, 0])
        sides = [to_bytes(Image.fromarray(each.astype(np.uint8))) for each in (strong, pale)]
        rows.append({"prompt": f"prompt {i}", "a": sides[i % 2], "b": sides[1 - i % 2], "quality": "ab"[i % 2]})
    rows.append({"prompt": "tie", "a": sides[0], "b": sides[1], "quality": "tie"})
    file = tmp_path / "pairs.parquet"
    pq.write_table(pa.Table.from_pylist(rows), file)
    return file


def test_near_pairs_turn_and_far_ones_do_not(table, tmp_path):
    out = tmp_path / "out"
    done = invoke("saturation", table, "--dimension", "quality", "-o", out)
    assert done.exit_code == 0, done.output
    assert "6 of 6 pairs are ordered as labelled; 6 of them, changed in pixels:" in done.output
    found = json.loads((out / "attack.json").read_text())
    assert {kind: each["success"]["value"] for kind, each in found["kinds"].items()} == {"false high": 0.5,
                                                                                         "false low": 0.5}
    assert found["skipped"] == 1
    near = [each for each in found["images"] if each["turned"]]
    assert {each["prompt"] for each in near} == {"prompt 0", "prompt 1", "prompt 2"}
    learnt = read_annotations(str(out / "pairs.parquet"), ("quality",))
    assert len(learnt) == 6 and {each.kind for each in learnt} == {"false high", "false low"}
    reward = load_reward("saturation")
    for each in learnt:  # the files themselves lead it astray
        a, b = (reward.score([side.sample("", 1)]).values[0, 0] for side in (each.a, each.b))
        assert each.outcome == {"quality": 1.0} and a < b
    for each in found["images"]:  # a saturation is (high - low) / high, and both may move by 4
        assert abs(each["after"] - each["before"]) < 8.1 / 117
    assert "<h2>False low</h2>" in (out / "report.html").read_text()


def test_a_slope_that_is_not_finite_and_a_model_of_videos_end_in_one_sentence(table, tmp_path, monkeypatch):
    monkeypatch.setattr(Saturation, "score_pixels",
                        lambda self, pixels, prompts: (pixels * torch.nan).flatten(1)[:, :1])
    done = invoke("saturation", table, "--dimension", "quality", "-o", tmp_path / "a")
    assert done.exit_code == 1 and "reward saturation: the gradient of the reward is not finite at" in done.output
    done = invoke("saturation", table, "--dimension", "quality", "--model", "tiny-wan", "-o", tmp_path / "b")
    assert done.exit_code == 1 and "model: makes videos, and images are attacked" in done.output


def test_pairs_of_an_earlier_attack_are_not_taken_for_this_one_s(table, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "pairs.parquet").write_bytes(b"old")
    assert invoke("saturation", table, "--dimension", "quality", "--check", "saturation", "-o",
                  tmp_path / "out").exit_code == 0
    assert not (tmp_path / "out" / "pairs.parquet").exists()


def test_what_the_check_also_sees_is_undone(table, tmp_path):
    plain = invoke("saturation", table, "--dimension", "quality", "-o", tmp_path / "a")
    same = invoke("saturation", table, "--dimension", "quality", "--check", "saturation", "-o", tmp_path / "b")
    assert plain.exit_code == same.exit_code == 0
    assert "3 more undone by the check" in same.output and "no pair was turned" in same.output
    assert not (tmp_path / "b" / "pairs.parquet").exists() and (tmp_path / "b" / "report.html").exists()


def test_a_set_of_preferences_stays_one(table, tmp_path):
    rows = [{"prompt": row["prompt"], "chosen": row["a"], "rejected": row["b"]} for row in pq.read_table(
        table).to_pylist() if row["quality"] == "a"]
    file = tmp_path / "preferences.parquet"
    pq.write_table(pa.Table.from_pylist(rows), file)
    assert invoke("saturation", file, "-o", tmp_path / "out").exit_code == 0
    made = pq.read_table(tmp_path / "out" / "pairs.parquet")
    assert {"prompt", "chosen", "rejected"} <= set(made.column_names) and made.num_rows == 4
    assert len(read_annotations(str(tmp_path / "out" / "pairs.parquet"), ("alignment",))) == 4


@pytest.mark.parametrize("reward, steps", [("saturation", 3), ("sharpness", 1)])
def test_in_latents_a_reward_needs_no_gradient(reward, steps, tmp_path):
    rows = []
    for i in range(2):
        flat = np.full((64, 64, 3), 120)
        sharp = flat + 40 * (np.indices((64, 64)).sum(0) // 8 % 2)[..., None] * np.array([1, 0, -1])
        rows.append({"prompt": f"a red ball {i}", "chosen": to_bytes(Image.fromarray(sharp.astype(np.uint8))),
                     "rejected": to_bytes(Image.fromarray(flat.astype(np.uint8)))})
    file = tmp_path / "pairs.parquet"
    pq.write_table(pa.Table.from_pylist(rows), file)
    done = invoke(reward, file, "--model", "tiny-sd3", "--steps", steps, "-o", tmp_path / "out")
    assert done.exit_code == 0, done.output
    found = json.loads((tmp_path / "out" / "attack.json").read_text())
    assert found["attacker"] == "latents"
    gains = [(each["after"] - each["before"]) * module.ATTACKS[each["kind"]] for each in found["images"]]
    assert sum(gains) > 0 and len(gains) == 4


def test_mistakes_end_in_one_sentence(table, tmp_path):
    told = {
        ("sharpness", table, "--dimension", "quality"): "has no gradient with respect to the image",
        ("motion", table, "--dimension", "quality"): "scores no images",
        ("tiny-reward", table, "--dimension", "nothing"): "tiny-reward: has no dimension nothing",
        ("saturation", table, "--dimension", "quality", "--model", "nowhere/at-all"): "nowhere/at-all",
    }
    for arguments, words in told.items():
        done = invoke(*arguments, "-o", tmp_path / "out")
        assert done.exit_code == 1 and words in done.output, (arguments, done.output)
        assert not (tmp_path / "out").exists()
    rows = pq.read_table(table).to_pylist()
    for row in rows:
        row["quality"] = {"a": "b", "b": "a"}.get(row["quality"], "tie")
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "other.parquet")
    done = invoke("saturation", tmp_path / "other.parquet", "--dimension", "quality", "-o", tmp_path / "out")
    assert done.exit_code == 1 and "orders none of the 6 pairs as they are labelled" in done.output
    pq.write_table(pa.Table.from_pylist([row | {"quality": "tie"} for row in rows]), tmp_path / "ties.parquet")
    done = invoke("saturation", tmp_path / "ties.parquet", "--dimension", "quality", "-o", tmp_path / "out")
    assert done.exit_code == 1 and "none of its 7 annotations has two images and a winner in quality" in done.output


def test_what_an_attack_found_is_learnt_from_beside_the_data_and_attacked_again(tmp_path):
    """Drawings against blurred ones, on the embedded reward: the whole way, a step long."""
    rows = []
    for prompt, drawing in drawings(6):
        sides = [to_bytes(drawing), to_bytes(drawing.filter(ImageFilter.GaussianBlur(0.8)))]
        rows.append({"prompt": prompt, "a": sides[0], "b": sides[1], "quality": "a", "alignment": "tie"})
    table, attack, run = tmp_path / "pairs.parquet", tmp_path / "attack", tmp_path / "run"
    pq.write_table(pa.Table.from_pylist(rows), table)
    strong = ("--dimension", "quality", "--eps", 12, "--steps", 6)
    done = invoke("tiny-reward", table, *strong, "-o", attack)
    assert done.exit_code == 0, done.output
    turned = pq.read_table(attack / "pairs.parquet").num_rows
    (tmp_path / "again.yaml").write_text(yaml.safe_dump({
        "model": {"source": "tiny-reward"}, "data": {"path": "first.parquet", "holdout": 0.0},
        "objective": {"name": "preference", "ties": "rao_kupper"},
        "train": {"steps": 1, "batch_size": 4, "device": "cpu"}, "output": {"folder": str(run), "trackers": []}}))
    sources = f"data.path=[{table}, {attack / 'pairs.parquet'}]"
    done = CliRunner().invoke(main, ["reward", "train", str(tmp_path / "again.yaml"), sources], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    saved = json.loads((run / "reward" / "reward.json").read_text())
    assert saved["trained on"]["annotations"] == len(rows) + turned > len(rows)
    assert saved["started from"] == "tiny-reward"
    done = invoke(run, table, *strong, "-o", tmp_path / "second")
    assert done.exit_code == 0, done.output
    before, after = (json.loads((folder / "attack.json").read_text()) for folder in (attack, tmp_path / "second"))
    assert after["pairs"] == before["pairs"] == len(rows) and after["kinds"] != before["kinds"]


def drawings(count):
    """(name, drawing) of some embedded drawings."""
    for row in pq.read_table(EMOJI).slice(0, count).to_pylist():
        yield row["name"], Image.open(io.BytesIO(row["image"])).convert("RGB")
