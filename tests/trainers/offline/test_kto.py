"""Diffusion-KTO through the command line a user types: single samples that are good or bad."""

import json

import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from tests.trainers.commands import UNMEASURED, fails, rows, run, weights
from visalign.cli import main
from visalign.config import DataSettings
from visalign.trainers.offline.encoded_pairs import EncodedPair
from visalign.trainers.offline.sides import mixture_of
from visalign.trainers.order import DataOrder

ALL = {"holdout": 0.0}


@pytest.fixture
def thumbs(tmp_path):
    """Four good images and two bad ones, each with its prompt."""
    lines = []
    for number in range(6):
        Image.new("RGB", (16, 16), (40 * number, 90, 9)).save(tmp_path / f"{number}.png")
        lines.append({"prompt": f"a shape {number}", "image": f"{number}.png", "label": number < 4})
    file = tmp_path / "thumbs.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return file


@pytest.mark.parametrize("model", ["sdxl", "sd3", "sd15-v"])
def test_it_learns_from_labels_and_a_stopped_run_continues_to_the_same_bits(recipe, tmp_path, thumbs, model):
    def written(name):
        return recipe(model, "diffusion_kto", name=f"{name}.yaml", eval=UNMEASURED, train={"batch_size": 4},
                      data=ALL | {"path": str(thumbs), "positive_ratio": 0.5},
                      output={"folder": str(tmp_path / name)})

    run(written("whole"))
    assert "good training samples" in (tmp_path / "whole" / "report.html").read_text()
    run(written("cut"), "train.steps=2")
    run(written("cut"), "train.steps=4", "--resume")
    a, b = weights(tmp_path / "whole", 4), weights(tmp_path / "cut", 4)
    assert all(torch.equal(a[name], b[name]) for name in a)
    trained = rows(tmp_path / "whole")
    assert trained[0]["loss"] == pytest.approx(0.5, abs=1e-4) and trained[0]["usual"] == pytest.approx(0, abs=1e-7)
    assert trained[-1]["loss"] != trained[0]["loss"] and "displaced" not in trained[0]
    assert sum(row["desirable"] for row in trained) / 4 == pytest.approx(0.5)  # two epochs of 4 and 4


def test_it_learns_which_are_good(recipe, tmp_path, thumbs):
    run(recipe("sd3", "diffusion_kto", train={"steps": 200, "batch_size": 6}, optim={"lr": 0.01},
               data=ALL | {"path": str(thumbs)}, model={"lora": {"rank": 8, "alpha": 8}}, objective={"beta": 300},
               eval=UNMEASURED, output={"checkpoint_every": 0}))
    late = rows(tmp_path / "run")[-60:]
    assert sum(row["implicit_accuracy"] for row in late) / 60 > 0.75
    assert sum(row["loss"] for row in late) / 60 < 0.45


@pytest.mark.parametrize("model", ["sd3", "wan"])
def test_pairs_are_samples_too_and_are_measured_on_held_out_ones(recipe, tmp_path, model):
    run(recipe(model, "diffusion_kto"))
    folder = tmp_path / "run"
    first, last = weights(folder, 2), weights(folder, 4)
    assert not all(torch.equal(first[name], last[name]) for name in first)
    assert "held_out/implicit_accuracy" in rows(folder, "held_out")[1]
    assert (folder / "report.html").exists() and (folder / "export").exists()


def test_pairs_that_a_run_makes_are_samples_too(recipe, tmp_path):
    feedback = {"prompts": str(tmp_path / "prompts.txt"), "samples_per_prompt": 3, "steps": 2}
    run(recipe("sd3", "diffusion_kto", data=ALL | {"path": None, "feedback": feedback}, train={"steps": 2},
               eval=UNMEASURED))
    assert (tmp_path / "run" / "pairs.parquet").exists()
    assert all(row["loss"] > 0 for row in rows(tmp_path / "run"))


def test_two_processes_share_the_usual_distance(recipe, two_processes, tmp_path, thumbs):
    from tests.programs import VISALIGN

    def written(name, batch_size):
        return recipe("sd3", "diffusion_kto", name=f"{name}.yaml", eval=UNMEASURED, optim={"lr": 0.01},
                      data=ALL | {"path": str(thumbs), "positive_ratio": 0.5, "cache": str(tmp_path / f"cache-{name}")},
                      train={"batch_size": batch_size, "steps": 6}, output={"folder": str(tmp_path / name)})

    run(written("one", 2))
    two_processes(VISALIGN, "train", written("two", 1))
    one, two = rows(tmp_path / "one"), rows(tmp_path / "two")
    assert any(row["usual"] > 0 for row in one)
    for name in ("loss", "usual", "reward"):
        assert [row[name] for row in two] == pytest.approx([row[name] for row in one], rel=1e-3, abs=1e-6)


