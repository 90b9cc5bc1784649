"""Pairs that are made of annotations: which side wins in which dimension, from what, and what cannot be made."""

import random

import numpy as np
import pytest
from PIL import Image

from visalign.config.augment import AugmentSettings
from visalign.data.annotations import AnnotatedMedia, Annotation
from visalign.data.augment import PairMaker, augmented, counts_of
from visalign.errors import UserError
from visalign.media.samples import Video, to_bytes
from visalign.media.video_files import to_video_bytes

DIMENSIONS = ("alignment", "quality", "motion")


def still(shade):
    rng = np.random.default_rng(shade)
    return to_bytes(Image.fromarray(rng.integers(0, 255, (32, 32, 3)).astype(np.uint8)))


def moving(*shades):
    return to_video_bytes(Video([Image.new("RGB", (16, 16), (shade,) * 3) for shade in shades], 4.0), "matroska")


def annotation(prompt, outcome, media=None, **more):
    a, b = media or (still(1), still(2))
    return Annotation(AnnotatedMedia(prompt, a), AnnotatedMedia(prompt, b), outcome, f"row of {prompt}", **more)


ITEMS = [annotation("a red cat", {"alignment": 1.0}), annotation("two dogs", {"alignment": 0.0, "quality": 1.0}),
         annotation("a blue car", {"quality": 0.0}),
         annotation("smoke", {"motion": 1.0}, (moving(0, 90, 180), moving(9, 9, 9)))]


def pairs(items=ITEMS, share=1.0, **settings):
    more = {name: settings.pop(name) for name in ("seed", "avoid", "strict") if name in settings}
    return augmented(items, AugmentSettings(share=share, **settings), DIMENSIONS, ("motion",), **more)


def better_and_worse(pair, dimension):
    sides = (pair.a, pair.b)
    return sides if pair.outcome[dimension] else sides[::-1]


@pytest.mark.parametrize("name, said", [("colour", " cat"), ("object", "a red "), ("count", " dogs")])
def test_a_changed_word_loses_in_alignment_against_the_preferred_sample_s_own_prompt(name, said):
    for seed in range(6):
        found, *others = pairs(causal=(name,), seed=seed, objects=None)
        assert found.kind == f"causal {name}" and list(found.outcome) == ["alignment"]
        better, worse = better_and_worse(found, "alignment")
        origin = ITEMS[1] if name == "count" else ITEMS[0]
        assert better == (origin.b if name == "count" else origin.a)
        assert worse.media == better.media and worse.prompt != better.prompt and said in worse.prompt
        assert {pair.kind for pair in others} <= {f"causal {name}"}
        kept = {better_and_worse(pair, "alignment")[0].prompt for pair in others}
        assert "a blue car" not in kept  # nobody prefers one


def test_a_changed_medium_loses_in_quality_and_is_what_was_preferred():
    found = pairs(causal=("hole",))
    assert len(found) == 4 and counts_of(found) == {"causal hole": 4}
    for item, pair in zip(ITEMS, found, strict=True):
        better, worse = better_and_worse(pair, "quality")
        assert list(pair.outcome) == ["quality"] and better.change is None and worse.change.name == "hole"
        assert worse.media == better.media and worse.prompt == better.prompt == item.prompt
    assert better_and_worse(found[1], "quality")[0] == ITEMS[1].a  # preferred in quality, whatever alignment says
    assert better_and_worse(found[2], "quality")[0] == ITEMS[2].b
    assert better_and_worse(found[0], "quality")[0] == ITEMS[0].a  # preferred in alignment, and quality is not labelled
    assert found[0].a.digest() != found[0].b.digest()
    assert not np.array_equal(*(side.sample("here", 4).image for side in (found[0].a, found[0].b)))


def test_only_videos_that_move_are_frozen_and_shuffled():
    for name in ("freeze", "shuffle"):
        (pair,) = pairs(causal=(name,))
        better, worse = better_and_worse(pair, "motion")
        assert list(pair.outcome) == ["motion"] and better == ITEMS[3].a and worse.change.name == name
    standing = annotation("fog", {"motion": 1.0}, (moving(9, 9, 9), moving(5, 9, 60)))
    with pytest.raises(UserError, match="data.augment.causal freeze: none of the 1 training annotations has a video "
                                        "that moves; leave it out"):
        pairs([standing], causal=("freeze",))


def test_what_should_change_nothing_is_a_tie_in_all_that_the_medium_has():
    found = pairs(neutral=("resize",))
    assert [pair.kind for pair in found] == ["neutral resize"] * 4
    assert found[0].outcome == {"alignment": 0.5, "quality": 0.5}
    assert found[3].outcome == {"alignment": 0.5, "quality": 0.5, "motion": 0.5}
    for pair in found:
        assert sum(side.change is not None for side in (pair.a, pair.b)) == 1 and pair.a.media == pair.b.media


