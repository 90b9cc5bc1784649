"""Images and videos of every odd kind: read as what a viewer shows, or refused in one sentence."""

import io
import struct

import numpy as np
import pytest
from PIL import Image

from visalign.errors import UserError
from visalign.media import image_files
from visalign.media.image_files import read_image
from visalign.media.samples import Sample, Video
from visalign.media.video_files import (
    VIDEO_FORMATS,
    media_file,
    read_media,
    save_sheet,
    to_video_bytes,
    to_webp,
    write_frames,
    write_media,
)


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
    monkeypatch.setattr(image_files, "MAX_PIXELS", 50)
    with pytest.raises(UserError, match="decompression bomb"):
        read_image(saved(Image.new("RGB", (8, 8)), tmp_path), "x")


@pytest.mark.parametrize("content", [b"", b"nope", b"\x89PNG\r\n\x1a\n trunc"])
def test_broken_bytes_name_where_they_stood(content):
    with pytest.raises(UserError, match="row 7: the image bytes is not a readable image"):
        read_image(content, "row 7")


FRAMES = [Image.new("RGB", (16, 16), (40 * i, 0, 255 - 40 * i)) for i in range(6)]


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_animated_images_are_videos_and_equal_frames_are_not_lost(kind):
    buffer = io.BytesIO()
    FRAMES[0].save(buffer, kind, save_all=True, append_images=[FRAMES[0], *FRAMES[1:]], duration=100)
    video = read_media(buffer.getvalue(), "x")
    assert isinstance(video, Video) and len(video.frames) == 7 and video.fps == pytest.approx(10)
    with pytest.raises(UserError, match="animated"):
        read_image(buffer.getvalue(), "x")


@pytest.mark.parametrize("container", ["mp4", "webm", "matroska"])
def test_videos_survive_a_round_trip(container, tmp_path):
    video = read_media(to_video_bytes(Video(FRAMES, 8.0), container), "x")
    assert len(video.frames) == 6 and video.fps == pytest.approx(8, rel=0.02)
    error = np.abs(np.asarray(video.frames[3], int) - np.asarray(FRAMES[3], int)).max()
    assert error <= (0 if container == "matroska" else 12)


def test_odd_sizes_and_long_videos(tmp_path):
    frames = [Image.new("RGB", (17, 15), (i, i, i)) for i in range(0, 200, 2)]
    (tmp_path / "x.mp4").write_bytes(to_video_bytes(Video(frames, 25.0)))
    video = read_media(tmp_path / "x.mp4", "x", max_frames=8)
    assert video.frames[0].size == (16, 14) and len(video.frames) == 8
    greys = [frame.getpixel((5, 5))[0] for frame in video.frames]
    assert greys == sorted(greys) and greys[-1] > 180 and video.fps == pytest.approx(7 * 25 / 99, rel=0.1)


def test_videos_without_frames_and_broken_ones_are_named(tmp_path):
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
    video = Sample("x", Video(FRAMES, 8.0))
    assert video.modality == "video" and [f.getpixel((0, 0))[0] for f in video.frames(3)] == [0, 80, 200]
    assert video.with_media(FRAMES[0]).modality == "image" and len(video.with_media(FRAMES[0]).frames(3)) == 1


def test_previews_are_small_and_animated():
    assert read_media(to_webp(Video(FRAMES, 8.0)), "x").frames[0].size == (16, 16)


def variable_rate_video(path):
    """Grey 0 for a second, then 40 steps of 20 ms to grey 200."""
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=50, options={"crf": "1"})
        stream.width = stream.height = 16
        stream.pix_fmt = "yuv420p"
        for i, moment in enumerate([0, *range(50, 90)]):
            frame = av.VideoFrame.from_image(Image.new("RGB", (16, 16), (5 * i,) * 3))
            frame.pts = moment
            for packet in stream.encode(frame):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    return path


def test_a_variable_rate_becomes_an_even_one(tmp_path):
    video = read_media(variable_rate_video(tmp_path / "x.mp4"), "x", max_frames=19)
    greys = [frame.getpixel((8, 8))[0] for frame in video.frames]
    assert len(video.frames) == 19 and video.fps == pytest.approx(18 / 1.78, rel=0.02)
    assert all(grey < 12 for grey in greys[:5])  # the second that nothing changes is half of the video
    assert greys == sorted(greys) and greys[-1] > 185


def test_sideways_films_are_turned_upright(tmp_path):
    """The matrix in a phone's track header: to be shown a quarter clockwise, so that left becomes top."""
    frame = Image.new("RGB", (32, 16), "black")
    frame.paste("white", (0, 0, 16, 16))
    content = bytearray(to_video_bytes(Video([frame] * 3, 8.0)))
    matrix = content.index(b"tkhd") + 4 + 40  # after version, times, track, duration, layer and volume
    content[matrix:matrix + 36] = struct.pack(">9i", 0, 1 << 16, 0, -(1 << 16), 0, 0, 16 << 16, 0, 1 << 30)
    upright = read_media(bytes(content), "x").frames[0]
    assert upright.size == (16, 32)
    assert upright.getpixel((8, 4))[0] > 200 > 60 > upright.getpixel((8, 28))[0]


