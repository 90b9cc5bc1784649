"""`--oracle`: mean labels from a few labels and all scores, as they are told and written, and what is refused."""

import csv
import json
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from visalign.errors import UserError
from visalign.evaluation.oracle_labels import read_oracle
from visalign.evaluators.calibration import RewardCalibration

from .test_compare import cache, invoke, results  # noqa: F401, fixtures

PROMPTS, SEEDS = 12, 4


def colourful(p, k, shift):
    """How saturated a sample is, in [0, 1]; spread over the prompts and seeds."""
    return min(1.0, shift + 0.4 * p / (PROMPTS - 1) + 0.3 * k / (SEEDS - 1))


def write_squares(folder, shift):
    folder.mkdir()
    lines = []
    for p in range(PROMPTS):
        for k in range(SEEDS):
            grey = round(255 * (1 - colourful(p, k, shift)))
            Image.new("RGB", (32, 32), (255, grey, grey)).save(folder / f"{p}-{k}.png")
            lines.append(json.dumps({"prompt": f"a red square {p}", "image": f"{p}-{k}.png", "seed": k}))
    (folder / "samples.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def write_labels(file, rows, column="label"):
    with open(file, "w", newline="") as text:
        writer = csv.DictWriter(text, ["prompt", "image", column])
        writer.writeheader()
        writer.writerows(rows)
    return file


def labels_of(folder, shift, seeds, label=None):
    """Labels of some seeds: 1 for the more colourful half, unless `label` says otherwise."""
    label = label or (lambda value: float(value > 0.35))
    return [{"prompt": f"a red square {p}", "image": folder / f"{p}-{k}.png", "label": label(colourful(p, k, shift))}
            for p in range(PROMPTS) for k in seeds]


def by_reward(found):
    return {each["reward"]: each for each in found["rewards"]}


@pytest.fixture
def folders(tmp_path):
    return write_squares(tmp_path / "base", 0.0), write_squares(tmp_path / "more", 0.15)


def test_levels_gains_and_raw_means_are_told_and_written(invoke, folders, tmp_path):  # noqa: F811
    base, more = folders
    rows = labels_of(base, 0.0, (0, 2)) + labels_of(more, 0.15, (1, 3))
    rows.append({"prompt": "a red square 0", "image": base / "0-1.png", "label": ""})  # not labelled
    table = write_labels(tmp_path / "labels.csv", rows)
    out = tmp_path / "out"
    done = invoke("compare", f"base={base}", f"more={more}", "-r", "saturation", "--oracle", table, "-o", out)
    assert done.exit_code == 0, done.output
    assert f"mean label, of {table}, 0 to 1, by saturation and 48 labelled samples" in done.output
    assert "more than the base; the reward's own mean" in done.output
    found = results(out)["oracle"]
    assert found["given"] == 48 and found["elsewhere"] == 0 and found["range"] == [0, 1]
    levels = by_reward(found)["saturation"]["levels"]
    every = {name: np.mean([colourful(p, k, shift) > 0.35 for p in range(PROMPTS) for k in range(SEEDS)])
             for name, shift in (("base", 0.0), ("more", 0.15))}
    for name, level in levels.items():  # a label is a step in the score, so few labels tell all of them
        estimate = level["level"]["estimate"]
        assert estimate["value"] == pytest.approx(every[name], abs=0.03)
        assert estimate["low"] < every[name] < estimate["high"] and estimate["high"] - estimate["low"] < 0.6
        assert level["raw"] == results(out)["figures"][name]["reward/saturation"]
    assert levels["base"]["gain"] is None
    assert levels["more"]["gain"]["estimate"]["value"] == pytest.approx(
        levels["more"]["level"]["estimate"]["value"] - levels["base"]["level"]["estimate"]["value"])
    rows = {(row["model"], row["metric"]) for row in pq.read_table(out / "results.parquet").to_pylist()}
    assert {("base", "calibrated/saturation"), ("more", "calibrated gain/saturation")} <= rows
    page = (out / "report.html").read_text()
    assert "Mean label, from 48 labelled samples" in page and "by saturation, 48 labelled samples" in page
    assert "labelled samples and the curve through them" in page


def test_the_numbers_are_those_of_the_calibration(invoke, folders, tmp_path):  # noqa: F811
    """A sample with two labels counts once, with their mean; one of another place is scored for its label."""
    base, more = folders
    shutil.copytree(more, tmp_path / "elsewhere")
    rows = labels_of(base, 0.0, (0, 1, 2, 3))[:-2] + labels_of(tmp_path / "elsewhere", 0.15, (3,))
    for twice in (0.0, 1.0):
        rows.append({"prompt": "a red square 0", "image": base / "0-0.png", "label": twice})  # it has the label 0
    table = write_labels(tmp_path / "labels.csv", rows)
    done = invoke("evaluate", base, "-r", "saturation", "--oracle", table, "-o", tmp_path / "out")
    assert done.exit_code == 0, done.output
    found = results(tmp_path / "out")["oracle"]
    assert found["given"] == 58 and found["elsewhere"] == 12
    unique = {(row["prompt"], str(row["image"])): row["label"] for row in rows[:-2]}
    unique["a red square 0", str(base / "0-0.png")] = 1 / 3
    scores = [np.asarray(Image.open(image)).astype(float) for _, image in unique]
    scores = [1 - pixels[0, 0, 1] / 255 for pixels in scores]  # saturation of a pure red with some white
    known = RewardCalibration(scores, list(unique.values()), [prompt for prompt, _ in unique])
    mine = [1 - round(255 * (1 - colourful(p, k, 0))) / 255 for p in range(PROMPTS) for k in range(SEEDS)]
    expected = known.mean(mine, np.repeat([f"a red square {p}" for p in range(PROMPTS)], SEEDS))
    told = by_reward(found)["saturation"]["levels"]["base"]["level"]
    assert list(told["estimate"].values()) == pytest.approx(list(expected.estimate), abs=1e-5)
    assert told["calibration"] == pytest.approx(expected.calibration, abs=1e-5)


def test_labels_of_a_random_part_correct_each_model_by_its_own(invoke, folders, tmp_path):  # noqa: F811
    """Nothing of the second model is good, though the reward likes it better: the curve alone would not say so."""
    base, more = folders
    rows = labels_of(base, 0.0, (0, 2)) + labels_of(more, 0.15, (1, 3), lambda value: 0.0)
    given = ["-r", "saturation", "--oracle", write_labels(tmp_path / "labels.csv", rows)]
    both = f"base={base}", f"more={more}"
    assert invoke("compare", *both, *given, "-o", tmp_path / "plain").exit_code == 0
    done = invoke("compare", *both, *given, "--oracle-random", "-o", tmp_path / "out")
    assert done.exit_code == 0, done.output
    levels, plain = (by_reward(results(tmp_path / name)["oracle"])["saturation"]["levels"] for name in ("out", "plain"))
    good = np.mean([row["label"] for row in rows[:24]])
    assert levels["more"]["level"]["estimate"]["value"] == pytest.approx(0, abs=0.1)
    assert levels["base"]["level"]["estimate"]["value"] == pytest.approx(good, abs=0.1)
    assert levels["more"]["gain"]["estimate"]["high"] < 0
    assert plain["more"]["level"]["estimate"]["value"] > 0.15 and plain["more"]["gain"]["estimate"]["high"] > 0
    few = write_labels(tmp_path / "few.csv", rows[:24] + rows[24:27])
    done = invoke("compare", *both, "-r", "saturation", "--oracle", few, "--oracle-random", "-o", tmp_path / "few")
    assert done.exit_code == 0 and "no level, since its own samples have 3 labels" in done.output


def test_what_cannot_be_told_is_said_in_one_sentence_and_the_rest_stands(invoke, folders, tmp_path):  # noqa: F811
    base = folders[0]
    far = write_squares(tmp_path / "far", 0.3)
    table = write_labels(tmp_path / "labels.csv", labels_of(base, 0.0, (0, 1, 2, 3), lambda value: 1 + 4 * value))
    out = tmp_path / "out"
    done = invoke("compare", f"base={base}", f"far={far}", "-r", "saturation,exposure", "--oracle", table,
                  "--oracle-range", "1:5", "-o", out)
    assert done.exit_code == 0, done.output
    found = by_reward(results(out)["oracle"])
    far_level = found["saturation"]["levels"]["far"]
    assert far_level["level"] is None and far_level["gain"] is None and far_level["raw"]["value"] > 0.6
    assert "of the scores lie outside 0 to 0.698" in far_level["refused"]
    assert "no level, since" in done.output and "by which its rank may stand" in done.output
    assert found["saturation"]["levels"]["base"]["level"]["estimate"]["value"] == pytest.approx(1 + 4 * 0.35, abs=0.02)
    turned = write_labels(tmp_path / "turned.csv", labels_of(base, 0.0, (0, 1, 2, 3), lambda value: 1 - value))
    done = invoke("evaluate", base, "-r", "saturation", "--oracle", turned, "-o", tmp_path / "turned")
    assert done.exit_code == 0 and "labels do not rise with the scores anywhere: the reward is inverted" in done.output
    assert "None: labels do not rise" in (tmp_path / "turned" / "report.html").read_text()


def test_few_labels_are_told_to_be_few(invoke, folders, tmp_path):  # noqa: F811
    base = folders[0]
    rows = [row for row in labels_of(base, 0.0, (0, 3)) if row["image"].name in {"0-0.png", "11-3.png", "5-0.png",
                                                                               "5-3.png", "8-0.png"}]
    table = write_labels(tmp_path / "labels.csv", rows)
    done = invoke("evaluate", base, "-r", "saturation", "--oracle", table, "-o", tmp_path / "out")
    assert done.exit_code == 0, done.output
    assert "fewer than 10 labelled samples: take the intervals as rough ones" in done.output


@pytest.mark.parametrize(("change", "options", "said"), [
    (lambda rows: rows[:3], (), "holds 3 labels in 'label', and a calibration needs at least 4"),
    (lambda rows: rows[:4], (), "all labels in 'label' are of one prompt"),
    (lambda rows: [row | {"label": 4} for row in rows], (), "'label' is 4 (allowed: 0 to 1; --oracle-range LOW:HIGH"),
    (lambda rows: [row | {"label": "fine"} for row in rows], (), "'label' is 'fine', not a number"),
    (lambda rows: [row | {"label": ""} for row in rows], (), "no row has a label in label"),
    (lambda rows: rows, ("--oracle-label", "lable"), "no row has a label in lable (did you mean 'label'?)"),
    (lambda rows: [row | {"image": "lost.png"} for row in rows], (), "which does not exist"),
    (lambda rows: rows, ("--oracle-range", "1:1"), "must be LOW:HIGH"),
    (lambda rows: rows, ("-r", ""), "name a reward with --rewards"),
])
def test_mistakes_end_before_anything_is_measured(invoke, folders, tmp_path, monkeypatch, change, options,  # noqa: F811
                                                  said):
    from visalign.jobs import evaluate as job

    monkeypatch.setattr(job, "compare_models", None)
    table = write_labels(tmp_path / "labels.csv", change(labels_of(folders[0], 0.0, (0, 1, 2, 3))))
    done = invoke("evaluate", folders[0], "--oracle", table, "-o", tmp_path / "out", *(options or ("-r", "saturation")))
    assert done.exit_code in (1, 2) and said in " ".join(done.output.split()), done.output
    assert not (tmp_path / "out").exists()


def votes_of(base, more, chance):
    """Every prompt's samples of one seed against each other, in either order; the more colourful one wins by a coin of
    this chance."""
    rng, rows = np.random.default_rng(0), []
    for p in range(PROMPTS):
        for k in range(SEEDS):
            won = rng.random() < chance
            files = [base / f"{p}-{k}.png", more / f"{p}-{k}.png"]
            turned = rng.random() < 0.5
            rows.append({"prompt": f"a red square {p}", **dict(zip(("path_A", "path_B"), files[::-1 if turned else 1],
                                                                  strict=True)),
                         "Overall": "A" if won == turned else "B"})
    return rows


def write_votes(file, rows):
    with open(file, "w", newline="") as text:
        writer = csv.DictWriter(text, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return file


def test_votes_give_the_share_won_against_the_base(invoke, folders, tmp_path):  # noqa: F811
    """The reward itself says that the more colourful samples win always; 48 votes, that they win about 7 of 10."""
    base, more = folders
    rows = votes_of(base, more, 0.7)
    table = write_votes(tmp_path / "comparisons.csv", rows)
    out = tmp_path / "out"
    done = invoke("compare", f"base={base}", f"more={more}", f"same={base}", "-r", "saturation", "--oracle", table,
                  "--oracle-label", "Overall", "-o", out)
    assert done.exit_code == 0, done.output
    about = f"share of Overall won against base, of {table}, 0 to 1, by saturation and "
    assert f"{about}48 votes of more" in done.output
    assert f"{about}0 votes of same: none, since a calibration needs at least 4 of them" in done.output
    found = results(out)["oracle"]
    assert found["of_votes"] and [each["models"] for each in found["rewards"]] == [["more"], ["same"]]
    assert found["given"] == 48 and found["elsewhere"] == 0
    won = np.mean([("more" in str(row["path_A"].parent.name)) == (row["Overall"] == "A") for row in rows])
    level = found["rewards"][0]["levels"]["more"]
    estimate = level["level"]["estimate"]  # each pair of samples has one vote: the mean of the curve is their mean
    assert estimate["value"] == pytest.approx(won) and estimate["low"] < 0.7 < estimate["high"] < 1
    assert level["raw"]["value"] == 1 and level["gain"] is None and "the reward's own share 1.000" in done.output
    table = {(row["model"], row["metric"]) for row in pq.read_table(out / "results.parquet").to_pylist()}
    assert ("more", "calibrated win rate against base/saturation") in table
    page = (out / "report.html").read_text()
    assert "Shares won against base, from 48 votes" in page and "more, by saturation, 48 votes" in page


def test_votes_say_nothing_of_another_model_and_nothing_alone(invoke, folders, tmp_path):  # noqa: F811
    base, more = folders
    far = write_squares(tmp_path / "far", 0.3)
    table = write_votes(tmp_path / "comparisons.csv", votes_of(base, more, 0.8))
    given = "-r", "saturation", "--oracle", table, "--oracle-label", "Overall"
    done = invoke("compare", f"base={base}", f"far={far}", *given, "-o", tmp_path / "far-out")
    assert done.exit_code == 0 and "0 votes of far: none" in done.output, done.output  # they are of another model
    assert results(tmp_path / "far-out")["oracle"]["elsewhere"] == 48
    alone = invoke("evaluate", base, *given, "-o", tmp_path / "alone")
    assert alone.exit_code == 1 and "holds comparisons, which say what share a model wins" in alone.output
    scaled = invoke("compare", f"base={base}", f"more={more}", *given, "--oracle-range", "1:5", "-o", tmp_path / "s")
    assert scaled.exit_code == 1 and "comparisons, which have no scale" in scaled.output
    drawn = invoke("compare", f"base={base}", f"more={more}", *given, "--oracle-random", "-o", tmp_path / "r")
    assert drawn.exit_code == 1 and "leave --oracle-random out" in drawn.output
    few = write_votes(tmp_path / "few.csv", votes_of(base, more, 0.8)[3:6])
    done = invoke("compare", f"base={base}", f"more={more}", "-r", "saturation", "--oracle", few, "--oracle-label",
                  "Overall", "-o", tmp_path / "few-out")
    assert done.exit_code == 1 and "holds 3 votes in 'Overall', and a calibration needs at least 4" in done.output


def test_chosen_and_rejected_answers_are_votes(tmp_path):
    file = tmp_path / "pairs.jsonl"
    file.write_text("".join(json.dumps({"prompt": f"Why {i}?", "chosen": f"Because of {i}.", "rejected": "No."}) + "\n"
                            for i in range(4)))
    read = read_oracle(str(file), "label", 0, 1)
    assert read.of_votes and read.count == 4 and len({key for keys in read.keys for key in keys}) == 8
    assert read.elsewhere(set(read.keys[0])) == (3, {}) and [prompt for (prompt, _), _ in read.keys] == [
        f"Why {i}?" for i in range(4)]


def test_strengths_refuse_labels(invoke, tmp_path):  # noqa: F811
    done = invoke("evaluate", tmp_path, "--strengths", "0:1:3", "--oracle", "labels.csv")
    assert done.exit_code == 1 and "--oracle is for models as they are" in done.output


def test_texts_and_ratings_beside_comparisons_are_labels_as_well(folders, tmp_path):
    base = folders[0]
    (tmp_path / "answers.jsonl").write_text("".join(json.dumps(
        {"prompt": f"Why {i}?", "answer": f"Because of {i}.", "kindness": i}) + "\n" for i in range(4)))
    read = read_oracle(str(tmp_path / "answers.jsonl"), "kindness", 0, 3)
    assert [each.labels["kindness"] for each in read.rated] == [0, 1, 2, 3] and read.count == 4
    (tmp_path / "rated.jsonl").write_text("".join(json.dumps(
        {"prompt": f"a red square {i}", "path_A": str(base / f"{i}-0.png"), "path_B": str(base / f"{i}-1.png"),
         "quality": "A", "quality_a": 5, "quality_b": "" if i else 2}) + "\n" for i in range(4)))
    read = read_oracle(str(tmp_path / "rated.jsonl"), "quality", 1, 5)
    assert [each.labels["quality"] for each in read.rated] == [5, 2, 5, 5, 5]
    with pytest.raises(UserError, match="names no file in any of"):
        (tmp_path / "odd.jsonl").write_text('{"prompt": "a", "label": 1}\n')
        read_oracle(str(tmp_path / "odd.jsonl"), "label", 0, 1)