def test_another_prompt_ties_both_samples_in_alignment_alone():
    for seed in range(6):
        for item, pair in zip(ITEMS, pairs(neutral=("prompt",), seed=seed), strict=True):
            assert pair.outcome == {"alignment": 0.5} and pair.a.prompt == pair.b.prompt != item.prompt
            assert {pair.a.media, pair.b.media} == {item.a.media, item.b.media}
            assert {item.prompt, pair.a.prompt} != {"a red cat", "a red car"}
    with pytest.raises(UserError, match="neutral prompt: none of the 2 training annotations has an unrelated prompt"):
        pairs([ITEMS[0], annotation("a red car", {})], neutral=("prompt",))


def test_pairs_follow_from_the_seed_and_the_place_alone():
    settings = {"causal": ("colour", "hole", "noise"), "neutral": ("prompt", "crop"), "share": 0.7}
    assert pairs(**settings) == pairs(**settings) != pairs(seed=1, **settings)
    longer = pairs([*ITEMS, annotation("a green bus", {"alignment": 1.0})], **(settings | {"neutral": ("crop",)}))
    assert longer[:len(pairs(**(settings | {"neutral": ("crop",)})))] == pairs(**(settings | {"neutral": ("crop",)}))
    many = [annotation(f"a red cat number {i}", {"alignment": 1.0}) for i in range(400)]
    assert 170 < len(pairs(many, causal=("blur",), share=0.5)) < 230
    first = [pair.outcome["quality"] for pair in pairs(many, causal=("blur",))]
    assert 0.4 < sum(first) / len(first) < 0.6  # either side may come first


def test_held_out_prompts_are_in_no_pair():
    held = {f"a {colour} cat" for colour in ("orange", "yellow", "green", "blue", "purple", "pink", "brown", "black")}
    held |= {"an orange cat", "smoke"}
    for seed in range(20):
        found = pairs(causal=("colour",), neutral=("prompt",), avoid=held, seed=seed, strict=False)
        assert not held & {side.prompt for pair in found for side in (pair.a, pair.b)}


def test_edits_and_pairs_with_a_context_are_left_as_they_are():
    sides = AnnotatedMedia("make it red", still(1), ("source.png",)), AnnotatedMedia("make it red", still(2))
    edits = [Annotation(*sides, {"alignment": 1.0}, "edit"),
             annotation("a red cat", {"alignment": 1.0}, context="the darker one")]
    maker = PairMaker(AugmentSettings(causal=("colour",)), edits, DIMENSIONS)
    assert not any(maker.causal(item, name, random.Random(0)) for item in edits for name in ("colour", "blur"))
    assert not any(maker.neutral(item, name, random.Random(0)) for item in edits for name in ("prompt", "crop"))
    with pytest.raises(UserError, match="causal blur: none of the 2 training annotations is free of contexts"):
        pairs(edits, causal=("blur",))


def test_a_change_that_nothing_can_have_ends_in_one_sentence_or_is_left_out():
    with pytest.raises(UserError, match="data.augment.causal count: none of the 1 training annotations spells a "
                                        "number, two to ten, in the prompt of a sample that is preferred in alignment"):
        pairs(ITEMS[:1], causal=("count", "colour"))
    assert counts_of(pairs(ITEMS[:1], causal=("count", "colour"), strict=False)) == {"causal colour": 1}
    assert pairs(ITEMS[:1], causal=("colour", "hole"), share=0.01) == []  # not drawn is not impossible


def test_settings_say_which_dimension_is_which():
    renamed = AugmentSettings(causal=("blur", "colour"), quality="VQ", alignment="TA")
    renamed.check(("VQ", "TA"), 1, "rewards")
    found = augmented([annotation("a red cat", {"TA": 0.0})], renamed.model_copy(update={"share": 1.0}), ("VQ", "TA"))
    assert set(found[0].outcome) <= {"VQ", "TA"}
    with pytest.raises(ValueError, match=r"causal blur: is labelled in quality, which is not in model.dimensions \(VQ, "
                                         r"TA\); say with data.augment.quality which"):
        AugmentSettings(causal=("blur",)).check(("VQ", "TA"), 1, "rewards")
    with pytest.raises(ValueError, match="neutral prompt: is labelled in alignment, which is not in"):
        AugmentSettings(neutral=("prompt",)).check(("VQ",), 1, "rewards")
    with pytest.raises(ValueError, match="causal shuffle: needs an order of frames, and model.frames is 2"):
        AugmentSettings(causal=("shuffle",)).check(DIMENSIONS, 2, "rewards")
    with pytest.raises(ValueError, match="causal object: compares one sample under two prompts"):
        AugmentSettings(causal=("object",)).check(DIMENSIONS, 8, "embeddings")
