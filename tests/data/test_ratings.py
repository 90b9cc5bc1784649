"""Single samples with labels: how they are read, and by what they are known again."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from visalign.data.generations import find_generations
from visalign.data.ratings import has_outcomes, media_content, read_outcomes, read_ratings, row_class
from visalign.data.rows import BadRow
from visalign.errors import UserError
from visalign.media.samples import to_bytes


def lines(file, rows):
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(file)


@pytest.fixture
def image(tmp_path):
    Image.new("RGB", (8, 8), "red").save(tmp_path / "a.png")
    return tmp_path / "a.png"


def test_a_sample_is_known_again_by_prompt_and_content_wherever_it_lies(image, tmp_path):
    """A file, its bytes in a table, and the generation that a manifest names; the prompt in either Unicode form."""
    rows = [{"prompt": " a cafe\u0301", "image": "a.png", "label": 1}]
    (of_file,) = read_ratings(lines(tmp_path / "labels.jsonl", rows), ("label",))
    pq.write_table(pa.Table.from_pylist([{"prompt": "a caf\u00e9", "media": image.read_bytes(), "label": 1}]),
                   tmp_path / "labels.parquet")
    (of_bytes,) = read_ratings(str(tmp_path / "labels.parquet"), ("label",))
    (entry,) = find_generations(lines(tmp_path / "samples.jsonl", rows))
    assert of_file.group == of_bytes.group == entry.group == "a caf\u00e9"
    contents = {media_content(each.media, each.where) for each in (of_file, of_bytes)}
    assert contents == {entry.digest()}
    assert media_content(of_file.media, "x") != media_content(read_ratings(lines(tmp_path / "text.jsonl", [
        {"prompt": "a", "answer": "a.png", "label": 1}]), ("label",))[0].media, "x")


def test_labels_are_numbers_or_words(image, tmp_path):
    rows = [{"prompt": "a", "image": "a.png", "quality": value} for value in ("good", "Bad", 3, "0.5", None)]
    table = lines(tmp_path / "labels.jsonl", rows)
    assert [each.labels["quality"] for each in read_ratings(table, ("quality", "other"))] == [1, 0, 3, 0.5]
    assert [each.labels for each in read_ratings(table, ("quality",), label=row_class, unlabelled=True)] == [
        {"quality": "good"}, {"quality": "Bad"}, {"quality": "3"}, {"quality": "0.5"}, {}]
    with pytest.raises(BadRow, match="'quality' is 'fine', not a number"):
        read_ratings(lines(tmp_path / "fine.jsonl", [rows[0] | {"quality": "fine"}]), ("quality",))


def test_comparisons_are_outcomes_unless_they_are_rated(image, tmp_path):
    Image.new("RGB", (8, 8), "blue").save(tmp_path / "b.png")
    row = {"prompt": "a", "path_A": "a.png", "path_B": "b.png", "quality": "same"}
    outcomes = lines(tmp_path / "outcomes.jsonl", [row, row | {"quality": "B"}, row | {"quality": "", "taste": "A"}])
    assert has_outcomes(outcomes, "quality")
    assert [each.outcome["quality"] for each in read_outcomes(outcomes, "quality")] == [0.5, 0]
    with pytest.raises(UserError, match="no comparison is decided or tied in qualty .did you mean 'quality'"):
        read_outcomes(outcomes, "qualty")
    rated = lines(tmp_path / "rated.jsonl", [row | {"quality_a": 2, "quality_b": 1}])
    assert not has_outcomes(rated, "quality") and len(read_ratings(rated, ("quality",))) == 2
    pq.write_table(pa.Table.from_pylist([{"prompt": "a", "chosen": to_bytes(Image.new("RGB", (8, 8))),
                                          "rejected": image.read_bytes()}]), tmp_path / "pairs.parquet")
    (pair,) = read_outcomes(str(tmp_path / "pairs.parquet"), "quality")
    assert has_outcomes(str(tmp_path / "pairs.parquet"), "quality") and pair.outcome == {"quality": 1}
