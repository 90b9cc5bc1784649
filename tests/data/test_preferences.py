"""Readers of the public preference formats."""

import io
import json
import re
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from visalign.config import DataSettings
from visalign.data.pair_tables import read_saved_pairs, save_pairs
from visalign.data.preferences import BadRow, RowCounts, read_pairs
from visalign.data.rows import hashed_user, row_user
from visalign.data.usable import check_pair_sources
from visalign.errors import UserError


def jpeg(colour):
    buffer = io.BytesIO()
    Image.new("RGB", (12, 10), colour).save(buffer, "JPEG")
    return buffer.getvalue()


def read(path, **settings):
    return list(read_pairs(DataSettings(path=str(path), **settings)))


def test_pickapic_parquet_orders_by_label_and_drops_ties(tmp_path):
    rows = [{"caption": c, "jpg_0": jpeg("red"), "jpg_1": jpeg("blue"), "label_0": a, "label_1": 1 - a}
            for c, a in (("first wins", 1.0), ("second wins", 0.0), ("tie", 0.5))]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "picks.parquet")
    counts = RowCounts()
    pairs = list(read_pairs(DataSettings(path=str(tmp_path / "picks.parquet")), counts))
    assert [pair.prompt for pair in pairs] == ["first wins", "second wins"]
    assert (counts.pairs, counts.ties) == (2, 1)
    assert pairs[0].chosen == jpeg("red") and pairs[1].chosen == jpeg("blue")
    assert pairs[0].media()[0].size == (12, 10)


def test_hpd_json_makes_a_pair_for_every_strict_preference(tmp_path):
    for name in "abc":
        Image.new("RGB", (8, 8), "red").save(tmp_path / f"{name}.jpg")
    entries = [{"prompt": "two", "image_path": ["a.jpg", "b.jpg"], "human_preference": [0, 1]},
               {"prompt": "three", "image_path": ["a.jpg", "b.jpg", "c.jpg"], "rank": [2, 1, 3]}]
    (tmp_path / "hpd.json").write_text(json.dumps(entries))
    pairs = read(tmp_path / "hpd.json")
    assert pairs[0].chosen.endswith("b.jpg") and pairs[0].rejected.endswith("a.jpg")
    order = {(p.chosen[-5], p.rejected[-5]) for p in pairs if p.prompt == "three"}
    assert order == {("b", "a"), ("a", "c"), ("b", "c")}


@pytest.mark.parametrize("entry", [{"human_preference": [1]}, {"human_preference": ["yes", "no"]}, {}])
def test_hpd_entries_without_a_preference_for_each_image_are_named(tmp_path, entry):
    (tmp_path / "hpd.json").write_text(json.dumps([{"prompt": "x", "image_path": ["a.jpg", "b.jpg"], **entry}]))
    with pytest.raises(BadRow, match="entry 1.*human_preference"):
        read(tmp_path / "hpd.json")


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
def test_tables_of_paths(tmp_path, kind):
    for name in ("good", "bad"):
        Image.new("RGB", (8, 8), "red").save(tmp_path / f"{name}.png")
    row = {"prompt": "a red square", "chosen": "good.png", "rejected": "bad.png", "strength": 2.5}
    file = tmp_path / f"pairs.{kind}"
    if kind == "jsonl":
        file.write_text(json.dumps(row) + "\n\n")
    elif kind == "csv":
        file.write_text("prompt,chosen,rejected,strength\na red square,good.png,bad.png,2.5\n")
    else:
        pq.write_table(pa.Table.from_pylist([row]), file)
    [pair] = read(file)
    assert pair.prompt == "a red square" and pair.strength == 2.5
    assert pair.media()[0].getpixel((0, 0)) == (255, 0, 0)


@pytest.mark.parametrize("line, words", [
    ('{"prompt": "x", "chosen"', ["line 1", "JSON"]),
    ('{"chosen": "a.png", "rejected": "a.png"}', ["line 1", "'prompt' is missing"]),
    ('{"prompt": " ", "chosen": "a.png", "rejected": "a.png"}', ["'prompt' is empty"]),
    ('{"prompt": "x", "choosen": "a.png", "rejected": "a.png"}', ["'chosen' is missing", "'choosen'"]),
    ('{"prompt": "x", "chosen": "gone.png", "rejected": "a.png"}', ["gone.png", "does not exist"]),
    ('{"prompt": "x", "chosen": "a.png", "rejected": "a.png", "strength": "much"}', ["strength", "'much'"]),
])
def test_broken_rows_name_their_line(tmp_path, line, words):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    (tmp_path / "pairs.jsonl").write_text(line + "\n")
    with pytest.raises(BadRow) as caught:
        read(tmp_path / "pairs.jsonl")
    for word in words:
        assert word in str(caught.value)


