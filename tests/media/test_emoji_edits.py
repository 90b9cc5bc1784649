"""What an instruction asks for is drawn exactly, and a result is measured by how far it went there."""

import pytest
from PIL import Image, ImageDraw

from visalign.media.emoji_edits import EDITS, TOLERANCE, apply_edit, score_edit


def drawn(background="white", box=(8, 16, 31, 55), colour="orange") -> Image.Image:
    image = Image.new("RGB", (64, 64), background)
    ImageDraw.Draw(image).rectangle(box, colour)
    return image


@pytest.mark.parametrize("words", EDITS)
def test_the_edit_scores_one_and_the_source_nothing(words):
    source = drawn("black", (8, 12, 31, 59))
    assert score_edit(words, source, apply_edit(words, source)).product == 1
    assert score_edit(words, source, source).product == 0


def test_half_of_an_edit_is_half_done_and_keeps_everything():
    source = drawn()
    half = Image.blend(source, apply_edit("make it blue", source), 0.5)
    found = score_edit("make it blue", source, half)
    assert found.done == pytest.approx(0.5, abs=0.01) and found.kept > 0.99


def test_nothing_left_of_the_drawing_is_half_a_mirroring_that_keeps_too_little():
    """The projection of (white - source) on (mirrored - source) is 1/2 where the two do not overlap; what is left is
    (source + mirrored) / 2 - white: half of the drawing's difference from white on twice its area."""
    source = drawn()
    found = score_edit("mirror it", source, Image.new("RGB", (64, 64), "white"))
    missing = [(1 - part / 255) / 2 for part in (255, 165, 0)]
    left = (sum(part**2 for part in missing) / 3 * 2 * 24 * 40 / 64**2) ** 0.5
    assert found.done == pytest.approx(0.5, abs=1e-3)
    assert found.kept == pytest.approx(1 - left / TOLERANCE, abs=1e-3)


def test_a_stain_elsewhere_is_not_kept():
    source = drawn()
    stained = apply_edit("make it red", source)
    ImageDraw.Draw(stained).rectangle((56, 0, 63, 7), "blue")
    found = score_edit("make it red", source, stained)
    assert found.done == 1
    assert found.kept == pytest.approx(1 - (2 / 3 * 64 / 64**2) ** 0.5 / TOLERANCE, abs=1e-3)


def test_an_edit_that_cannot_be_seen_has_no_score():
    symmetric = drawn(box=(16, 16, 47, 47))
    assert score_edit("mirror it", symmetric, symmetric) is None
    assert score_edit("make it grey", drawn(colour="grey"), symmetric) is None


def test_edits_change_what_they_name_and_nothing_else():
    source = drawn("ivory")
    red, dark, light, half = (apply_edit(words, source) for words in (
        "make it red", "make it dark red", "make it light red", "remove the top half"))
    assert {image.getpixel((50, 50)) for image in (red, dark, light, half)} == {source.getpixel((50, 50))}
    assert dark.getpixel((20, 40)) < red.getpixel((20, 40)) < light.getpixel((20, 40))
    assert half.getpixel((20, 20)) == source.getpixel((0, 0)) and half.getpixel((20, 40)) == source.getpixel((20, 40))