def test_sound_is_ignored_and_a_file_with_nothing_else_refused(tmp_path):
    import av

    for name, with_image in (("both.mp4", True), ("sound.mp4", False)):
        with av.open(str(tmp_path / name), "w") as container:
            streams = [container.add_stream("aac", rate=8000, layout="mono")]
            if with_image:
                streams.append(container.add_stream("libx264", rate=8))
                streams[1].width = streams[1].height = 16
                streams[1].pix_fmt = "yuv420p"
            for stream in streams:
                frames = [av.VideoFrame.from_image(frame) for frame in FRAMES]
                if stream.type == "audio":
                    samples = np.zeros((1, 6000), np.float32)
                    frames = [av.AudioFrame.from_ndarray(samples, "fltp", "mono")]
                    frames[0].sample_rate = 8000
                for packet in [p for frame in frames for p in stream.encode(frame)] + stream.encode():
                    container.mux(packet)
    assert len(read_media(tmp_path / "both.mp4", "x").frames) == 6
    with pytest.raises(UserError, match="sound.mp4 holds no image stream"):
        read_media(tmp_path / "sound.mp4", "x")


def test_a_folder_of_frames_is_a_video_bit_by_bit(tmp_path):
    write_frames(Video(FRAMES, 12.0), tmp_path / "clip")
    video = read_media(tmp_path / "clip", "x")
    assert video.fps == 12 and [f.tobytes() for f in video.frames] == [f.tobytes() for f in FRAMES]
    fewer = read_media(tmp_path / "clip", "x", max_frames=3)
    assert len(fewer.frames) == 3 and fewer.fps == pytest.approx(12 * 2 / 5)
    Image.new("RGB", (4, 4)).save(tmp_path / "clip" / "99999.png")
    with pytest.raises(UserError, match="differ in size"):
        read_media(tmp_path / "clip", "row 5")
    (tmp_path / "clip" / "frames.json").write_text("{}")
    with pytest.raises(UserError, match="row 5: .* has no frames.json that says"):
        read_media(tmp_path / "clip", "row 5")


def test_files_for_images_and_videos(monkeypatch):
    from visalign.media import video_files

    video = Video(FRAMES, 8.0)
    assert media_file(FRAMES[0])[0] == ".png" and media_file(video)[0] == ".mp4"
    suffix, content = media_file(video, lossless=True)
    assert suffix == ".mkv" and [f.tobytes() for f in read_media(content, "x").frames] == [f.tobytes() for f in FRAMES]
    monkeypatch.setitem(video_files.CODECS, "mp4", ("an encoder that is not built in", "yuv420p", {}))
    video_files.common_container.cache_clear()
    assert media_file(video)[0] == ".webm"  # what browsers play where there is no H.264
    video_files.common_container.cache_clear()


@pytest.mark.parametrize("kind", VIDEO_FORMATS)
def test_every_format_is_written_whole_and_read_back(kind, tmp_path):
    video = Video(FRAMES, 10.0)
    file = write_media(video, tmp_path / "00000", kind)
    again = read_media(file, "x")
    assert file.name == ("00000" if kind == "frames" else f"00000.{kind}") and again.fps == pytest.approx(10, rel=0.02)
    assert len(again.frames) == 6 and not list(tmp_path.glob(".tmp*"))
    if kind in ("mkv", "frames"):
        assert [f.tobytes() for f in again.frames] == [f.tobytes() for f in FRAMES]
    assert write_media(FRAMES[0], tmp_path / "still", kind).name == "still.png"


def test_sheets_of_videos_are_strips_and_loops(tmp_path):
    rows = [("moves", [Video(FRAMES, 8.0), Video(FRAMES[:3], 4.0)]), ("an image", [FRAMES[2]])]
    save_sheet(rows, tmp_path / "sheet.png", cell=20, label_width=50)
    strip = Image.open(tmp_path / "sheet.png")
    assert strip.size == (50 + 4 * 20 + 4 + 3 * 20 + 4, 2 * 24)
    loop = read_media(tmp_path / "sheet.webp", "x")
    assert isinstance(loop, Video) and len(loop.frames) == 6 and loop.fps == pytest.approx(8, rel=0.05)
    assert loop.frames[0].getpixel((60, 10)) != loop.frames[5].getpixel((60, 10))
    save_sheet(rows[1:], tmp_path / "still.png")
    assert not (tmp_path / "still.webp").exists()