def test_truncated_image_names_its_row(tmp_path):
    Image.effect_noise((64, 64), 90).save(tmp_path / "a.png")
    (tmp_path / "a.png").write_bytes((tmp_path / "a.png").read_bytes()[:300])
    (tmp_path / "pairs.jsonl").write_text('{"prompt": "x", "chosen": "a.png", "rejected": "a.png"}\n')
    [pair] = read(tmp_path / "pairs.jsonl")
    with pytest.raises(UserError, match="line 1.*not a readable image"):
        pair.media()


def test_all_ties_and_empty_sets_are_errors(tmp_path):
    (tmp_path / "ties.jsonl").write_text('{"prompt": "x", "tie": true}\n')
    with pytest.raises(UserError, match="all 1 rows are ties"):
        read(tmp_path / "ties.jsonl")
    (tmp_path / "empty.jsonl").write_text("")
    with pytest.raises(UserError, match="no usable pair"):
        read(tmp_path / "empty.jsonl")


@pytest.mark.parametrize("name", ["nowhere.jsonl", "./nowhere", "folder/deep/nowhere"])
def test_missing_source_is_named(name):
    with pytest.raises(UserError, match="nowhere"):
        check_pair_sources(DataSettings(path=name))


def test_unknown_kind_of_file_lists_the_known(tmp_path):
    (tmp_path / "pairs.xlsx").write_text("")
    with pytest.raises(UserError, match=r"\.xlsx.*\.parquet"):
        check_pair_sources(DataSettings(path=str(tmp_path / "pairs.xlsx")))


def test_corrupt_parquet_is_one_sentence(tmp_path):
    (tmp_path / "pairs.parquet").write_bytes(b"not parquet")
    with pytest.raises(UserError, match=r"pairs\.parquet: not a readable parquet"):
        read(tmp_path / "pairs.parquet")


