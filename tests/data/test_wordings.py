"""Captions become prompts: columns, lines, tags and wildcards, the same in every run."""

import json

import pytest
from PIL import Image

from visalign.config import CaptionSettings, DataSettings, SourceSettings
from visalign.data.preferences import read_pairs
from visalign.data.wordings import wordings
from visalign.errors import UserError


def test_a_caption_as_it_is_stays_one_prompt():
    assert wordings(["a cat, red "], CaptionSettings()) == ("a cat, red ",)
    assert wordings(["a", "b", "a"], CaptionSettings(prefix="sks, ")) == ("sks, a", "sks, b")


def test_tags_are_shuffled_and_left_out_but_for_those_kept():
    settings = CaptionSettings(shuffle_tags=True, tag_dropout=0.5, keep_tags=1, variants=40)
    made = wordings(["sks, red, round, shiny"], settings)
    assert made[0] == "sks, red, round, shiny" and made == wordings(["sks, red, round, shiny"], settings)
    assert len(set(made)) == len(made) > 8
    tags = [each.split(", ") for each in made[1:]]
    assert all(each[0] == "sks" and set(each[1:]) <= {"red", "round", "shiny"} for each in tags)
    # each of the three is left out of half the wordings; equal ones are counted once, so that is loose
    assert all(0 < sum(tag in each for each in tags) < len(tags) for tag in ("red", "round", "shiny"))
    assert ["sks", "shiny", "red"] in tags or ["sks", "round", "red"] in tags or ["sks", "shiny", "round"] in tags


def test_lines_and_wildcards_are_captions_of_their_own():
    settings = CaptionSettings(wildcards=True, variants=12)
    assert set(wordings(["a {red|blue} cat\n\na dog {x}"], settings)) == {"a red cat", "a blue cat", "a dog {x}"}
    assert wordings(["a {red|blue} cat"], settings)[0] == "a red cat"
    assert wordings(["a\nb"], CaptionSettings()) == ("a\nb",)


def rows(tmp_path, *given, **captions):
    Image.new("RGB", (8, 8)).save(tmp_path / "cat.png")
    lines = [json.dumps({"file_name": "cat.png"} | row) for row in given]
    (tmp_path / "metadata.jsonl").write_text("\n".join(lines))
    return [(pair.prompt, pair.captions) for pair in
            read_pairs(DataSettings(path=str(tmp_path), captions=captions), compared=False)]


def test_several_captions_are_in_lists_or_in_columns(tmp_path):
    assert rows(tmp_path, {"text": ["a cat", "a red cat", ""]}) == [("a cat", ("a red cat",))]
    both = {"short": "a cat", "long": ["a cat on a mat", "a mat"]}
    assert rows(tmp_path, both, {"short": None, "long": "b"}, columns=["short", "long"]) == [
        ("a cat", ("a cat on a mat", "a mat")), ("b", ())]
    assert rows(tmp_path, {}, {"text": "own"}, default="a cat") == [("a cat", ()), ("own", ())]
    with pytest.raises(UserError, match="has no column 'shrot' of data.captions.columns.*did you mean 'short'"):
        rows(tmp_path, both, columns=["shrot"])


def test_pairs_have_captions_too(tmp_path):
    for name in ("a", "b"):
        Image.new("RGB", (8, 8)).save(tmp_path / f"{name}.png")
    row = {"prompt": ["x", "y"], "chosen": "a.png", "rejected": "b.png"}
    (tmp_path / "pairs.jsonl").write_text(json.dumps(row))
    [pair] = read_pairs(DataSettings(path=str(tmp_path / "pairs.jsonl")))
    assert (pair.prompt, pair.captions, pair.asked_otherwise) == ("x", ("y",), ("y",))


def test_sources_are_read_in_turn_with_their_own_settings(tmp_path):
    for folder, words in (("mine", "sks, hat"), ("prior", None)):
        (tmp_path / folder).mkdir()
        Image.new("RGB", (8, 8)).save(tmp_path / folder / "0.png")
        if words:
            (tmp_path / folder / "0.txt").write_text(words)
    data = DataSettings(sources=(SourceSettings(path=str(tmp_path / "mine"), repeats=3),
                                 SourceSettings(path=str(tmp_path / "prior"), prior=True, caption="a person")),
                        captions=CaptionSettings(prefix="photo of "))
    assert [(p.prompt, p.origin, p.repeats) for p in read_pairs(data, compared=False)] == [
        ("photo of sks, hat", 0, 3), ("a person", 1, 1)]


def test_images_that_hold_their_prompts_need_no_text_beside_them(tmp_path):
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    info.add_text("parameters", "a red fox\nSteps: 20, Seed: 5")
    Image.new("RGB", (8, 8)).save(tmp_path / "0.png", pnginfo=info)
    [pair] = read_pairs(DataSettings(path=str(tmp_path)), compared=False)
    assert pair.prompt == "a red fox"
    with pytest.raises(UserError, match="NAME.txt"):
        list(read_pairs(DataSettings(path=str(tmp_path), captions={"prompts_from": "sidecar"}), compared=False))


def test_kohyas_folders_without_texts_are_captioned_by_their_names(tmp_path):
    for folder in ("10_sks dog", "1_dog"):
        (tmp_path / folder).mkdir()
        Image.new("RGB", (8, 8)).save(tmp_path / folder / "0.png")
    pairs = read_pairs(DataSettings(path=str(tmp_path)), compared=False)
    assert sorted((pair.prompt, pair.repeats) for pair in pairs) == [("dog", 1), ("sks dog", 10)]
