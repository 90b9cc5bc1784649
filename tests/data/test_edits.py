"""Pairs, prompts and tables of edits: words with their source images are one prompt."""

import io
import json
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from visalign.config import DataSettings
from visalign.data.annotations import read_annotations
from visalign.data.check import check_pairs
from visalign.data.pair_tables import read_saved_pairs, save_pairs
from visalign.data.preferences import RowCounts, read_pairs
from visalign.data.prompts import read_prompts
from visalign.data.usable import check_pair_sources
from visalign.errors import UserError
from visalign.media.source_images import content_of, notes_of, sample_of, split_prompt
from visalign.trainers.order import prompts_to_measure, split_by_prompt


def png(colour):
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), colour).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def folder(tmp_path):
    for name in ("green", "red", "blue", "white"):
        (tmp_path / f"{name}.png").write_bytes(png(name))
    return tmp_path


def table(folder, *rows, name="edits.jsonl"):
    file = folder / name
    if name.endswith(".parquet"):
        pq.write_table(pa.Table.from_pylist(list(rows)), file)
    else:
        file.write_text(json.dumps(list(rows)) if name.endswith(".json") else "\n".join(map(json.dumps, rows)))
    return file


def read(file, **settings):
    return list(read_pairs(DataSettings(path=str(file), **settings)))


PAIR = {"prompt": "make it red", "chosen": "red.png", "rejected": "blue.png"}


@pytest.mark.parametrize("columns, names", [
    ({"source": "green.png"}, ["green"]), ({"sources": ["green.png", "white.png"]}, ["green", "white"]),
    ({"image": "green.png"}, ["green"]), ({"images": ["green.png"]}, ["green"]),
    ({"source": "green.png@@white.png"}, ["green", "white"]), ({"source": "pexels"}, [])])
def test_columns_of_source_images(folder, columns, names):
    [pair] = read(table(folder, PAIR | columns))
    assert (pair.prompt, pair.sources) == ("make it red", tuple(str(folder / f"{name}.png") for name in names))
    assert split_prompt(pair.asked) == ("make it red", tuple(folder / f"{name}.png" for name in names))


def test_embedded_sources_become_files_named_by_their_content(folder, tmp_path):
    embedded = PAIR | {"chosen": png("red"), "rejected": png("blue"), "source": {"bytes": png("green"), "path": None}}
    pairs = read(table(folder, embedded, embedded, name="edits.parquet"), cache=str(tmp_path / "cache"))
    assert pairs[0].sources == pairs[1].sources
    assert [file.read_bytes() for file in (tmp_path / "cache" / "sources").iterdir()] == [png("green")]
    assert content_of(pairs[0].asked) == content_of(f"make it red@@{folder / 'green.png'}")


EDITREWARD = {"prompt": "make it red", "choice_dist": None, "confidence": None, "path_src": "green.png",
              "path1": "red.png", "path2": "blue.png", "model1": "one", "model2": "two", "model1_dim1_score": 4,
              "model1_overall_score": 7, "model2_overall_score": 3, "tie_case": False}


def test_editreward_pairs_and_its_ties_first(folder):
    counts = RowCounts()
    file = table(folder, EDITREWARD, EDITREWARD | {"tie_case": True}, name="train.json")
    [pair] = read_pairs(DataSettings(path=str(file)), counts)
    assert (counts.pairs, counts.ties) == (1, 1)
    assert pair.chosen.endswith("red.png") and pair.sources == (str(folder / "green.png"),)
    assert (pair.chosen_reward, pair.rejected_reward) == (7, 3)


@pytest.mark.parametrize("row, words", [
    ({k: v for k, v in EDITREWARD.items() if k != "path_src"}, "entry 1: 'path_src' is missing"),
    ({k: v for k, v in EDITREWARD.items() if k != "path2"}, "entry 1: 'path2' is missing"),
    (EDITREWARD | {"tie_case": "perhaps"}, "'tie_case' is 'perhaps'"),
    (EDITREWARD | {"path_src": "gone.png"}, "gone.png, which does not exist"),
    (PAIR | {"source": "notes.png"}, r"'source' names .*notes\.p.*, which is not a readable image"),
    (PAIR | {"source": "green.png", "requirement": 3}, "'requirement' is not text but int")])
def test_broken_rows_are_named(folder, row, words):
    (folder / "notes.png").write_text("no image")
    with pytest.raises(UserError, match=words):
        read(table(folder, row, name="train.json"))


