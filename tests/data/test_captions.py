"""Folders of captioned media and rows of one medium: what is read, what is refused, and where."""

import json

import pytest
from click.testing import CliRunner
from PIL import Image

from visalign.cli import main
from visalign.config import DataSettings
from visalign.data.captions import repeats_of
from visalign.data.preferences import read_pairs
from visalign.errors import UserError
from visalign.media.samples import Video
from visalign.media.video_files import to_video_bytes


@pytest.fixture
def folder(tmp_path):
    """Two images in subfolders, with their captions in .txt and .caption."""
    root = tmp_path / "mine"
    for name, ending in (("a/cat", ".txt"), ("a/b/dog", ".caption")):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (16, 12), "red").save((root / name).with_suffix(".png"))
        (root / name).with_suffix(ending).write_text(f"a photo of a {name[-3:]}\n")
    return root


def read(path, compared=False, **settings):
    broken = []
    pairs = read_pairs(DataSettings(path=str(path), **settings), on_bad_row=broken.append, compared=compared)
    return list(pairs), broken


def test_a_folder_gives_each_image_with_its_caption(folder):
    pairs, broken = read(folder)
    assert sorted(pair.prompt for pair in pairs) == ["a photo of a cat", "a photo of a dog"] and not broken
    assert all(pair.rejected is None and len(pair.media()) == 1 for pair in pairs)


def test_videos_are_read_as_images_are(folder):
    frames = [Image.new("RGB", (16, 16), "blue")] * 3
    (folder / "bird.mp4").write_bytes(to_video_bytes(Video(frames, 8.0)))
    (folder / "bird.txt").write_text("a bird flies")
    assert "a bird flies" in {pair.prompt for pair in read(folder)[0]}


@pytest.mark.parametrize("text", [None, "", " \n"])
def test_an_image_without_a_caption_is_a_broken_row(folder, text):
    Image.new("RGB", (8, 8)).save(folder / "alone.png")
    if text is not None:
        (folder / "alone.txt").write_text(text)
    pairs, [broken] = read(folder)
    assert len(pairs) == 2 and "alone.png: has no caption; write it into alone.txt" in str(broken)


def test_lists_that_other_programs_lay_beside_images_are_no_table(folder):
    (folder / "aspect_ratio_bucket_indices.json").write_text("{}")
    assert len(read(folder)[0]) == 2


@pytest.mark.parametrize("names", [{"file_name": "cat.png", "text": "a cat"}, {"image": "cat.png", "prompt": "a cat"},
                                   {"Image": "cat.png", "Caption": "a cat"}])
def test_rows_of_one_medium_are_captions(tmp_path, names):
    Image.new("RGB", (8, 8)).save(tmp_path / "cat.png")
    (tmp_path / "metadata.jsonl").write_text(json.dumps(names) + "\n")
    [pair] = read(tmp_path)[0]
    assert pair.prompt == "a cat" and pair.chosen == str(tmp_path / "cat.png") and pair.rejected is None


def test_rows_without_a_rejected_are_enough_for_what_learns_from_the_chosen(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "cat.png")
    file = tmp_path / "chosen.jsonl"
    file.write_text(json.dumps({"prompt": "a cat", "chosen": "cat.png"}) + "\n")
    assert len(read(file)[0]) == 1
    with pytest.raises(UserError, match="no usable pair"):
        read(file, compared=True)


def test_a_preference_method_says_what_it_needs(folder):
    with pytest.raises(UserError, match="no rejected one.*take the recipe sft_folder .flow models: sd3_soar."):
        read(folder, compared=True)


@pytest.mark.parametrize("names, repeats", [
    (["10_a/x", "20_b/y"], [1, 2]), (["10_a/x", "10_a/y"], [1, 1]), (["10_a/x", "b/y"], [1, 1]),
    (["x", "10_a/y"], [1, 1]), (["2024_trip/x", "2025_trip/y"], [1, 1]), (["0_a/x", "1_b/y"], [1, 1])])
def test_numbers_of_kohyas_folders_say_how_often_an_image_is_learnt_from(names, repeats):
    from pathlib import Path

    assert repeats_of([Path(f"{name}.png") for name in names]) == repeats


def test_data_check_counts_captioned_images(folder, tmp_path):
    done = CliRunner().invoke(main, ["data", "check", str(folder), "--sheet", str(tmp_path / "sheet.png")])
    assert done.exit_code == 0 and "2 images or videos with captions" in done.output, done.output
    assert (tmp_path / "sheet.png").is_file()


def test_a_folder_without_captions_says_what_is_missing(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "cat.png")
    with pytest.raises(UserError, match="no image or video with its caption in NAME.txt"):
        read(tmp_path)
