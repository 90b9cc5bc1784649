"""Prompts with one word changed: which, its article, its plural, and prompts that have none."""

import random

import pytest

from visalign.data.changed_prompts import (
    COLOUR_WORDS,
    COUNT_WORDS,
    OBJECT_WORDS,
    unrelated,
    with_other_colour,
    with_other_count,
    with_other_object,
)


def drawn(change, prompt, **more):
    return {change(prompt, random.Random(seed), **more) for seed in range(200)}


def test_a_colour_becomes_each_other_colour_with_the_article_that_it_needs():
    assert drawn(with_other_colour, "a red fruit") == {
        f"{'an' if other == 'orange' else 'a'} {other} fruit" for other in COLOUR_WORDS if other != "red"}
    assert "a blue fruit" in drawn(with_other_colour, "an orange fruit")
    assert "A blue fruit" in drawn(with_other_colour, "An orange fruit")
    assert all("grey" not in prompt for prompt in drawn(with_other_colour, "a gray cat"))
    assert "Blue skies" in drawn(with_other_colour, "Red skies")


def test_one_of_several_colours_changes_and_words_that_hold_one_do_not():
    found = drawn(with_other_colour, "a red cat on a blue mat")
    assert all((" red " in prompt) != (" blue mat" in prompt) or prompt in (
        "a blue cat on a blue mat", "a red cat on a red mat") for prompt in found)
    assert drawn(with_other_colour, "a greenhouse, well-red, off-white") == {None}


def test_a_number_becomes_another_one():
    assert drawn(with_other_count, "three cats and one dog") == {
        f"{other} cats and one dog" for other in COUNT_WORDS if other != "three"}
    assert drawn(with_other_count, "a cat at 16:9") == {None}


def test_an_object_becomes_another_of_its_group_and_regular_plurals_stay_plurals():
    animals = next(group for group in OBJECT_WORDS if "cat" in group)
    assert drawn(with_other_object, "a cat on a roof") == {
        f"{'an' if other == 'elephant' else 'a'} {other} on a roof" for other in animals if other != "cat"}
    plurals = drawn(with_other_object, "two cats")
    assert {"two dogs", "two monkeys"} <= plurals and not {"two foxs", "two fishs", "two sheeps"} & plurals
    assert drawn(with_other_object, "a fruit") == {None}
    assert drawn(with_other_object, "a sea animal", groups=[["sea animal", "sky thing"]]) == {"a sky thing"}
    assert drawn(with_other_object, "a cat", groups=[["sea animal", "sky thing"]]) == {None}


@pytest.mark.parametrize("one, other, expected", [
    ("a red fruit", "a red car", False), ("a red fruit", "a blue car", True), ("two cats", "a cat", False),
    ("The cat in the hat", "a dog with a hat", False)])
def test_unrelated_prompts_share_no_word_that_says_anything(one, other, expected):
    assert unrelated(one, other) is expected and unrelated(other, one) is expected