def test_prompt_and_source_together_are_the_prompt_wherever_they_lie(folder, tmp_path):
    other = PAIR | {"source": "white.png"}
    rows = [PAIR | {"source": "green.png"}, other, other, other | {"chosen": "blue.png", "rejected": "red.png"}]
    summary = check_pairs(DataSettings(path=str(table(folder, *rows))), tmp_path / "sheet.png")
    assert (summary.pairs, summary.edits, len(summary.prompts)) == (4, 4, 2)
    assert summary.duplicates == 1 and len(summary.contradictory) == 1
    assert "with source images: 4" in summary.text()
    prompts = check_pair_sources(DataSettings(path=str(folder / "edits.jsonl"))).prompts
    [measured] = prompts_to_measure(prompts, "data.holdout", 1e-9)
    train, held_out = split_by_prompt([Asked(prompt) for prompt in prompts], 0.0, (measured,))
    assert [item.prompt for item in held_out] == [measured] and len(train) == 1
    shutil.copytree(folder, tmp_path / "elsewhere" / "copy")
    moved = check_pair_sources(DataSettings(path=str(tmp_path / "elsewhere" / "copy" / "edits.jsonl"))).prompts
    assert prompts_to_measure(moved, "data.holdout", 1e-9)[0].endswith(measured[-9:])
    assert split_by_prompt([Asked(prompt) for prompt in moved], 0.0, (measured,))[1]


class Asked:
    def __init__(self, prompt):
        self.prompt = prompt


def test_saved_pairs_keep_sources_and_notes(folder):
    [pair] = read(table(folder, PAIR | {"chosen": "red.png", "source": "green.png", "requirement": "red all over",
                                        "mask": "white.png"}))
    save_pairs([pair], folder / "pairs.parquet")
    [again] = read_saved_pairs(folder / "pairs.parquet")
    assert (again.asked, again.notes) == (pair.asked, pair.notes)
    sample = again.sample(again.media()[0])
    assert sample.known["requirement"] == "red all over" and sample.sources[0].getpixel((0, 0)) == (0, 128, 0)


def test_prompt_tables_carry_their_sources(folder):
    rows = [{"prompt": "make it red", "image": "green.png", "requirement": "red @@ all over"},
            {"prompt": "a plain one"}]
    first, second = read_prompts(str(table(folder, *rows)))
    assert second == "a plain one" and split_prompt(first) == ("make it red", (folder / "green.png",))
    assert notes_of(first) == {"requirement": "red @@ all over"}
    sample = sample_of(first, "make it red", Image.new("RGB", (8, 8)), 3)
    assert sample.known["requirement"] == "red @@ all over" and len(sample.sources) == 1
    assert sample_of(first, first, None).sources == ()
    plain = table(folder, {"prompt": "a cat", "image": "green.png"}, {"prompt": "a dog", "image": "red.png"})
    assert read_prompts(str(plain)) == ["a cat", "a dog"]
    assert read_prompts(f"edit:{plain}") == [f"a cat@@{folder}/green.png", f"a dog@@{folder}/red.png"]


@pytest.mark.parametrize("rows, words", [
    ([{"prompt": "a cat", "images": ["green.png"]}, {"prompt": "a dog"}], "line 2: names no source image"),
    ([{"prompt": "a cat", "source": ["gone.png"]}], "line 1: 'source' names .*gone.png, which does not exist"),
    ([{"prompt": "a @@ cat", "source": "green.png"}], "'a @@ cat' holds @@")])
def test_edit_prompts_need_sources(folder, rows, words):
    with pytest.raises(UserError, match=words):
        read_prompts(f"edit:{table(folder, *rows)}")


@pytest.mark.parametrize("row", [EDITREWARD, PAIR | {"source": "green.png"},
                                 {"prompt": "make it red", "a": "red.png", "b": "blue.png", "quality": "a",
                                  "source": "green.png"}])
def test_annotations_of_edits_are_scored_with_their_source(folder, row):
    [item] = read_annotations(str(table(folder, row)), ("quality",))
    a, b = (side.sample(item.where, 1) for side in (item.a, item.b))
    assert a.sources[0].getpixel((0, 0)) == b.sources[0].getpixel((0, 0)) == (0, 128, 0)
    assert a.source_prompt == f"make it red@@{folder / 'green.png'}" and item.outcome == {"quality": 1.0}
