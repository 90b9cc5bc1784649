"""Pictures and clips of every odd kind: read as what a viewer shows, or refused in one sentence."""

import io

import numpy as np
import pytest
from PIL import Image

from visalign import media
from visalign.errors import UserError
from visalign.media import Sample, Video, read_image
from visalign.video import read_media, to_video_bytes, to_webp


def saved(image, tmp_path, name="x.png", **options):
    image.save(tmp_path / name, **options)
    return tmp_path / name


def test_sixteen_bit_grey_is_scaled_and_not_cut(tmp_path):
    pixels = np.array([[0, 32896], [65535, 257]], np.uint16)
    image = read_image(saved(Image.fromarray(pixels), tmp_path), "x")
    assert np.asarray(image)[..., 0].tolist() == [[0, 128], [255, 1]]


def test_cmyk_palette_and_transparency_become_rgb_on_white(tmp_path):
    cmyk = read_image(saved(Image.new("CMYK", (4, 4), (0, 255, 255, 0)), tmp_path, "x.jpg", quality=95), "x")
    assert cmyk.mode == "RGB" and cmyk.getpixel((1, 1))[0] > 200 > 60 > cmyk.getpixel((1, 1))[1]
    palette = Image.new("RGBA", (4, 4), (255, 0, 0, 0)).quantize(4)
    assert read_image(saved(palette, tmp_path), "x").getpixel((0, 0)) == (255, 255, 255)


def test_exif_rotation_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turn a quarter
    assert read_image(saved(Image.new("RGB", (8, 4)), tmp_path, "x.jpg", exif=exif), "x").size == (4, 8)


def test_bombs_are_refused_before_they_are_decoded(tmp_path, monkeypatch):
    monkeypatch.setattr(media, "MAX_PIXELS", 50)
    with pytest.raises(UserError, match="decompression bomb"):
        read_image(saved(Image.new("RGB", (8, 8)), tmp_path), "x")


@pytest.mark.parametrize("content", [b"", b"nope", b"\x89PNG\r\n\x1a\n trunc"])
def test_broken_bytes_name_where_they_stood(content):
    with pytest.raises(UserError, match="row 7: the image bytes is not a readable picture"):
        read_image(content, "row 7")


FRAMES = [Image.new("RGB", (16, 16), (40 * i, 0, 255 - 40 * i)) for i in range(6)]


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_animated_pictures_are_clips_and_equal_frames_are_not_lost(kind):
    buffer = io.BytesIO()
    FRAMES[0].save(buffer, kind, save_all=True, append_images=[FRAMES[0], *FRAMES[1:]], duration=100)
    clip = read_media(buffer.getvalue(), "x")
    assert isinstance(clip, Video) and len(clip.frames) == 7 and clip.fps == pytest.approx(10)
    with pytest.raises(UserError, match="animated"):
        read_image(buffer.getvalue(), "x")


@pytest.mark.parametrize("container", ["mp4", "webm", "matroska"])
def test_clips_survive_a_round_trip(container, tmp_path):
    clip = read_media(to_video_bytes(Video(FRAMES, 8.0), container), "x")
    assert len(clip.frames) == 6 and clip.fps == pytest.approx(8, rel=0.02)
    error = np.abs(np.asarray(clip.frames[3], int) - np.asarray(FRAMES[3], int)).max()
    assert error <= (0 if container == "matroska" else 12)


def test_odd_sizes_and_long_clips(tmp_path):
    frames = [Image.new("RGB", (17, 15), (i, i, i)) for i in range(0, 200, 2)]
    (tmp_path / "x.mp4").write_bytes(to_video_bytes(Video(frames, 25.0)))
    clip = read_media(tmp_path / "x.mp4", "x", max_frames=8)
    assert clip.frames[0].size == (16, 14) and len(clip.frames) == 8
    greys = [frame.getpixel((5, 5))[0] for frame in clip.frames]
    assert greys == sorted(greys) and greys[-1] > 180 and clip.fps == pytest.approx(7 * 25 / 99, rel=0.1)


def test_clips_without_frames_and_broken_ones_are_named(tmp_path):
    (tmp_path / "x.mp4").write_bytes(b"\0\0\0\x18ftypmp42" + b"\0" * 64)
    for path, word in ((tmp_path / "x.mp4", "x.mp4"), (tmp_path / "gone.mp4", "no video file")):
        with pytest.raises(UserError, match=word):
            read_media(path, "row 3")
    import av

    with av.open(str(tmp_path / "empty.mkv"), "w") as container:
        stream = container.add_stream("ffv1", rate=5)
        stream.width = stream.height = 16
        container.start_encoding()
    with pytest.raises(UserError, match="empty.mkv"):
        read_media(tmp_path / "empty.mkv", "row 4")


def test_samples_know_their_modality_and_frames():
    clip = Sample("x", Video(FRAMES, 8.0))
    assert clip.modality == "video" and [f.getpixel((0, 0))[0] for f in clip.frames(3)] == [0, 80, 200]
    assert clip.with_media(FRAMES[0]).modality == "image" and len(clip.with_media(FRAMES[0]).frames(3)) == 1


def test_previews_are_small_and_animated():
    assert read_media(to_webp(Video(FRAMES, 8.0)), "x").frames[0].size == (16, 16)
