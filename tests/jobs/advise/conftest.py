"""Data of every kind, small: tables with images of two colours, folders, texts."""

import json

import pytest
from PIL import Image

COLOURS = ("red", "blue", "green", "pink", "black", "white")


@pytest.fixture
def images(tmp_path):
    """Six images, named by their colours."""
    for colour in COLOURS:
        Image.new("RGB", (16, 16), colour).save(tmp_path / f"{colour}.png")
    return tmp_path


@pytest.fixture
def table(images):
    """Writes rows of JSONL beside the images."""
    def write(rows, name="data.jsonl"):
        (images / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
        return images / name

    return write


@pytest.fixture
def pairs():
    """Rows of pairs; more: columns by the number of the row."""
    def rows(count=6, **more):
        return [{"prompt": f"a {colour} thing {number}", "chosen": f"{colour}.png",
                 "rejected": f"{COLOURS[(number + 1) % 6]}.png"} | {name: of(number) for name, of in more.items()}
                for number in range(count) for colour in [COLOURS[number % 6]]]

    return rows


@pytest.fixture
def singles():
    """Rows of single images; more: columns by the number of the row."""
    def rows(count=6, **more):
        return [{"prompt": f"a {COLOURS[number % 6]} thing {number}", "image": f"{COLOURS[number % 6]}.png"}
                | {name: of(number) for name, of in more.items()} for number in range(count)]

    return rows


@pytest.fixture
def texts():
    """Rows of pairs of text."""
    return [{"prompt": f"What is {number}?", "chosen": f"A number, {number}.", "rejected": "I do not know."}
            for number in range(8)]


@pytest.fixture
def folder(images):
    """A folder of images with captions, and the name of it."""
    (images / "photos").mkdir()
    for number, colour in enumerate(COLOURS):
        Image.new("RGB", (16, 16), colour).save(images / "photos" / f"{number}.png")
        (images / "photos" / f"{number}.txt").write_text(f"a {colour} thing")
    return images / "photos"
