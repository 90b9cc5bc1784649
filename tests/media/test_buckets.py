"""Aspect-ratio buckets: the published tables, and which image goes where."""

import math

import pytest
from PIL import Image

from visalign.media.buckets import Buckets, bucket_sizes, usual_step
from visalign.media.fitting import fit_of
from visalign.media.image_files import upright_size
from visalign.media.samples import fit_image


@pytest.mark.parametrize("side, least, most, count", [
    (1024, 256, 2048, 41), (1024, 512, 2048, 33), (512, 256, 1024, 17)])
def test_the_tables_have_the_published_numbers_of_sizes(side, least, most, count):
    sizes = bucket_sizes(side**2, 64, least, most)
    assert len(sizes) == count and (side, side) in sizes
    assert all((width, height) in sizes for height, width in sizes)
    assert all(least <= n <= most and n % 64 == 0 for size in sizes for n in size)
    assert max(map(math.prod, sizes)) == side**2


def test_the_usual_table_is_that_of_half_to_twice_the_side():
    assert Buckets.around(1024**2, usual_step(1024**2)) == Buckets(1024**2, 64, 512, 2048)
    assert len(Buckets.around(512**2, 64).sizes) == 17
    assert usual_step(64**2) == 8 and usual_step(64**2, 16) == 16 and usual_step(1024**2, 48) == 96
    assert min(map(math.prod, Buckets.around(1024**2, 64).sizes)) / 1024**2 == pytest.approx(0.906, abs=1e-3)


def test_a_side_that_is_no_multiple_still_has_its_square():
    assert (960, 960) in bucket_sizes(1000**2, 64, 512, 1984)


def test_an_image_goes_to_the_nearest_shape():
    buckets = Buckets(1024**2, 64, 512, 2048)
    assert buckets.size_for((1000, 1000)) == (1024, 1024)
    assert buckets.size_for((1080, 1920)) == (768, 1344)  # 16:9; log ratios -0.5754, and -0.5596 against -0.5108
    assert buckets.size_for((1920, 1080)) == (1344, 768)
    assert buckets.size_for((100, 9000)) == (512, 2048)


def test_an_image_that_would_be_enlarged_goes_to_a_smaller_size_or_nowhere():
    buckets = Buckets(1024**2, 64, 512, 2048, enlarge=1.0)
    assert buckets.size_for((1024, 1024)) == (1024, 1024)
    assert buckets.size_for((1023, 1023)) == (960, 960)
    assert buckets.size_for((600, 900)) == (576, 896)  # nearest is 832x1216, of 1.39 times its sides
    assert buckets.size_for((500, 900)) is None
    assert Buckets(1024**2, 64, 512, 2048, enlarge=1.4).size_for((600, 900)) == (832, 1216)


def test_a_fit_says_what_is_done_to_the_pixels():
    fit = fit_of((20, 24), (8, 16))
    assert fit.scaled == (13, 16) and fit.crop == (2, 0)  # 16/24 of 20 is 13.3, of which 8 rows are kept
    assert fit.numbers == (20, 24, 2, 0, 8, 16)
    assert fit_of((64, 64), (64, 64)).numbers == (64, 64, 0, 0, 64, 64)
    image = Image.linear_gradient("L").resize((24, 20)).convert("RGB")
    by_hand = image.resize((16, 13), Image.Resampling.LANCZOS).crop((0, 2, 16, 10))
    assert fit_image(image, 16, 8).tobytes() == by_hand.tobytes()


def test_a_turned_photograph_has_the_size_that_it_is_read_at(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (30, 20)).save(tmp_path / "turned.jpg", exif=exif)
    Image.new("RGB", (30, 20)).save(tmp_path / "plain.png")
    assert upright_size(str(tmp_path / "turned.jpg"), "row 1") == (30, 20)
    assert upright_size((tmp_path / "plain.png").read_bytes(), "row 2") == (20, 30)
