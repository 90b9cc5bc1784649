"""Rule rewards of texts, each on answers whose score is plain."""

import math
import time

import pytest
from PIL import Image

from visalign.errors import UserError
from visalign.media.answers import Answer
from visalign.media.samples import Sample
from visalign.rewards import build_reward, for_modality, load_reward
from visalign.rewards.registry import load_rewards


def values(spec, *answers):
    reward = load_reward(spec)
    found = reward.score([Sample("What is it?", Answer(text)) for text in answers])
    return found.values[:, 0].tolist(), found.remarks


@pytest.mark.parametrize("spec, answers, expected", [
    ("brevity", ("", "one", "a b c d e f g h i j"), (0, -0.1, -1)),
    ("avoids:the", ("The cat and the dog.", "then", ""), (-2, 0, 0)),
    ({"kind": "avoids", "words": ["the", "New York"]}, ("the new  york",), (-2,)),
    ("contains:Paris", ("It is paris.", "Parisian", ""), (1, 0, 0)),
    ({"kind": "contains", "words": ["a", "b"]}, ("a", "a b", "c"), (0.5, 1, 0)),
    ("json_valid", ('{"a": 1}', 'Sure: {"a": {"b": []}} .', "{a: 1}", "[1]", '{"a": NaN}', "} {", "{" * 100_000),
     (1, 1, 0.2, 0, 0.2, 0.2, 0.2)),
    (r"regex:\d+ (km|m)", ("It is 12 km.", "far"), (1, 0)),
    ({"kind": "regex", "pattern": "[a-z]+", "whole": True}, ("abc", "abc1"), (1, 0)),
    ("repetition", ("a b c a b c", "a b c", ""), (0.25, 0, 0)),  # abc bca cab abc: one of four was there before
    ("language:en", ("this is the house",), (1,)),
    ("language:de", ("das ist ein Haus und the end",), (0.8,)),  # das ist ein und, and the
])
def test_rules(spec, answers, expected):
    found, remarks = values(spec, *answers)
    assert found == pytest.approx(expected) and not remarks


def test_control_tokens_do_not_count():
    assert values("brevity", "Paris.<|im_end|>", "Paris.")[0] == pytest.approx([-0.1, -0.1])
    assert values("json_valid", '{"a": <|im_end|>1}')[0] == [1]


def test_a_hostile_pattern_is_given_up():
    start = time.monotonic()
    (slow, quick), remarks = values({"kind": "regex", "pattern": "^(([a-z])+.)+[A-Z]([a-z])+$", "seconds": 0.05},
                                    "ab" * 4000, "short")
    assert math.isnan(slow) and quick == 0 and "took more than 0.05 s" in remarks[0]
    assert time.monotonic() - start < 5


def test_what_cannot_be_scored_says_why():
    assert "20,000 characters" in values("regex:x", "x" * 20_000)[1][0]
    assert "no function word" in values("language:en", "Paris")[1][0]
    assert values("language:en", "Paris")[0] != values("language:en", "Paris")[0]  # NaN


@pytest.mark.parametrize("spec, said", [
    ("regex:" + "a" * 201, "201 characters"), ("regex:(", "no regular expression"),
    ("avoids", "name at least one word"), ("avoids:", "after the colon comes its words"),
    ("language:xx", "code"), ("brevity:3", "unknown key source"),
    ({"kind": "contains", "words": []}, "name at least one word"),
    ({"kind": "regex", "pattern": "a", "seconds": 0}, "greater than 0")])
def test_wrong_settings_are_one_sentence(spec, said):
    with pytest.raises(UserError, match=said.replace("(", r"\(")):
        build_reward(spec)


def test_each_medium_is_refused_by_the_rewards_of_others():
    text, image = Sample("a red apple", Answer("red")), Sample("a red apple", Image.new("RGB", (8, 8)))
    assert load_reward("sharpness").score([text]).remarks == {0: "scores images only, this is a text"}
    assert load_reward("brevity").score([image]).remarks == {0: "scores texts only, this is an image"}
    assert load_rewards(["brevity"])[0].name == "brevity"  # not wrapped to score the frames of videos
    assert for_modality(load_reward("brevity"), "text").name == "brevity"
    for spec, modality in (("sharpness", "text"), ("brevity", "image"), ("brevity", "video"), ("motion", "text")):
        with pytest.raises(UserError, match=f"makes {modality}s"):
            for_modality(load_reward(spec), modality)


def test_rules_combine():
    spec = {"kind": "weighted_sum", "standardised": False, "weights": {"brevity": 1, "json": 2},
            "of": ["brevity", {"kind": "json_valid", "name": "json"}]}
    assert values(spec, '{"a": 1}')[0] == pytest.approx([-0.2 + 2])
    with pytest.raises(UserError, match="no modality in common"):
        build_reward({"kind": "ensemble", "of": ["brevity", "sharpness"]})