def test_the_positive_ratio_is_kept_and_is_the_same_every_time():
    def item(number, good):
        return EncodedPair(str(number), "p", str(number), None, "", 1.0, None, None, desirable=good)

    items = [item(number, number < 30) for number in range(40)]
    data = DataSettings(positive_ratio=0.8)
    mixture = mixture_of(items, data, 3)
    order, again = (DataOrder(items, 3, mixture_of(items, data, 3)) for _ in range(2))
    visited = [order[place] for place in range(mixture.length)]
    assert visited == [again[place] for place in range(mixture.length)]
    assert sum(each.desirable for each in visited) == 0.8 * len(visited) and len(set(visited)) == 40
    assert mixture_of(items, DataSettings(), 3) is None


def test_its_samples_are_encoded_ahead(recipe, thumbs):
    file = recipe("sd3", "diffusion_kto", data=ALL | {"path": str(thumbs)}, eval=UNMEASURED)
    made = CliRunner().invoke(main, ["data", "cache", str(file)])
    assert made.exit_code == 0 and "6 pairs" in made.output, made.output
    dry = CliRunner().invoke(main, ["train", str(file), "--dry-run"])
    assert dry.exit_code == 0 and "policy on each sample, reference without gradient" in dry.output, dry.output


@pytest.mark.parametrize("overrides, words", [
    (["data.score_with=tiny-reward"], "data.score_with: compares two samples of a prompt"),
    (["data.goals={}"], "data.goals: compares two samples of a prompt"),
    (["train.batch_size=1"], "train.batch_size 1: objective diffusion_kto sees each sample against the mean"),
    (["train.one_side_at_a_time=true"], "train.one_side_at_a_time"),
    (["data.positive_ratio=1"], "data.positive_ratio"),
    (["objective.desirable_weight=0", "objective.undesirable_weight=0"], "nothing to learn"),
    (["objective.utility=bold"], "objective.utility"),
    (["objective.name=sft", "data.positive_ratio=0.5"], "data.positive_ratio: objective sft does not learn from"),
    (["objective.name=sft", "data.good_from=3"], "data.good_from: objective sft does not learn from")])
def test_bad_settings_are_refused_before_a_model_is_loaded(recipe, thumbs, monkeypatch, overrides, words):
    monkeypatch.setattr("visalign.jobs.train.load_generator", None)
    assert words in fails(recipe("sd3", "diffusion_kto", data=ALL | {"path": str(thumbs)}), *overrides)


@pytest.mark.parametrize("line, words", [
    ({"label": None}, "thumbs.jsonl line 1: 'label' is empty"), ({"label": "great"}, "line 1: 'label' is 'great'")])
def test_bad_labels_are_refused_before_a_model_is_loaded(recipe, thumbs, monkeypatch, line, words):
    monkeypatch.setattr("visalign.jobs.train.load_generator", None)
    first, *others = thumbs.read_text().splitlines()
    file = recipe("sd3", "diffusion_kto", data=ALL | {"path": str(thumbs)})
    thumbs.write_text("\n".join([json.dumps(json.loads(first) | line), *others]))
    assert words in fails(file)
    thumbs.write_text("\n".join([first, *others[:2]]))
    assert "all 3 samples are good" in fails(file)
    thumbs.write_text("\n".join(json.dumps({k: v for k, v in json.loads(each).items() if k != "label"})
                                for each in [first, *others]))
    assert "line 1: 'label' is missing" in fails(file)


def test_a_changed_label_is_changed_data(recipe, thumbs):
    file = recipe("sd3", "diffusion_kto", data=ALL | {"path": str(thumbs)}, eval=UNMEASURED, train={"steps": 1})
    run(file)
    thumbs.write_text(thumbs.read_text().replace('"label": true', '"label": false', 1))
    assert "the data changed" in fails(file, "train.steps=2", "--resume")


def test_shares_of_sources_do_not_go_with_a_positive_ratio(recipe, thumbs):
    sources = [{"path": str(thumbs), "share": 0.5}, {"path": str(thumbs), "share": 0.5}]
    file = recipe("sd3", "diffusion_kto", data=ALL | {"path": None, "sources": sources, "positive_ratio": 0.5})
    assert "data.positive_ratio: does not go with the shares of data.sources" in fails(file)
    sources[0] = {"path": str(thumbs), "prior": True}
    file = recipe("sd3", "diffusion_kto", data=ALL | {"path": None, "sources": sources[:1] + [{"path": str(thumbs)}]})
    assert "data.sources: a prior set is of samples to imitate" in fails(file)


def test_one_kind_left_after_holding_out_is_refused(recipe, thumbs):
    """Held out are the prompts that a run is measured on: here those of all bad samples."""
    file = recipe("sd3", "diffusion_kto", data=ALL | {"path": str(thumbs)},
                  eval=UNMEASURED | {"prompts": ["a shape 4", "a shape 5"]})
    assert "what is trained on: all 4 samples are good" in fails(file)
