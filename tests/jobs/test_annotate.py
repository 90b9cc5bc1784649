"""`visalign reward annotate`: numbers worked out by hand, and tables that training reads."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from PIL import Image

from visalign.cli import main
from visalign.config import DataSettings
from visalign.data.annotations import read_annotations
from visalign.data.preferences import read_pairs
from visalign.media.samples import Sample
from visalign.rewards import load_reward
from visalign.rewards.strength import strength_of


def invoke(*arguments):
    return CliRunner().invoke(main, ["reward", "annotate", *map(str, arguments)])


@pytest.fixture
def table(tmp_path):
    """Rows about a bright and a dark image; `exposure` and `contrast` know them apart."""
    for name, level in (("bright", 250), ("grey", 128)):
        Image.new("RGB", (32, 32), (level,) * 3).save(tmp_path / f"{name}.png")

    def write(*rows, name="in.jsonl"):
        (tmp_path / name).write_text("\n".join(json.dumps({"prompt": "p", **row}) for row in rows))
        return tmp_path / name

    return write


def test_strength_of_four_members_is_the_worked_out_number():
    found = strength_of(np.array([[1, 2, -0.5, 0.5], [-1, -2, 0.5, -0.5], [4, 6, 5, 5]]), most=3.0)
    assert found.margin == pytest.approx([0.75, -0.75, 5])
    assert found.margin_std[:2] == pytest.approx([0.901388] * 2, abs=1e-6)
    assert found.strength == pytest.approx([0.75, 0, 3])
    assert found.flip_chance[:2] == pytest.approx([0.347036, 0.652964], abs=1e-6)  # mean of s(-1), s(-2), s(.5), s(-.5)


def test_comparisons_keep_their_columns_and_gain_the_reward_s(table, tmp_path):
    data = table({"path_A": "grey.png", "path_B": "bright.png", "quality": "a", "note": "x", "user": "ann"},
                 {"path_A": "grey.png", "path_B": "bright.png", "quality": "b", "note": "y"},
                 {"path_A": "grey.png", "path_B": "bright.png", "quality": "tie", "note": "z", "strength": 0.5})
    (tmp_path / "elsewhere").mkdir()
    result = invoke("exposure", data, "-o", tmp_path / "elsewhere" / "out.parquet", "--most", 0.1)
    assert result.exit_code == 0, result.output
    assert "3 rows" in result.output and "2 scored" in result.output and "disagrees with 1 labels" in result.output
    rows = pq.read_table(tmp_path / "elsewhere" / "out.parquet").to_pylist()
    assert [row["note"] for row in rows] == ["x", "y", "z"]
    assert rows[0]["margin"] == -rows[1]["margin"] > 0 and rows[0]["flip_chance"] < 0.5 < rows[1]["flip_chance"]
    assert [row["strength"] for row in rows] == [min(0.1, rows[0]["margin"]), 0.0, 0.5]
    assert [row["source"] for row in rows] == ["exposure", "exposure", None]
    assert "ann" not in str(rows)
    read = read_annotations(str(tmp_path / "elsewhere" / "out.parquet"), ("quality",))
    before = read_annotations(str(data), ("quality",))
    assert [item.outcome for item in read] == [item.outcome for item in before]
    assert [item.user for item in read] == [item.user for item in before] and read[0].user
    assert [item.strength for item in read] == [row["strength"] for row in rows]
    assert read[0].a.sample("x", 1).image.getpixel((0, 0)) == (128,) * 3


def test_preference_pairs_stay_pairs_that_train_reads(pairs_file, tmp_path):
    result = invoke("contrast", pairs_file, "-o", tmp_path / "out.parquet")
    assert result.exit_code == 0, result.output
    before = list(read_pairs(DataSettings(path=str(pairs_file))))
    after = list(read_pairs(DataSettings(path=str(tmp_path / "out.parquet"))))
    assert [pair.prompt for pair in after] == [pair.prompt for pair in before]
    assert [pair.chosen_reward for pair in after] == [pair.chosen_reward for pair in before]
    assert [pair.media()[0].tobytes() for pair in after] == [pair.media()[0].tobytes() for pair in before]


def test_an_ensemble_s_members_are_asked_one_by_one(table, tmp_path):
    data = table({"prompt": "a red fruit", "a": "bright.png", "b": "grey.png", "quality": "a"})
    assert invoke("tiny-reward", data, "-o", tmp_path / "out.parquet").exit_code == 0
    [row] = pq.read_table(tmp_path / "out.parquet").to_pylist()
    reward, samples = load_reward("tiny-reward"), [Sample("a red fruit", Image.open(tmp_path / f"{name}.png"))
                                                   for name in ("bright", "grey")]
    column = reward.dimensions.index("quality")
    scores = reward.score(samples).values[:, column] * reward.logit_scale[column]
    assert row["margin"] == pytest.approx((scores[0] - scores[1]).item(), abs=1e-4)
    assert row["margin_std"] > 0 and row["source"] == "tiny-reward"
    members = reward.member_values(samples)
    assert members.shape == (2, 4, 3) and members[..., reward.dimensions.index("motion")].isnan().all()


@pytest.mark.parametrize("rows, out, word", [
    ([{"media": "grey.png", "quality": "good"}, {"media": "bright.png", "quality": "bad"}], "o.parquet", "single item"),
    ([{"a": "grey.png", "b": "bright.png", "quality": "tie"}], "o.parquet", "a single decided"),
    ([{"a": "grey.png", "b": "bright.png", "quality": "a"}], "o.csv", ".parquet"),
    ([{"a": "grey.png", "b": "bright.png", "quality": "a"}], "in.jsonl.parquet", "exists already")])
def test_mistakes_end_in_one_sentence(table, tmp_path, rows, out, word):
    (tmp_path / "in.jsonl.parquet").write_text("")
    result = invoke("exposure", table(*rows), "-o", tmp_path / out)
    assert result.exit_code == 1
    assert result.output.splitlines()[-1].startswith("visalign: ") and word in result.output.splitlines()[-1]


@pytest.mark.parametrize("columns", [{"chosen": "bright.png", "rejected": "grey.png"},
                                     {"a": "bright.png", "b": "grey.png", "quality": "a"}])
def test_edits_keep_their_sources_though_source_names_the_reward(table, tmp_path, columns):
    data = table(columns | {"source": "grey.png", "requirement": "brighter"})
    (tmp_path / "elsewhere").mkdir()
    out = tmp_path / "elsewhere" / "out.parquet"
    result = invoke("source_change", data, "-o", out)
    assert result.exit_code == 0, result.output
    [row] = pq.read_table(out).to_pylist()
    assert row["source"] == "source_change" and row["sources"] == ["../grey.png"]
    assert row["margin"] == pytest.approx(122 / 255, abs=1e-4) and row["requirement"] == "brighter"
    [item] = read_annotations(str(out), ("quality",))
    assert item.a.sample("row", 1).sources[0].getpixel((0, 0)) == (128, 128, 128)
