"""Of two embedded drawings the chosen one fits the caption and the rejected one does not; none is held out."""

import pyarrow.parquet as pq

from visalign.config.offline import DataSettings
from visalign.data.embedded_images import EMOJI, emoji_captions
from visalign.data.embedded_pairs import PER_CAPTION, drawing_rows
from visalign.data.preferences import read_pairs


def test_the_chosen_drawing_fits_the_caption_and_the_rejected_one_does_not():
    captions = {row["image"]: {each["text"] for each in row["captions"]} for row in pq.read_table(EMOJI).to_pylist()}
    rows = [row for _, row in drawing_rows()]
    assert rows == [row for _, row in drawing_rows()] and len(rows) == 235 * PER_CAPTION
    for row in rows:
        assert row["prompt"] in captions[row["chosen"]] and row["prompt"] not in captions[row["rejected"]]
    assert {row["prompt"] for row in rows}.isdisjoint(emoji_captions("held_out"))


def test_a_recipe_names_them_by_emoji_pairs():
    pairs = list(read_pairs(DataSettings(path="emoji:pairs", max_pairs=5)))
    assert len(pairs) == 5 and pairs[0].media()[0].size == (64, 64)
