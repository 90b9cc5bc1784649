"""`data.augment` from end to end: what is learnt and reported, what continues, and what it refuses."""

import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from click.testing import CliRunner
from PIL import Image
from safetensors.torch import load_file

from visalign.cli import main
from visalign.config import RewardConfig
from visalign.config.load import load_config
from visalign.data.annotations import read_annotations
from visalign.data.augment import counts_of
from visalign.jobs.augmentation import held_out_pairs, training_pairs
from visalign.jobs.reward_train import annotations_of
from visalign.media.samples import to_bytes

COLOURS = {"red": (220, 40, 40), "blue": (40, 60, 220), "green": (40, 180, 70), "yellow": (240, 210, 40)}


def invoke(*arguments):
    return CliRunner().invoke(main, ["reward", *map(str, arguments)])


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """Squares of the colour of their prompt, against those of another one."""
    rng, rows = np.random.default_rng(0), []
    for i in range(32):
        name, other = list(COLOURS)[i % 4], list(COLOURS)[(i + 1 + i // 4 % 3) % 4]
        sides = [to_bytes(Image.fromarray((rng.uniform(0.8, 1, (32, 32, 1)) * COLOURS[each]).astype(np.uint8)))
                 for each in (name, other)]
        rows.append({"prompt": f"a {name} {['square', 'tile', 'patch', 'field'][i // 4 % 4]}", "a": sides[i % 2],
                     "b": sides[1 - i % 2], "alignment": "ab"[i % 2]})
    file = tmp_path_factory.mktemp("squares") / "annotations.parquet"
    pq.write_table(pa.Table.from_pylist(rows), file)
    return file


@pytest.fixture
def recipe(tmp_path, table):
    def write(name, augment, **sections):
        content = {
            "model": {"source": "tiny-clip", "dimensions": ["alignment", "quality"], "video_only": [], "layers": [1],
                      "width": 16, "members": 2, "attention_heads": 2, "frames": 4},
            "data": {"path": str(table), "holdout": 0.3, "augment": augment},
            "objective": {"name": "preference", "ties": "soft"}, "optim": {"lr": 0.003},
            "train": {"steps": 4, "batch_size": 6, "precision": "fp32", "device": "cpu"},
            "output": {"folder": str(tmp_path / name), "checkpoint_every": 2, "keep_checkpoints": 0, "trackers": []}}
        for section, values in sections.items():
            content[section] = content[section] | values
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(content))
        return tmp_path / f"{name}.yaml"

    return write


MADE = {"causal": ["colour", "hole"], "neutral": ["prompt", "reencode"], "share": 0.8}


def weights(folder):
    return load_file(folder / "reward" / "reward.safetensors")


def test_made_pairs_are_learnt_counted_and_reported_and_a_stopped_run_continues(recipe, tmp_path, table):
    file = recipe("run", MADE)
    done = invoke("train", file)
    assert done.exit_code == 0, done.output
    config = load_config(file, (), RewardConfig)
    items, held_out = annotations_of(config, config.model.dimensions)
    pairs = training_pairs(config, config.model, items, held_out)
    reported = held_out_pairs(config, config.model, held_out)
    assert {each.kind for each in pairs} == {"causal colour", "causal hole", "neutral prompt", "neutral reencode"}
    assert not {item.prompt for item in held_out} & {side.prompt for each in pairs for side in (each.a, each.b)}
    assert {each.a.media for each in reported} <= {side.media for item in held_out for side in (item.a, item.b)}
    counts = counts_of(pairs)
    first = f"causal colour {counts['causal colour']}"
    assert f"data.augment: {len(pairs)} pairs beside {len(items)} annotations: {first}, " in done.output
    saved = json.loads((tmp_path / "run" / "reward" / "reward.json").read_text())["trained on"]
    assert saved["annotations"] == len(items) and saved["augmented"] == counts
    found = json.loads((tmp_path / "run" / "eval" / "eval.json").read_text())
    told = {(each["dimension"], each["kind"]): each["pairs"] for each in found["augmented"]}
    assert told == {(dimension, kind): count for kind, count in counts_of(reported).items()
                    for dimension in next(each.outcome for each in reported if each.kind == kind)}
    assert ("quality", "causal hole") in told and ("quality", "neutral reencode") in told
    assert list(found["dimensions"]) == ["alignment"]  # the held-out labels are told of as before
    assert found["dimensions"]["alignment"]["overall"]["pairs"] == len(held_out)
    page = (tmp_path / "run" / "eval" / "report.html").read_text()
    assert "Pairs made of the annotations" in page and "<td>causal hole" in page
    steps = tmp_path / "run" / "checkpoints"
    whole = load_file(steps / "step-00000004" / "trainable.safetensors")
    shutil.rmtree(steps / "step-00000004")
    assert invoke("train", file, "--resume").exit_code == 0
    again = load_file(steps / "step-00000004" / "trainable.safetensors")
    assert all(torch.equal(whole[name], again[name]) for name in whole)

    done = invoke("eval", tmp_path / "run", table, "--dimensions", "alignment", "--augment", file, "-o",
                  tmp_path / "eval", "--no-edits")
    assert done.exit_code == 0, done.output
    assert "quality: causal hole, " in done.output
    told = json.loads((tmp_path / "eval" / "eval.json").read_text())["augmented"]
    everything = held_out_pairs(config, config.model, read_annotations(str(table), ("alignment",)))
    assert sum(each["pairs"] for each in told if each["kind"] == "causal hole") == counts_of(everything)["causal hole"]


def test_two_processes_learn_made_pairs_as_one_does_with_twice_the_batch(recipe, tmp_path, two_processes):
    one = recipe("one", MADE, train={"steps": 3}, data={"holdout": 0.0})
    two = recipe("two", MADE, train={"steps": 3, "batch_size": 3}, data={"holdout": 0.0})
    assert invoke("train", one).exit_code == 0
    two_processes("import sys\nfrom visalign.cli import main\nmain(sys.argv[1:])\n", "reward", "train", two)
    a, b = weights(tmp_path / "one"), weights(tmp_path / "two")
    assert max((a[name] - b[name]).abs().max().item() for name in a) < 1e-3


def test_only_pairs_that_the_first_reward_is_not_sure_of(recipe, tmp_path):
    assert invoke("train", recipe("first", None, objective={"ties": "drop"}, train={"steps": 30})).exit_code == 0
    file = recipe("next", MADE | {"keep_below": 0.6})
    content = yaml.safe_load(file.read_text())
    file.write_text(yaml.safe_dump(content | {"model": {"source": str(tmp_path / "first")}}))
    done = invoke("train", file)
    assert done.exit_code == 0, done.output
    keeps = json.loads((tmp_path / "next" / "augmented.json").read_text())
    assert 0 < sum(keeps) < len(keeps)
    assert f"data.augment: {sum(keeps)} pairs beside" in done.output
    assert f"data.augment.keep_below leaves {len(keeps) - sum(keeps)} others out" in done.output
    kept = json.loads((tmp_path / "next" / "reward" / "reward.json").read_text())["trained on"]["augmented"]
    assert sum(kept.values()) == sum(keeps)
    everything = recipe("all", MADE)
    content = yaml.safe_load(everything.read_text())
    everything.write_text(yaml.safe_dump(content | {"model": {"source": str(tmp_path / "first")}}))
    assert invoke("train", everything, "train.steps=1").exit_code == 0
    made = json.loads((tmp_path / "all" / "reward" / "reward.json").read_text())["trained on"]["augmented"]
    assert sum(made.values()) == len(keeps)
    # a reward that never saw a tie takes a re-encoded square for what it was, and other prompts for reasons
    share = {kind: kept.get(kind, 0) / count for kind, count in made.items()}
    assert share["neutral reencode"] < share["neutral prompt"]
    assert not (tmp_path / "all" / "augmented.json").exists()


@pytest.mark.parametrize("augment, sections, words", [
    ({"causal": ["blurr"]}, {}, "'colour', 'object', 'count', 'blur', 'jpeg', 'hole', 'noise', 'stretch', 'shuffle'"),
    ({"neutral": ["zoom"]}, {}, "'prompt', 'reencode', 'crop' or 'resize'"),
    ({}, {}, "data.augment: names no change"),
    ({"causal": ["blur", "blur"]}, {}, "data.augment.causal names a change twice"),
    ({"causal": ["blur"], "objects": [["cat", "dog"]]}, {}, "data.augment.objects is for data.augment.causal object"),
    ({"causal": ["blur"], "share": 0}, {}, "data.augment.share is 0: it must be greater than 0"),
    ({"neutral": ["crop"]}, {"objective": {"ties": "drop"}}, "makes ties, which objective.ties drop leaves out; use"),
    ({"causal": ["blur"], "quality": "looks"}, {}, "is labelled in looks, which is not in model.dimensions"),
    ({"causal": ["blur"], "keep_below": 0.9}, {}, "model.source tiny-clip is no trained reward"),
    ({"causal": ["count"]}, {}, "training annotations spells a number, two to ten"),
    ({"causal": ["freeze"]}, {"model": {"dimensions": ["alignment", "motion"]}}, "annotations has a video that moves"),
    ({"causal": ["blur"]}, {"model": {"ideal_points": {"prototypes": 2}}}, "pairs that are nobody's taste"),
    ({"causal": ["colour"]}, {"model": {"dimensions": ["alignment"], "general": {"blocks": 1}},
                              "objective": {"name": "general"}}, "compares one sample under two prompts"),
])
def test_mistakes_end_in_one_sentence(recipe, tmp_path, augment, sections, words):
    done = invoke("train", recipe("run", augment, **sections))
    assert done.exit_code == 1 and words in done.output and done.output.startswith("visalign: "), done.output
    assert not (tmp_path / "run" / "reward").exists()


def test_eval_says_where_a_recipe_makes_no_pairs(recipe, tmp_path, table):
    done = invoke("eval", "tiny-clip", table, "--augment", recipe("none", None), "-o", tmp_path / "eval")
    assert done.exit_code == 1 and "its data.augment says nothing of pairs to make" in done.output
    done = invoke("eval", "tiny-clip", table, "--augment", tmp_path / "none.yaml", "--many", "-o", tmp_path / "eval")
    assert done.exit_code == 1 and "--many has single samples" in done.output


def test_several_sources_are_learnt_from_together(recipe, tmp_path, table):
    rows = pq.read_table(table).to_pylist()
    more = [{"prompt": row["prompt"], "chosen": row["a"], "rejected": row["b"]} for row in rows[:5]]
    pq.write_table(pa.Table.from_pylist(more), tmp_path / "more.parquet")
    file = recipe("both", None, data={"holdout": 0.0}, train={"steps": 1})
    done = invoke("train", file, f"data.path=[{table}, {tmp_path / 'more.parquet'}]")
    assert done.exit_code == 0, done.output
    assert json.loads((tmp_path / "both" / "reward" / "reward.json").read_text())["trained on"]["annotations"] == 37
    done = invoke("train", file, f"data.path=[{table}, {table}]", f"output.folder={tmp_path / 'x'}")
    assert done.exit_code == 1 and "data.path names a source twice" in done.output
