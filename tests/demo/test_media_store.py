"""Media that people vote on say nothing of where they come from."""

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from visalign.media.samples import Video
from visalign.media.video_files import write_media
from visalign_demo.media_store import opaque_copy


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp", "a.bmp"])
def test_an_image_that_is_voted_on_keeps_its_pixels_and_no_metadata(tmp_path, name):
    (tmp_path / "out").mkdir()
    image, about = Image.new("RGB", (16, 12), (200, 40, 90)), PngInfo()
    about.add_text("parameters", "a cat\nSteps: 20, Model: secret-finetune")
    exif = Image.Exif()
    exif[0x010E] = "secret-finetune"
    options = {"png": {"pnginfo": about}, "bmp": {}}.get(name[2:], {"exif": exif, "quality": 95})
    image.save(tmp_path / name, **options)
    copy = tmp_path / "out" / opaque_copy(tmp_path / name, tmp_path / "out")
    assert copy.suffix == ".png" and b"secret" not in copy.read_bytes()
    with Image.open(copy) as shown, Image.open(tmp_path / name) as given:
        assert not shown.info
        assert shown.tobytes() == given.convert("RGB").tobytes()


def test_videos_of_any_kind_become_one_kind(tmp_path):
    (tmp_path / "out").mkdir()
    video = Video([Image.new("RGB", (16, 16), (40 * i, 0, 0)) for i in range(5)], 8.0)
    files = [write_media(video, tmp_path / "a", kind) for kind in ("gif", "mkv", "frames")]
    assert len({opaque_copy(file, tmp_path / "out").rpartition(".")[2] for file in files}) == 1
