"""Generations of language models, in the shapes that other programs write, and rows that cannot be used."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from visalign.data.generations import find_generations
from visalign.data.text_annotations import read_text_annotations
from visalign.data.text_generations import TextEntry, write_answers
from visalign.errors import UserError
from visalign.media.answers import Answer
from visalign.media.samples import Sample


def lines(file, *rows):
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def test_a_folder_of_answers_is_read_back(tmp_path):
    samples = [Sample("p", Answer("two\nlines <|im_end|> é"), 0), Sample("p", Answer(""), 1), Sample("q", Answer("x"))]
    write_answers(samples, tmp_path)
    found = find_generations(tmp_path)
    assert [entry.sample() for entry in found] == samples and {entry.modality() for entry in found} == {"text"}
    assert [entry.kind for entry in found] == ["texts"] * 3
    assert found[0].digest() != found[1].digest() and found[0].stamp() == found[0].digest()


@pytest.mark.parametrize("key", ["answer", "response", "completion", "output"])
def test_any_of_the_usual_columns(tmp_path, key):
    [entry] = find_generations(lines(tmp_path / "a.jsonl", {"prompt": "p ", key: " x "}))
    assert (entry.prompt, entry.content, entry.problem) == ("p", " x ", None)


def test_tables_of_other_kinds(tmp_path):
    (tmp_path / "a.csv").write_text('prompt,response\np,"a, b"\n')
    (tmp_path / "a.json").write_text(json.dumps([{"instruction": "p", "output": "a, b"}]))
    pq.write_table(pa.table({"prompt": ["p"], "answer": pa.array([None], pa.string()), "completion": ["a, b"]}),
                   tmp_path / "a.parquet")
    for name in ("a.csv", "a.json", "a.parquet"):
        [entry] = find_generations(tmp_path / name)
        assert (entry.prompt, entry.content) == ("p", "a, b")


def test_conversations_and_several_answers(tmp_path):
    asked = [{"role": "system", "content": "s"}, {"role": "user", "content": "first"},
             {"role": "assistant", "content": "a"}, {"role": "user", "content": "last"}]
    [entry] = find_generations(lines(tmp_path / "chat.jsonl", {
        "prompt": asked, "answer": [{"role": "assistant", "content": "yes"}]}))
    assert (entry.prompt, entry.content) == ("last", "yes")
    several = find_generations(lines(tmp_path / "many.jsonl", {"prompt": "p", "responses": ["a", "b"]}))
    assert [(each.prompt, each.content) for each in several] == [("p", "a"), ("p", "b")]
    feedback = find_generations(lines(tmp_path / "ultra.jsonl", {
        "instruction": "p", "completions": [{"model": "m", "response": "a"}, {"model": "n", "response": "b"}]}))
    assert [each.content for each in feedback] == ["a", "b"] and len({each.path for each in feedback}) == 2


@pytest.mark.parametrize("row, said", [
    ({"prompt": "p", "answer": None}, "'answer' is missing"), ({"prompt": "p", "answer": 3}, "not text but int"),
    ({"prompt": "p", "answer": float("nan")}, "'answer' is missing"),
    ({"prompt": {"a": 1}, "answer": "x"}, "the prompt is neither text nor a list"),
    ({"prompt": "p", "answers": []}, "an empty list"), ({"prompt": "p", "answers": ["a", 3]}, "not text but int"),
    ({"prompt": "p", "answer": "x" * 1_000_001}, "1,000,001 characters"),
    ({"prompt": "p", "answer": [{"role": "user", "content": "x"}]}, "not text but list"),
    ({"prompt": "p"}, "names no file"), ({"prompt": "p", "answer": "\x00"}, "a NUL")])
def test_rows_that_cannot_be_used_say_why(tmp_path, row, said):
    found = find_generations(lines(tmp_path / "a.jsonl", {"prompt": "p", "answer": "fine"}, row))
    assert found[0].problem is None and said in found[-1].problem and "line 2" in found[-1].problem
    with pytest.raises(UserError):
        found[-1].sample()


def test_a_file_wins_where_a_row_names_one(tmp_path):
    [entry] = find_generations(lines(tmp_path / "a.jsonl", {"prompt": "p", "image": "a.png", "answer": "a cat"}))
    assert not isinstance(entry, TextEntry)


def test_a_folder_without_generations_says_what_was_looked_for(tmp_path):
    with pytest.raises(UserError, match="no image and no video, nor a samples.jsonl of prompt and answer"):
        find_generations(tmp_path)


def test_annotations_of_texts(tmp_path):
    asked = [{"role": "user", "content": "p"}]
    first, second, third = read_text_annotations(str(lines(
        tmp_path / "a.jsonl", {"prompt": "p", "chosen": "good", "rejected": "", "strength": 2},
        {"prompt": asked, "chosen": [*asked, {"role": "assistant", "content": "yes"}], "rejected": "no",
         "kind": "chat"},
        {"prompt": "p", "a": "x", "b": "y", "quality": "b"})), ("quality",))
    assert (first.outcome, first.strength, first.b.sample("", 1).answer) == ({"quality": 1.0}, 2.0, "")
    assert (second.prompt, second.a.media, second.kind) == ("p", "yes", "chat")
    assert third.outcome == {"quality": 0.0} and third.a.sample("", 1).modality == "text"


@pytest.mark.parametrize("row, said", [
    ({"prompt": "p", "chosen": "x"}, "'rejected' is missing"),
    ({"chosen": "x", "rejected": "y"}, "'prompt' is missing"),
    ({"prompt": " ", "chosen": "x", "rejected": "y"}, "'prompt' is missing"), ({"prompt": "p"}, "names neither chosen"),
    ({"prompt": "p", "chosen": "x", "rejected": ["y"]}, "not text but list"),
    ({"prompt": "p", "a": "x", "b": "y"}, "no label"), ({"prompt": "p", "a": "x", "quality": "a"}, "'b' is missing")])
def test_annotations_that_cannot_be_used(tmp_path, row, said):
    with pytest.raises(UserError, match=said):
        read_text_annotations(str(lines(tmp_path / "a.jsonl", row)), ("quality",))


def test_texts_in_shards_are_refused_in_a_sentence(tmp_path):
    from visalign.data.packed import entries_of_group
    from visalign.storage.locations import Location

    pq.write_table(pa.table({"prompt": ["p", "q"], "answer": ["a", None], "other": [1, 2]}), tmp_path / "a.parquet")
    found = list(entries_of_group(Location(str(tmp_path / "a.parquet")), 0, 0, None))
    assert len(found) == 2 and all("a text; texts are scored without --engine ray" in each.problem for each in found)
    pq.write_table(pa.table({"prompt": ["p"], "other": [1]}), tmp_path / "b.parquet")
    [entry] = entries_of_group(Location(str(tmp_path / "b.parquet")), 0, 0, None)
    assert "names no file" in entry.problem and "has no answer" in entry.problem


def test_what_has_no_prompt_says_how_texts_are_given_one(tmp_path):
    found = find_generations(lines(tmp_path / "a.jsonl", {"answer": "x"}, {"prompt": "p", "answer": "y"}))
    assert found.prompt_hint == "1 of 2 texts have no prompt; give their rows a column prompt"
