"""Images of every kind: their colours, pages, animations and sizes, and what is said of what was not used."""

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms

from visalign.errors import UserError
from visalign.media import image_files, kinds
from visalign.media.image_files import decode_image, read_image
from visalign.media.samples import Video, fit_image, middle
from visalign.media.video_files import modality_of, read_media, write_frames


def bytes_of(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def gradient(mode: str = "RGB") -> Image.Image:
    ramp = np.tile(np.linspace(20, 230, 32).astype(np.uint8), (32, 1))
    return Image.merge("RGB", [Image.fromarray(each) for each in (ramp, ramp.T.copy(), 255 - ramp)]).convert(mode)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "AVIF", "HEIF", "BMP", "PPM", "TIFF", "JPEG2000", "TGA", "ICO",
                                  "PCX", "SGI", "GIF", "MPO"])
def test_every_kind_of_still_image_is_read_and_is_no_video(kind, tmp_path):
    kinds.image_formats()
    if kind not in Image.SAVE:
        pytest.skip(f"Pillow was built without {kind}")
    content = bytes_of(gradient(), kind)
    image = read_media(content, "x")
    assert isinstance(image, Image.Image) and image.mode == "RGB" and image.size == (32, 32)
    (tmp_path / "x").write_bytes(content)
    assert modality_of(tmp_path / "x") == "image"


def test_programs_are_never_run_whatever_the_ending_says(tmp_path):
    (tmp_path / "x.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n")
    with pytest.raises(UserError, match="not a readable image"):
        read_image(tmp_path / "x.png", "x")


def swapped_profile() -> bytes:
    """A profile whose red and green are those of sRGB exchanged, in what it says its primaries are."""
    data = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    places = {bytes(data[at:at + 4]): at for at in range(128, 128 + 4 + 12 * data[131] + 4, 4)}
    red, green = places[b"rXYZ"], places[b"gXYZ"]
    data[red + 4:red + 12], data[green + 4:green + 12] = data[green + 4:green + 12], data[red + 4:red + 12]
    return bytes(data).replace("sRGB built-in".encode("utf-16-be"), "made by hand!".encode("utf-16-be"))


def test_colours_are_those_that_the_profile_means():
    red = Image.new("RGB", (8, 8), (250, 10, 10))
    profile = swapped_profile()
    assert "made by hand" in ImageCms.getProfileDescription(ImageCms.ImageCmsProfile(io.BytesIO(profile)))
    for kind in ("PNG", "JPEG", "WEBP", "TIFF"):
        seen = read_image(bytes_of(red, kind, icc_profile=profile), "x").getpixel((4, 4))
        assert seen[1] > 235 and seen[0] < 30, (kind, seen)  # the profile says that the first channel is green
    clear = red.convert("RGBA")
    clear.putalpha(0)
    assert read_image(bytes_of(clear, "PNG", icc_profile=profile), "x").getpixel((4, 4)) == (255, 255, 255)


def test_an_srgb_profile_changes_no_bit_and_a_broken_or_foreign_one_is_ignored_with_a_word():
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    image, remarks = gradient(), []
    assert read_image(bytes_of(image, "PNG", icc_profile=srgb), "x").tobytes() == image.tobytes()
    for profile in (b"nonsense", swapped_profile()[:200]):
        remarks.clear()
        seen = decode_image(bytes_of(image, "PNG", icc_profile=profile), "x", remarks=remarks)
        assert seen.tobytes() == image.tobytes() and "broken colour profile" in remarks[0]
    cmyk = gradient("CMYK")
    remarks.clear()
    decode_image(bytes_of(cmyk, "TIFF", icc_profile=srgb), "x", remarks=remarks)
    assert remarks == ["its colour profile is not for CMYK images and was ignored"]


