"""What is trained on and what is measured on, across sources and captions."""

import pytest

from visalign.config import DataSettings, SourceSettings
from visalign.errors import UserError
from visalign.trainers.offline.encoded_pairs import EncodedPair, digest_entry
from visalign.trainers.offline.sides import mixture_lines, mixture_of, split_items
from visalign.trainers.order import is_held_out


def item(prompt, origin=0, captions=()):
    return EncodedPair(prompt, f"k {prompt}", f"{prompt} {origin}", None, "line 1", 1.0, None, None,
                       captions=tuple((text, f"k {text}") for text in captions), origin=origin)


def data(*sources, **settings):
    return DataSettings(sources=tuple(SourceSettings(path=name, **each) for name, each in sources), **settings)


TWO = data(("mine", {}), ("prior", {"prior": True}), holdout=0.5)
HELD = [f"p{k}" for k in range(40) if is_held_out(f"p{k}", 0.5)]
LEARNT = [f"p{k}" for k in range(40) if not is_held_out(f"p{k}", 0.5)]


def test_what_is_measured_on_is_learnt_nowhere():
    prior_alone = next(f"q{k}" for k in range(40) if is_held_out(f"q{k}", 0.5))
    items = [item(HELD[0]), item(LEARNT[0], captions=(HELD[1], LEARNT[1])), item(HELD[0], 1), item(prior_alone, 1)]
    train, held_out = split_items(items, TWO, ())
    assert [(each.prompt, [text for text, _ in each.captions]) for each in train] == [
        (LEARNT[0], [LEARNT[1]]), (prior_alone, [])]
    assert [each.prompt for each in held_out] == [HELD[0]]


def test_a_prior_set_gets_half_of_the_visits_unless_told_otherwise():
    items = [item(LEARNT[0])] * 3 + [item("dog", 1)] * 10
    assert mixture_of(items, TWO, 0).each == (3, 3)
    assert mixture_of(items, data(("mine", {}), ("prior", {"prior": True, "share": 0.25})), 0).each == (3, 1)
    assert mixture_of(items, data(("a", {}), ("b", {"loss_weight": 0.5})), 0) is None
    assert mixture_lines(TWO, [3, 10]) == ["mine: 3 to learn from, 50% of the visits",
                                           "prior: 10 images or videos of a prior set, 50% of the visits"]
    with pytest.raises(UserError, match="nothing of mine is left to train on"):
        mixture_of([item("dog", 1)], data(("mine", {"share": 0.5}), ("other", {})), 0)


def test_each_visit_draws_a_caption_by_its_place_alone():
    several = item("a", captions=("b", "c"))
    drawn = [several.prompt_key_at(7, place) for place in range(60)]
    assert drawn == [several.prompt_key_at(7, place) for place in range(60)]
    assert all(10 <= drawn.count(key) <= 30 for key in ("k a", "k b", "k c"))
    assert drawn != [several.prompt_key_at(8, place) for place in range(60)]
    assert item("a").prompt_key_at(7, 3) == "k a"


def test_a_resumed_run_notices_other_captions_and_sources():
    assert len({repr(digest_entry(each)) for each in (item("a"), item("a", captions=("b",)), item("a", 1))}) == 3
    assert len(digest_entry(item("a"))) == 4  # as earlier runs wrote it
