"""Planted users: of the same two images one taste prefers the bright one and the other the dark one."""

from collections import Counter
from io import BytesIO

import numpy as np
from PIL import Image

from visalign.config import DataSettings
from visalign.data.embedded_images import emoji_captions
from visalign.data.embedded_tastes import USERS_OF_A_TASTE, taste_rows
from visalign.data.preferences import read_pairs
from visalign.data.rows import hashed_user


def brightness(image):
    return np.asarray(Image.open(BytesIO(image))).mean()


def test_every_pair_is_judged_by_both_tastes_and_each_is_true_to_itself():
    rows = [row for _, row in taste_rows()]
    assert rows == [row for _, row in taste_rows()]
    for bright, dark in zip(rows[::2], rows[1::2], strict=True):
        assert (bright["prompt"], bright["chosen"], bright["rejected"]) == (
            dark["prompt"], dark["rejected"], dark["chosen"])
        assert bright["user"] == dark["user"].replace("dark", "bright")
    for row in rows[:40]:
        assert (brightness(row["chosen"]) > brightness(row["rejected"])) == row["user"].startswith("bright")
    users = Counter(row["user"] for row in rows)
    assert len(users) == 2 * USERS_OF_A_TASTE and min(users.values()) > 50
    assert {row["prompt"] for row in rows}.isdisjoint(emoji_captions("held_out"))


def test_a_recipe_names_them_by_emoji_tastes():
    pairs = list(read_pairs(DataSettings(path="emoji:tastes", max_pairs=4)))
    assert pairs[0].user == hashed_user("bright 1") and pairs[1].user == hashed_user("dark 1")
    assert pairs[0].media()[0].size == (64, 64)
