"""Rewards that learn from labels of which another reward has an opinion."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from tests.trainers.reward.test_loop import invoke, recipe, table  # noqa: F401


@pytest.fixture
def learnt(recipe, table, tmp_path):  # noqa: F811
    """Train on the table with columns changed row by row; the weights, and what was said."""
    rows = pq.read_table(table).to_pylist()

    def train(name, change, *settings):
        pq.write_table(pa.Table.from_pylist([row | change(i, row) for i, row in enumerate(rows)]),
                       tmp_path / f"{name}.parquet")
        done = invoke("train", recipe(), f"data.path={tmp_path / name}.parquet", f"output.folder={tmp_path / name}",
                      "objective.margin=0.5", *settings)
        return done, tmp_path / name

    return train


def opposite(row):
    return {name: {"a": "b", "b": "a"}.get(row[name]) for name in ("alignment", "quality", "motion")}


def weights(folder):
    return load_file(folder / "reward" / "reward.safetensors")


def test_what_was_turned_round_is_learnt_as_if_it_had_been_right(learnt):
    """Every third label is wrong, and known to be; held-out labels stay as they are given."""
    wrong = {i for i in range(48) if i % 3 == 0}
    _, clean = learnt("clean", lambda i, row: {"strength": 2.0})
    done, turned = learnt("turned", lambda i, row: {"flip_chance": 0.95 if i in wrong else 0.05,
                                                    "margin": -2.0 if i in wrong else 2.0}
                          | (opposite(row) if i in wrong else {}), "data.strength.flip=0.9")
    assert done.exit_code == 0, done.output
    assert "whose flip_chance is at least 0.9, are turned round" in done.output
    assert all(torch.equal(value, weights(turned)[name]) for name, value in weights(clean).items())
    right, other = (json.loads((folder / "eval" / "eval.json").read_text())["dimensions"]["quality"]["overall"]
                    for folder in (clean, turned))
    assert right != other


def test_doubt_of_each_label_is_smoothing_by_its_own(learnt):
    same = {"flip_chance": 0.1, "margin": 2.0}
    done, soft = learnt("soft", lambda i, row: same, "data.strength.soft=true", "data.holdout=0")
    assert done.exit_code == 0, done.output
    _, smoothed = learnt("smoothed", lambda i, row: {"strength": 2.0}, "objective.label_smoothing=0.1",
                         "data.holdout=0")
    mine, theirs = weights(soft), weights(smoothed)
    assert max((mine[name] - theirs[name]).abs().max() for name in mine) < 1e-5


@pytest.mark.parametrize("settings, said", [
    (["objective.label_smoothing=0.1"], "data.strength.soft says of each label how sure it is, and "
                                        "objective.label_smoothing of all of them"),
    (["objective.shape=hinge", "objective.ties=drop"], "objective.shape hinge does not ask")])
def test_two_doubts_are_one_too_many(learnt, settings, said):
    done, _ = learnt("both", lambda i, row: {"flip_chance": 0.1, "margin": 2.0}, "data.strength.soft=true", *settings)
    assert done.exit_code == 1 and said in done.output


def test_a_chance_of_a_pair_is_doubt_of_its_label_and_of_no_other(recipe, table, tmp_path):  # noqa: F811
    rows = [row for row in pq.read_table(table).to_pylist() if row["kind"] == "quality"]
    pairs = [{"prompt": row["prompt"], "chosen": row[side], "rejected": row["b" if side == "a" else "a"], "chance": 0.8}
             for row in rows for side in [row["quality"]]]
    pq.write_table(pa.Table.from_pylist(pairs), tmp_path / "pairs.parquet")
    given = ["model.dimensions=[quality]", "model.video_only=[]", "train.steps=2", "data.holdout=0",
             f"data.path={tmp_path / 'pairs.parquet'}"]
    both = invoke("train", recipe(), *given, "objective.label_smoothing=0.1")
    assert both.exit_code == 1 and "row 1: the chance of a label says of each label how sure it is" in both.output
    done = invoke("train", recipe(), *given, f"output.folder={tmp_path / 'chance'}")
    assert done.exit_code == 0, done.output
    pq.write_table(pa.Table.from_pylist([{name: row[name] for name in row if name != "chance"} for row in pairs]),
                   tmp_path / "pairs.parquet")
    done = invoke("train", recipe(), *given, "objective.label_smoothing=0.2", f"output.folder={tmp_path / 'all'}")
    assert done.exit_code == 0, done.output
    mine, theirs = weights(tmp_path / "chance"), weights(tmp_path / "all")
    assert max((mine[name] - theirs[name]).abs().max() for name in mine) < 1e-5


def test_a_table_without_the_columns_is_named(learnt):
    done, folder = learnt("plain", lambda i, row: {}, "data.strength.flip=0.9")
    assert done.exit_code == 1 and f"{folder}.parquet row 1: has no column 'flip_chance'" in done.output
