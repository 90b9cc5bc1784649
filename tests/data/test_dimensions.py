"""Preferences in several dimensions: the user's weights decide, ties are dropped, labels that are none are named."""

import csv
import json

import pytest
from PIL import Image

from visalign.config import DataSettings
from visalign.data.annotations import read_annotations
from visalign.data.preferences import BadRow, RowCounts, read_pairs
from visalign.errors import UserError
from visalign.media.samples import Video
from visalign.media.video_files import to_video_bytes, write_frames


@pytest.fixture
def bench(tmp_path):
    """A table with VideoGen-RewardBench's columns; the videos are told apart by their grey."""
    for name, grey in (("a", 10), ("b", 240)):
        video = Video([Image.new("RGB", (16, 16), (grey,) * 3)] * 3, 8.0)
        (tmp_path / f"{name}.mp4").write_bytes(to_video_bytes(video))

    def write(rows, columns=("VQ", "MQ", "TA", "Overall")):
        with (tmp_path / "bench.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, ["path_A", "path_B", "A_model", "B_model", "prompt", *columns])
            writer.writeheader()
            for i, row in enumerate(rows):
                writer.writerow({"path_A": "a.mp4", "path_B": "b.mp4", "A_model": "m", "B_model": "n",
                                 "prompt": f"prompt {i}"} | dict(zip(columns, row, strict=True)))
        return str(tmp_path / "bench.csv")

    return write


def chosen(path, **settings):
    """Which side of each pair was preferred, with its strength; and the ties."""
    counts = RowCounts()
    pairs = list(read_pairs(DataSettings(path=path, **settings), counts))
    return [("A" if pair.chosen.endswith("a.mp4") else "B", pair.strength) for pair in pairs], counts.ties


ROWS = [("A", "B", "B", "A"), ("A", "A", "same", "A"), ("same", "same", "same", "same"), ("B", "A", "same", "B")]


def test_overall_decides_where_no_weights_are_given(bench):
    assert chosen(bench(ROWS)) == ([("A", 1.0), ("A", 1.0), ("B", 1.0)], 1)


def test_weights_decide_and_even_votes_are_ties(bench):
    found, ties = chosen(bench(ROWS), dimensions={"VQ": 1, "MQ": 1, "TA": 1})
    assert [side for side, _ in found] == ["B", "A"] and ties == 2
    assert [strength for _, strength in found] == pytest.approx([1 / 3, 2 / 3])
    assert chosen(bench(ROWS), dimensions={"VQ": 3, "MQ": 1, "TA": 1})[0][0] == ("A", pytest.approx(1 / 5))


def test_a_negative_weight_prefers_less_of_a_dimension(bench):
    found, _ = chosen(bench(ROWS), dimensions={"MQ": -1})
    assert [side for side, _ in found] == ["A", "B", "B"]


def test_missing_labels_are_left_out_and_without_overall_all_dimensions_count(bench):
    found, _ = chosen(bench([("A", "", ""), ("", "B", "same")], ("VQ", "MQ", "TA")))
    assert found == [("A", 1.0), ("B", 0.5)]


@pytest.mark.parametrize("rows, settings, words", [
    ([("A", "C", "B", "A")], {"dimensions": {"MQ": 1}}, r"line 2: 'MQ' is 'C' \(allowed: A, B, same, or nothing\)"),
    ([("A", "B", "B", "A")], {"dimensions": {"MG": 1}}, "line 2: no label in any of the dimensions MG"),
    ([("", "B", "B", "A")], {"dimensions": {"VQ": 1}}, "line 2: no label in any of the dimensions VQ"),
    ([("A", "B", "B", "A")], {"dimensions": {"VQ": 0}}, "data.dimensions: all weights are 0"),
])
def test_what_is_no_label_is_named(bench, rows, settings, words):
    with pytest.raises(UserError, match=words):
        list(read_pairs(DataSettings(path=bench(rows), **settings)))


def test_a_weight_for_what_no_row_has_is_refused(bench, tmp_path):
    with pytest.raises(UserError, match="data.dimensions: no row of .*bench.csv is labelled in 'MG'"):
        chosen(bench(ROWS), dimensions={"VQ": 1, "MG": 1})
    (tmp_path / "p.jsonl").write_text(json.dumps({"prompt": "x", "chosen": "a.mp4", "rejected": "b.mp4"}))
    with pytest.raises(UserError, match="no row of .*p.jsonl is labelled in 'VQ'"):
        chosen(str(tmp_path / "p.jsonl"), dimensions={"VQ": 1})


def test_columns_that_nobody_knows_need_weights(bench, tmp_path):
    path = bench([("A",)], ("smoothness",))
    with pytest.raises(BadRow, match="the dimensions are not recognised"):
        chosen(path)
    assert chosen(path, dimensions={"smoothness": 1})[0] == [("A", 1.0)]


def test_ratings_compare_the_media_of_one_prompt(tmp_path):
    """VideoFeedback's columns: one rated video a row."""
    rows = []
    for prompt, name, quality, dynamic in (("x", "p", 3, 1), ("x", "q", 1, 2), ("y", "r", 2, 2), ("x", "s", 1, 2)):
        (tmp_path / f"{name}.mp4").write_bytes(to_video_bytes(Video([Image.new("RGB", (16, 16))] * 2, 8.0)))
        rows.append({"text prompt": prompt, "video": f"{name}.mp4", "visual quality": quality,
                     "dynamic degree": dynamic})
    (tmp_path / "r.jsonl").write_text("\n".join(map(json.dumps, rows)))
    counts = RowCounts()
    pairs = list(read_pairs(DataSettings(path=str(tmp_path / "r.jsonl"), dimensions={"visual quality": 1}), counts))
    names = [tuple(side.rsplit("/")[-1][0] for side in (pair.chosen, pair.rejected)) for pair in pairs]
    assert names == [("p", "q"), ("p", "s")] and [pair.strength for pair in pairs] == [2.0, 2.0]
    assert pairs[1].where.endswith("line 4 with " + str(tmp_path / "r.jsonl") + " line 1")
    flipped = next(iter(read_pairs(DataSettings(path=str(tmp_path / "r.jsonl"), dimensions={"dynamic degree": 1}))))
    assert flipped.chosen.endswith("q.mp4")


def test_annotations_read_the_same_columns(bench):
    found = read_annotations(bench(ROWS), ("VQ", "MQ", "TA"))
    assert found[0].outcome == {"VQ": 1.0, "MQ": 0.0, "TA": 0.0} and found[1].outcome["TA"] == 0.5
    assert found[0].a.media.endswith("a.mp4") and found[0].a.sample("x", 2).video is not None


def test_a_folder_of_frames_may_stand_in_a_table(tmp_path):
    for name, grey in (("one", 0), ("two", 200)):
        write_frames(Video([Image.new("RGB", (8, 8), (grey,) * 3)] * 3, 4.0), tmp_path / name)
    (tmp_path / "p.jsonl").write_text(json.dumps({"prompt": "x", "chosen": "one", "rejected": "two"}))
    chosen_video, rejected = next(iter(read_pairs(DataSettings(path=str(tmp_path / "p.jsonl"))))).media(2)
    assert chosen_video.fps == pytest.approx(2) and rejected.frames[0].getpixel((0, 0)) == (200, 200, 200)
