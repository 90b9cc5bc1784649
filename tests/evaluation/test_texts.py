"""Texts measured and judged as images are: metrics of samples in memory, and the verdict on them."""

import math

import numpy as np
import pytest
from PIL import Image

from visalign.data.text_generations import write_answers
from visalign.errors import UserError
from visalign.evaluation.equal_length import equal_length_of, equal_length_of_run
from visalign.evaluation.measure import MetricSuite, metrics_of
from visalign.evaluators.verdict import verdict_of
from visalign.media.answers import Answer
from visalign.media.samples import Sample
from visalign.media.text_measures import TEXT_STYLE
from visalign.rewards import load_reward

TOPICS = ["apples", "rain", "music", "trains", "bread", "chess", "cats", "glass", "tea", "snow"]
PROMPTS = [f"Tell me about {topic}." for topic in TOPICS]
BASE = [f"{opening} about {{}} is that they are {rest}" for opening, rest in (
    ("One thing", "old."), ("What I know", "found in many places, and liked."), ("A fact", "round or long."),
    ("The story", "as long as we want it to be."))]


class Letters:
    """Embeds a text by its letters."""

    source, modalities = "letters", frozenset({"text"})

    def weights_folder(self):
        return None

    def sample_features(self, samples):
        import torch

        counts = torch.tensor([[sample.answer.lower().count(chr(97 + i)) for i in range(26)] for sample in samples])
        return torch.nn.functional.normalize(counts.float() + 0.01, dim=-1)


def measured(answer_of, rewards=("brevity",), features=True):
    samples = [Sample(prompt, Answer(answer_of(topic, k)), k) for topic, prompt in zip(TOPICS, PROMPTS, strict=True)
               for k in range(4)]
    return metrics_of(PROMPTS, samples, MetricSuite([load_reward(each) for each in rewards],
                                                    Letters() if features else None))


def base_answer(topic, k):
    return BASE[k].format(topic)


def test_every_kind_of_metric_is_measured():
    found = measured(base_answer)
    assert found.names("style") == list(TEXT_STYLE) and found.names("reward") == ["brevity"]
    assert {"vendi", "extra", "distance", "distinct_1", "self_bleu", "first_word_entropy"} <= set(
        found.names("diversity")) and found.names("answers") == ["empty", "identical"]
    words = [len(base_answer("x", k).split()) for k in range(4)]
    assert found.values["style/words"] == pytest.approx([np.mean(words)] * 10)
    assert found.values["reward/brevity"] == pytest.approx([-np.mean(words) / 10] * 10)
    assert found.spread["style/words"] == pytest.approx(np.std(words))
    assert found.values["diversity/first_word_entropy"] == pytest.approx([math.log(4)] * 10)


def test_the_same_model_is_healthy():
    verdict = verdict_of(measured(base_answer), measured(base_answer), "brevity")
    assert verdict.word == "healthy" and set(verdict.style) == set(TEXT_STYLE)


def test_one_answer_for_everything_is_collapsed():
    verdict = verdict_of(measured(base_answer), measured(lambda topic, k: "Yes."), "brevity")
    assert verdict.word == "collapsed"
    assert any("100 % of the answers equal another answer to the same prompt (the base: 0 %), more than 50 %" in reason
               for reason in verdict.reasons)


def test_empty_answers_are_a_collapse_at_once_whatever_else_was_measured():
    after = measured(lambda topic, k: "" if (topic, k) in (("tea", 0), ("snow", 1), ("rain", 2)) else
                     base_answer(topic, k), features=False)
    verdict = verdict_of(measured(base_answer, features=False), after, "brevity")  # 3 of 40 are 7.5 %
    assert verdict.word == "collapsed" and any("8 % of the answers are empty" in each for each in verdict.reasons)
    two = measured(lambda topic, k: "" if (topic, k) in (("tea", 0), ("snow", 1)) else base_answer(topic, k),
                   features=False)
    assert verdict_of(measured(base_answer, features=False), two, "brevity").word == "undecided"  # 5 %, not more


def test_a_base_that_repeats_itself_is_not_held_against_the_model():
    def same(topic, k):
        return f"{topic} are good things to have about, and that is all."

    assert verdict_of(measured(same, features=False), measured(same, features=False), "brevity").word != "collapsed"


def test_media_are_not_mixed():
    samples = [Sample("a", Answer("x")), Sample("a", Image.new("RGB", (8, 8)))]
    with pytest.raises(UserError, match="1 of 2 samples are texts"):
        metrics_of(["a"], samples, MetricSuite([], None))
    texts = metrics_of(["a"], [Sample("a", Answer("x"))] * 2, MetricSuite([], None))
    images = metrics_of(["a"], [Sample("a", Image.new("RGB", (16, 16)))] * 2, MetricSuite([], None))
    with pytest.raises(ValueError, match="made texts and the other images"):
        verdict_of(texts, images)


def test_features_of_images_refuse_texts():
    tools = MetricSuite([], load_reward("tiny-clip"))
    with pytest.raises(UserError, match="a text has no frames"):
        metrics_of(["a"], [Sample("a", Answer("x"))] * 2, tools)


def test_answers_are_cut_to_the_shorter_model_s_median_and_measured_again(tmp_path):
    """Base answers have 9 words and more; those after are cut to six, which is then the median."""
    before = [Sample(prompt, Answer(base_answer(topic, k)), k) for topic, prompt in zip(TOPICS, PROMPTS, strict=True)
              for k in range(4)]
    after = [sample.with_media(Answer(" ".join(sample.answer.split()[:6]))) for sample in before]
    found = equal_length_of(PROMPTS, before, after, MetricSuite([load_reward("brevity")], Letters()))
    assert found.words == 6 and found.base.values["reward/brevity"] == pytest.approx([-0.6] * 10)
    one = [sample.with_media(Answer("Yes.")) for sample in before]
    assert equal_length_of(PROMPTS, before, one, MetricSuite([], None)) is None
    assert found.base == found.after  # of what is left the two models wrote the same
    for folder, samples in (("step-0", before), ("step-9", after)):
        write_answers(samples, tmp_path / "samples" / folder)
    rows = [{"prompts": PROMPTS, "folder": "step-0"}, {"prompts": PROMPTS, "folder": "step-9"}]
    assert equal_length_of_run(tmp_path, rows, MetricSuite([load_reward("brevity")], Letters())) == found


def test_the_verdict_says_when_more_is_refused():
    base = measured(base_answer)
    refusing = measured(lambda topic, k: "I cannot help with that." if k < 2 else base_answer(topic, k))
    said = [reason for reason in verdict_of(base, refusing).reasons if "decline" in reason]
    assert said == ["50 % of the answers decline what was asked (the base: 0 %), a rise by 50 % [50, 50]"]
    assert not [reason for reason in verdict_of(refusing, base).reasons if "decline" in reason]
