"""What a file is by its name and its first bytes."""

import pytest

from visalign.media import kinds


@pytest.mark.parametrize("name", ["a.PNG", "a.jfif", "a.avif", "a.heic", "a.HEIF", "a.ppm", "a.bmp", "a.tif", "a.jp2"])
def test_images_by_name(name):
    assert kinds.is_image_name(name) and not kinds.is_video_name(name)


@pytest.mark.parametrize("name", ["a.ts", "a.MOV", "a.m4v", "a.m2ts", "a.wmv", "a.flv", "a.3gp", "a.mpg"])
def test_videos_by_name(name):
    assert kinds.is_video_name(name) and not kinds.is_image_name(name)


@pytest.mark.parametrize("name", ["a.eps", "a.ps", "a.svg", "a.txt", "a", "a.safetensors"])
def test_programs_texts_and_others_are_neither(name):
    assert not kinds.is_image_name(name) and not kinds.is_video_name(name)


@pytest.mark.parametrize("head, video", [
    (b"\0\0\0\x20ftypisom", True), (b"\0\0\0\x20ftypqt  ", True), (b"\0\0\0\x20ftypavif", False),
    (b"\0\0\0\x20ftypheic", False), (b"\0\0\0\x20ftypmif1", False), (b"RIFF\0\0\0\0AVI LIST", True),
    (b"RIFF\0\0\0\0WEBPVP8 ", False), (b"\x1a\x45\xdf\xa3", True), (b"FLV\x01", True), (b"\x89PNG\r\n\x1a\n", False),
    ((b"\x47" + bytes(187)) * 3, True), (b"GGGG", False), (b"", False)])
def test_bytes_without_a_name_are_told_by_their_head(head, video, tmp_path):
    assert kinds.is_video(head) == video
    (tmp_path / "no_ending").write_bytes(head)
    assert kinds.is_video(tmp_path / "no_ending") == video


def test_numbers_in_names_count():
    names = ["frame_10", "frame_9", "frame_1", "frame_01b", "a", "frame_"]
    assert sorted(names, key=kinds.in_order) == ["a", "frame_", "frame_1", "frame_01b", "frame_9", "frame_10"]


def test_what_the_system_put_there_is_nobody_s_image():
    assert all(map(kinds.is_hidden, ("._a.png", ".DS_Store", "Thumbs.db", "desktop.ini")))
    assert not kinds.is_hidden("thumbs.png")