@pytest.mark.parametrize("kind", ["TIFF", "HEIF"])
def test_pages_are_no_video_and_the_first_is_taken_with_a_word(kind):
    kinds.image_formats()
    content = bytes_of(Image.new("RGB", (64, 64), "red"), kind, save_all=True,
                       append_images=[Image.new("RGB", (64, 64), "blue")])
    remarks = []
    image = read_media(content, "x", remarks=remarks)
    assert isinstance(image, Image.Image) and image.getpixel((30, 30))[0] > 200
    assert remarks == ["the first of 2 pages was taken"]


def test_an_animation_of_one_frame_is_an_image():
    assert isinstance(read_media(bytes_of(gradient(), "GIF", save_all=True), "x"), Image.Image)


def test_a_long_animation_lasts_as_long_and_few_frames_are_ever_held():
    first, *rest = [Image.new("L", (32, 24), i % 250) for i in range(300)]
    content = bytes_of(first, "GIF", save_all=True, append_images=rest, duration=40)
    video = read_media(content, "x", max_frames=16)
    assert len(video.frames) == 16 and len(video.frames) / video.fps == pytest.approx(300 * 0.04, rel=0.01)
    assert len(image_files.thinned(((i, first) for i in range(1200)), 16)) <= 32


def test_large_frames_are_made_smaller_on_the_way_and_that_is_said(monkeypatch, tmp_path):
    monkeypatch.setattr(image_files, "HELD_PIXELS", 2 * 4 * 100)
    monkeypatch.setattr("visalign.media.video_files.HELD_PIXELS", 2 * 4 * 100)
    frames = [Image.new("RGB", (40, 20), (i, i, i)) for i in (10, 90, 200)]
    content = bytes_of(frames[0], "GIF", save_all=True, append_images=frames[1:])
    write_frames(Video(frames, 4), tmp_path / "clip")
    for data in (content, tmp_path / "clip"):
        remarks = []
        video = read_media(data, "x", 4, remarks)
        assert video.frames[0].width < 40 and len(remarks) == 1 and "frames of 40x20 were read at" in remarks[0]


def test_an_animated_bomb_is_refused_before_it_is_decoded(monkeypatch):
    monkeypatch.setattr(image_files, "MOST_DECODED", 100)
    content = bytes_of(gradient("P"), "GIF", save_all=True, append_images=[Image.new("P", (32, 32), 3)])
    with pytest.raises(UserError, match="32x32 and 2 frames.*decompression bomb"):
        read_media(content, "x")


def test_an_image_of_one_pixel_s_width_is_fitted_without_being_blown_up():
    thin = Image.fromarray(np.linspace(0, 255, 60_000).astype(np.uint8)[:, None]).convert("RGB")
    image = fit_image(thin, 512, 512)  # to cover, it would have 512 x 30,720,000 pixels
    assert image.size == (512, 512) and 120 < image.getpixel((9, 9))[0] < 135
    same = Image.new("RGB", (300, 200), "red")
    assert fit_image(same, 64, 64).getpixel((0, 0)) == (255, 0, 0)


@settings(max_examples=40, deadline=None)
@given(st.binary(max_size=200), st.sampled_from(["PNG", "GIF", "WEBP", "JPEG", "TIFF", "BMP", "AVIF"]), st.data())
def test_altered_files_are_read_or_refused_in_one_sentence(noise, kind, data):
    content = bytearray(bytes_of(gradient(), kind))
    at = data.draw(st.integers(0, len(content)))
    content[at:at + len(noise)] = noise
    for damaged in (bytes(content), noise, bytes(content[:at])):
        try:
            read_media(damaged, "row 3", 4, [])
        except UserError as error:
            assert "row 3" in str(error)


def test_only_the_middle_of_an_image_that_is_nearly_a_line_goes_to_a_library_s_scaling():
    line = Image.fromarray(np.arange(60_000, dtype=np.uint16).astype(np.uint8)[:, None]).convert("RGB")
    kept = middle(line)
    assert kept.size == (1, 200) and kept.getpixel((0, 100)) == line.getpixel((0, 30_000))
    assert middle(gradient()).size == (32, 32)
