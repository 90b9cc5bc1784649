"""A prompt carries its source images: words@@file, split, joined, keyed by content and checked in one sentence."""

from pathlib import Path

import pytest
from PIL import Image

from visalign.errors import UserError
from visalign.media.source_images import (
    SourceCount,
    content_of,
    is_edit,
    prompt_group,
    put_into,
    sample_of,
    source_images_of,
    sources_key,
    split_prompt,
    with_sources,
)

EDIT = SourceCount("an edit model", 1, 2)


@pytest.fixture
def files(tmp_path):
    for name, colour in (("a.png", "red"), ("b.png", "blue")):
        Image.new("RGB", (6, 4), colour).save(tmp_path / name)
    return tmp_path / "a.png", tmp_path / "b.png"


@pytest.mark.parametrize("prompt, parts", [
    ("make it red", ("make it red", ())),
    ("make it red @@ a.png", ("make it red", (Path("a.png"),))),
    ("join them@@a.png@@dir/b.png", ("join them", (Path("a.png"), Path("dir/b.png"))))])
def test_words_and_files_are_taken_apart_and_joined_again(prompt, parts):
    assert split_prompt(prompt) == parts
    assert split_prompt(with_sources(*parts)) == parts


def test_a_prompt_is_put_into_a_template_before_its_images(files):
    template = "{prompt}, quality 4 of 10"
    assert put_into(template, "a {red} cat") == "a {red} cat, quality 4 of 10"
    assert put_into(None, "a cat") == "a cat"
    edit = with_sources("make it red ", files[:1], {"requirement": "red"})
    changed = put_into(template, edit)
    assert split_prompt(changed) == ("make it red, quality 4 of 10", files[:1])
    assert changed.partition("@@")[2] == edit.partition("@@")[2]
    assert put_into(template, "an email to me@@home") == "an email to me@@home, quality 4 of 10"


def test_words_that_hold_the_separator_cannot_carry_images():
    assert with_sources("an @@ alone", ()) == "an @@ alone"
    with pytest.raises(UserError, match="'an @@ alone' holds @@"):
        with_sources("an @@ alone", ["a.png"])


def test_the_images_are_read_in_order_and_their_key_is_their_bytes(files, tmp_path):
    first, second = source_images_of(with_sources("join", files))
    assert first.getpixel((0, 0)) == (255, 0, 0) and second.getpixel((0, 0)) == (0, 0, 255)
    copy = tmp_path / "copy.png"
    copy.write_bytes(files[0].read_bytes())
    assert sources_key([copy]) == sources_key(files[:1]) != sources_key(files[1:])
    assert sources_key(files) != sources_key(files[::-1])


@pytest.mark.parametrize("prompt", ["a @@ b", "an email to me@@ ~nobody-here/x", "a @@ " + "long " * 100, "@@", "x@@{"])
def test_words_that_only_look_like_it_are_words(prompt):
    split_prompt(prompt)
    assert not is_edit(prompt) and content_of(prompt) == prompt_group(prompt) == prompt
    assert sample_of(prompt, prompt, None).sources == ()


@pytest.mark.parametrize("given, words", [
    ("make it red", "'make it red': names no image; an edit model takes 'words@@image file', or a row with a column "
                    "source, of at most 2 images"),
    ("x@@a.png@@b.png@@a.png", "names 3 images; an edit model takes"),
    ("x@@a.png@@gone.png", "names gone.png, which does not exist"),
    ("x@@notes.txt", "p 'x': notes.txt is not a readable image"),
    ("x@@cut.png", "p 'x': cut.png is not a readable image")])
def test_bad_sources_end_in_one_sentence(files, tmp_path, monkeypatch, given, words):
    monkeypatch.chdir(tmp_path)
    Path("notes.txt").write_text("no image")
    Image.effect_noise((60, 60), 50).save("cut.png")
    Path("cut.png").write_bytes(Path("cut.png").read_bytes()[:900])
    EDIT.check(["good@@a.png@@b.png", "fine@@b.png"], "p")
    with pytest.raises(UserError) as error:
        EDIT.check(["fine@@b.png", given], "p")
    assert words in str(error.value) and "\n" not in str(error.value)
