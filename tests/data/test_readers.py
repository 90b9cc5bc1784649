"""Tables in any encoding and dialect come back as they were written; what is none ends in a sentence."""

import csv
import io
import json
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from visalign.data.readers import BROKEN_TABLE, READERS, file_rows
from visalign.data.rows import BadRow, find_file, says_yes
from visalign.data.sources import split_of, table_files
from visalign.errors import UserError
from visalign.storage.text_files import decode_text, is_whole

FAST = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
TEXT = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\x00\ufeff"), min_size=1, max_size=30)
FIELD = TEXT.filter(lambda text: text == text.strip(" ") and "\r" not in text)
ENCODINGS = st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-32"])


def read(name: str, content: bytes) -> list[dict]:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / name
        file.write_bytes(content)
        return [row for _, row in file_rows(file)]


@FAST
@given(st.lists(st.tuples(FIELD, FIELD), min_size=1, max_size=5), ENCODINGS, st.sampled_from(",;\t|"),
       st.sampled_from(["\n", "\r\n"]), st.sampled_from([csv.QUOTE_ALL, csv.QUOTE_MINIMAL]))
def test_csv_of_any_dialect_comes_back(rows, encoding, separator, line_end, quoting):
    text = io.StringIO()
    writer = csv.writer(text, delimiter=separator, lineterminator=line_end, quoting=quoting)
    writer.writerows([("prompt", "chosen"), *rows])
    assert read("p.csv", text.getvalue().encode(encoding)) == [
        {"prompt": prompt, "chosen": chosen} for prompt, chosen in rows]


VALUE = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXT | st.lists(TEXT, max_size=3)


@FAST
@given(st.lists(st.dictionaries(TEXT, VALUE, min_size=1, max_size=4), min_size=1, max_size=4), ENCODINGS, st.booleans(),
       st.sampled_from(["lines", "list"]))
def test_json_comes_back_as_lines_and_as_a_list(rows, encoding, plain, kind):
    texts = [json.dumps(row, ensure_ascii=plain) for row in rows]
    text = "\n".join(texts) + "\n" if kind == "lines" else f"[{', '.join(texts)}]"
    assert read("p.jsonl", text.encode(encoding)) == rows
    if kind == "list":
        assert read("p.json", text.encode(encoding)) == rows


@settings(FAST, max_examples=150)
@given(st.sampled_from(sorted(READERS)), st.binary(max_size=200) | st.text(max_size=200).map(
    lambda text: text.encode("utf-8", "surrogatepass")))
def test_arbitrary_bytes_give_whole_rows_or_a_sentence(suffix, content):
    try:
        rows = read(f"p{suffix}", content)
    except UserError as error:
        assert "p" + suffix in str(error)
        return
    assert all(BROKEN_TABLE in row or all(map(is_whole, row)) for row in rows)


@FAST
@given(st.binary(max_size=100))
def test_arbitrary_bytes_are_text_or_a_sentence(data):
    try:
        assert isinstance(decode_text(data, "f.txt"), str)
    except UserError as error:
        assert str(error).startswith("f.txt: ")


def test_rows_are_named_by_the_line_they_begin_on():
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "p.csv"
        file.write_text('prompt,chosen\n"a\nb",x\n\nc,y\n')
        assert [where.removeprefix(f"{file} ") for where, _ in file_rows(file)] == ["line 2", "line 5"]


def test_dates_and_nanoseconds_do_not_matter(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table({"prompt": ["a"], "at": pa.array([1_700_000_000_000_000_001], pa.timestamp("ns")),
                      "far": pa.array([2**55], pa.timestamp("ms"))})
    pq.write_table(table, tmp_path / "p.parquet")
    assert [row for _, row in file_rows(tmp_path / "p.parquet")] == [{"prompt": "a"}]


@pytest.mark.parametrize("name, split", [
    ("train-00000-of-00001.parquet", "train"), ("data/test-00001-of-00002.parquet", "test"),
    ("val.jsonl", "validation"),
    ("validation_unique-00000-of-00001.parquet", "validation_unique"), ("metadata-train.parquet", "train"),
    ("eval/0.csv", "test"), ("latest.csv", None), ("training_set_2.jsonl", "train"), ("pairs.jsonl", None),
    ("data-00000-of-00001.arrow", None), ("train/test.csv", "test")])
def test_splits_are_found_in_names(name, split):
    assert split_of(name) == split


def test_a_folder_of_no_split_is_all_of_it_for_training(tmp_path):
    for name in ("a.jsonl", "b.csv", ".hidden.csv", "notes.txt"):
        (tmp_path / name).write_text("")
    assert [file.name for file in table_files(str(tmp_path), "train")] == ["a.jsonl", "b.csv"]
    with pytest.raises(UserError, match="no such split; it has train"):
        table_files(str(tmp_path), "test")


@pytest.mark.parametrize("name", ["sub\\a.png", " sub/a.png", "sub/a.png", "sub/u\u0308.png", "sub\\\u00fc.png"])
def test_paths_of_other_systems_are_found(tmp_path, name):
    (tmp_path / "sub").mkdir()
    for file in ("a.png", "\u00fc.png"):
        (tmp_path / "sub" / file).write_bytes(b"x")
    assert find_file(name, [tmp_path / "nowhere", tmp_path]).is_file()
    assert find_file("x" * 5000, [tmp_path]) is None and find_file("~nobody-here/a", [tmp_path]) is None


@pytest.mark.parametrize("value, yes", [
    (True, True), ("TRUE", True), ("1", True), (1.0, True), (" Yes ", True), (False, False), ("no", False), (0, False),
    (None, False), ("", False), (float("nan"), False)])
def test_yes_and_no_are_read_in_a_spreadsheet_s_words(value, yes):
    assert says_yes({"tie": value}, "tie", "line 1") is yes
    with pytest.raises(BadRow, match="line 1: 'tie' is 'maybe'"):
        says_yes({"tie": "Maybe"}, "tie", "line 1")