def test_reading_streams_and_stops_at_max_pairs(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    row = '{"prompt": "x", "chosen": "a.png", "rejected": "a.png"}\n'
    (tmp_path / "pairs.jsonl").write_text(row * 3 + "broken\n")
    assert len(read(tmp_path / "pairs.jsonl", max_pairs=3)) == 3


def test_transparent_images_land_on_white(tmp_path):
    Image.new("RGBA", (8, 8), (255, 0, 0, 0)).save(tmp_path / "a.png")
    (tmp_path / "pairs.jsonl").write_text('{"prompt": "x", "chosen": "a.png", "rejected": "a.png"}\n')
    assert read(tmp_path / "pairs.jsonl")[0].media()[0].getpixel((0, 0)) == (255, 255, 255)


def order_of(pairs):
    return {(p.chosen[-5], p.rejected[-5]) for p in pairs}


@pytest.fixture
def abc(tmp_path):
    for name in "abc":
        Image.new("RGB", (8, 8), "red").save(tmp_path / f"{name}.png")
    return tmp_path


def test_annotators_ranks_are_averaged(abc):
    """Places 1, 2, 3 and 3, 1, 2: means 2, 1.5, 2.5, so b before a before c."""
    (abc / "test.json").write_text(json.dumps([{"prompt": "x", "image_path": ["a.png", "b.png", "c.png"],
                                                "raw_annotations": [{"rank": [1, 2, 3]}, {"rank": [3, 1, 2]}]}]))
    assert order_of(read(abc / "test.json")) == {("b", "a"), ("b", "c"), ("a", "c")}


def test_hpd_v3_prefers_the_first_path_and_drops_even_votes(abc):
    rows = [{"prompt": "x", "path1": f"{one}.png", "path2": f"{two}.png", "choice_dist": votes}
            for one, two, votes in (("a", "b", [3, 1]), ("c", "a", None), ("b", "c", [2, 2]))]
    (abc / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    counts = RowCounts()
    assert order_of(read_pairs(DataSettings(path=str(abc / "p.jsonl")), counts)) == {("a", "b"), ("c", "a")}
    assert counts.ties == 1


def test_imagereward_ranks_make_a_pair_of_every_two_of_a_prompt(abc):
    rows = [("1", "a", 2), ("1", "b", 1), ("2", "a", 1), ("1", "c", 2)]
    (abc / "metadata-train.jsonl").write_text("".join(json.dumps(
        {"prompt_id": prompt, "prompt": "x", "image_path": f"{name}.png", "rank": rank}) + "\n"
        for prompt, name, rank in rows))
    assert order_of(read(abc)) == {("b", "a"), ("b", "c")}


def test_images_may_lie_beside_a_table_in_a_subfolder_or_under_their_split(abc):
    (abc / "set" / "train").mkdir(parents=True)
    for name in "ab":
        (abc / f"{name}.png").rename(abc / "set" / "train" / f"{name}.png")
    (abc / "set" / "train.json").write_text(json.dumps([{"prompt": "x", "file_path": ["a.png", "b.png"],
                                                         "human_preference": [0, 1]}]))
    assert order_of(read(abc / "set")) == {("b", "a")}
    (abc / "set" / "train.json").unlink()
    (abc / "set" / "train" / "p.jsonl").write_text('{"prompt": "x", "chosen": "a.png", "rejected": "b.png"}\n')
    assert order_of(read(abc / "set")) == {("a", "b")}


def test_who_preferred_is_read_hashed_and_kept_through_saving(tmp_path):
    image = jpeg("red")
    rows = [{"prompt": "x", "chosen": image, "rejected": image, "user": user} for user in ("Ann", " Ann", None)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "pairs.parquet")
    pairs = read(tmp_path / "pairs.parquet")
    assert pairs[0].user == pairs[1].user == hashed_user("Ann") and pairs[2].user is None
    save_pairs(pairs, tmp_path / "saved.parquet")
    assert [pair.user for pair in read_saved_pairs(tmp_path / "saved.parquet")] == [pair.user for pair in pairs]
    assert b"Ann" not in (tmp_path / "saved.parquet").read_bytes()
    save_pairs(pairs[2:], tmp_path / "nobody.parquet")
    assert "user" not in pq.read_schema(tmp_path / "nobody.parquet").names


def test_users_by_number_are_the_same_in_any_kind_of_table(tmp_path):
    picks = {"caption": "c", "jpg_0": jpeg("red"), "jpg_1": jpeg("blue"), "label_0": 1, "label_1": 0}
    pq.write_table(pa.Table.from_pylist([picks | {"user_id": 17}]), tmp_path / "picks.parquet")
    assert read(tmp_path / "picks.parquet")[0].user == hashed_user("17") == row_user({"user": 17.0}, "row 1")
    assert row_user({"user": float("nan")}, "row 1") is None
    with pytest.raises(BadRow, match="row 1: 'user' is neither text nor a whole number"):
        row_user({"user": ["Ann"]}, "row 1")


@pytest.mark.parametrize("given, said", [("0.3", "'chance' is 0.3 (allowed: 0.5"), ("1.2", "'chance' is 1.2"),
                                         ("sure", "'chance' is 'sure', not a number")])
def test_a_chance_that_is_none_is_refused(tmp_path, pairs_file, given, said):
    row = json.loads(pairs_file.read_text().splitlines()[0]) | {"chance": given}
    pairs_file.write_text(json.dumps(row))
    with pytest.raises(UserError, match=re.escape(said)):
        list(read_pairs(DataSettings(path=str(pairs_file))))


def test_a_chance_comes_through_the_table_of_pairs(tmp_path, pairs_file):
    rows = [json.loads(line) for line in pairs_file.read_text().splitlines()]
    pairs_file.write_text("\n".join(json.dumps(row | {"Chance": chance}) for row, chance in
                                    zip(rows, (0.5, 0.7, 1, None, "", 0.9), strict=True)))
    pairs = list(read_pairs(DataSettings(path=str(pairs_file))))
    assert [pair.chance for pair in pairs] == [0.5, 0.7, 1, 1, 1, 0.9]
    held = [replace(pair, chosen=Path(pair.chosen).read_bytes(), rejected=Path(pair.rejected).read_bytes())
            for pair in pairs]
    save_pairs(held, tmp_path / "pairs.parquet")
    assert [replace(pair, where="") for pair in read_saved_pairs(tmp_path / "pairs.parquet")] == \
        [replace(pair, where="") for pair in held]


def test_a_chance_speaks_of_the_overall_vote_only(tmp_path, video_pairs_file):
    lines = video_pairs_file.read_text().splitlines()
    video_pairs_file.write_text("\n".join([f"{lines[0]},Overall,chance", f"{lines[1]},B,0.75"]))
    [pair] = read_pairs(DataSettings(path=str(video_pairs_file)))
    assert pair.chance == 0.75 and pair.chosen.endswith("red-B.mp4")
    with pytest.raises(UserError, match="'chance' speaks of Overall, and this pair is decided by VQ"):
        list(read_pairs(DataSettings(path=str(video_pairs_file), dimensions={"VQ": 1.0})))
