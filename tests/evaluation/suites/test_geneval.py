"""GenEval on fake detections: every clause by hand, the table, and detectors of transformers from the file on."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from visalign.data.suites import SuitePrompt
from visalign.errors import UserError
from visalign.evaluation.suites.detection import Detection, Detector, box_of
from visalign.evaluation.suites.geneval import GenEval, geneval_task, relative_places
from visalign.media.samples import Sample


class FakeDetector:
    """Gives the same objects for every image, above the threshold it is asked for."""

    def __init__(self, *objects):
        self.objects = sorted(objects, key=lambda each: -each.score)

    def detect(self, image, threshold):
        return [each for each in self.objects if each.score > threshold]


def thing(label, score=0.95, box=(0, 0, 10, 10), mask=None):
    return Detection(label, score, box, mask)


def scorer(*objects):
    made = GenEval(clip="tiny-clip")
    made.found_by, made.known = FakeDetector(*objects), frozenset({"cat", "dog", "bench", "mouse"})
    return made


def prompt(tag="single_object", include=(), exclude=(), text="a photo"):
    return SuitePrompt(text, "00000", json.dumps({"tag": tag, "include": list(include), "exclude": list(exclude),
                                                  "prompt": text}))


def right(item, *objects):
    return scorer(*objects).score(item, Sample("a photo", Image.new("RGB", (40, 40), "red")))


def test_single_and_two_objects():
    one = prompt(include=[{"class": "cat", "count": 1}])
    both = prompt("two_object", include=[{"class": "cat", "count": 1}, {"class": "dog", "count": 1}])
    assert right(one, thing("cat", 0.31)) and not right(one, thing("cat", 0.29)) and not right(one, thing("dog"))
    assert right(both, thing("cat"), thing("dog")) and not right(both, thing("cat"), thing("cat"))


def test_counting_excludes_one_more_and_is_sure():
    three = prompt("counting", include=[{"class": "cat", "count": 2}], exclude=[{"class": "cat", "count": 3}])
    assert right(three, thing("cat"), thing("cat")) and not right(three, thing("cat"), thing("cat"), thing("cat"))
    assert right(three, thing("cat"), thing("cat"), thing("cat", 0.89))  # below 0.9, so not counted
    assert not right(three, thing("cat"))


def test_the_suite_s_words_are_those_of_coco(tmp_path):
    mouse = prompt(include=[{"class": "computer mouse", "count": 1}])
    assert right(mouse, thing("mouse"))
    tiny_boxes(tmp_path)
    GenEval(detector=str(tmp_path)).check([mouse])
    with pytest.raises(UserError, match="knows no zebra"):
        GenEval(detector=str(tmp_path)).check([mouse, prompt(exclude=[{"class": "zebra", "count": 1}])])


@pytest.mark.parametrize("box, where", [
    ((0, 40, 10, 50), {"left of"}), ((80, 40, 90, 50), {"right of"}), ((40, 0, 50, 10), {"above"}),
    ((40, 80, 50, 90), {"below"}), ((0, 0, 10, 10), {"left of", "above"}), ((41, 40, 51, 50), set()),
    ((42, 40, 52, 50), set()), ((44, 40, 54, 50), set()), ((46, 40, 56, 50), {"right of"})])
def test_places_by_hand(box, where):
    """Both are 10 wide: an offset of 2 or less is none at 0.1 of both; of x, (x - 2) / x must exceed 0.5: x > 4."""
    assert relative_places(thing("cat", box=box), thing("dog", box=(40, 40, 50, 50)), 0.1) == where


def test_positions_are_relative_to_an_earlier_clause():
    item = prompt("position", include=[{"class": "dog", "count": 1},
                                       {"class": "cat", "count": 1, "position": ["left of", 0]}])
    assert right(item, thing("dog", box=(30, 0, 40, 10)), thing("cat", box=(0, 0, 10, 10)))
    assert not right(item, thing("dog", box=(0, 0, 10, 10)), thing("cat", box=(30, 0, 40, 10)))
    # the surest cat is looked at alone
    assert not right(item, thing("dog", box=(20, 0, 30, 10)), thing("cat", 0.99, (35, 0, 40, 10)), thing("cat"))


def test_colours_are_those_of_the_object_alone(monkeypatch):
    """Features are the mean colour of what CLIP is shown, and of a text the colour that it names."""
    shown = []

    def features(images):
        shown.extend(images)
        return torch.nn.functional.normalize(torch.tensor(np.stack(
            [np.asarray(image, float).mean((0, 1)) for image in images])).float() - 128, dim=-1)

    def texts(prompts):
        rgb = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}
        return torch.tensor([next((value for name, value in rgb.items() if name in each.split() or
                                   f"{name}-colored" in each), (128, 128, 128.1)) for each in prompts]).float() - 128

    image = Image.new("RGB", (40, 40), "blue")
    image.paste("red", (0, 0, 10, 10))
    mask = np.zeros((40, 40), bool)
    mask[:10, :10] = True
    red = prompt("colors", include=[{"class": "cat", "count": 1, "color": "red"}])
    for box, seen, correct in (((0, 0, 10, 10), None, True), ((20, 20, 30, 30), None, False),
                               ((0, 0, 20, 10), mask, True)):
        made = scorer(thing("cat", box=box, mask=seen))
        monkeypatch.setattr(made.colours, "features", features)
        monkeypatch.setattr(made.colours, "text_features", texts)
        assert made.score(red, Sample("x", image)) is correct
    assert shown[-1].size == (20, 10) and shown[-1].getpixel((15, 5)) == (0x99, 0x99, 0x99)


def test_the_table_is_images_by_task_and_the_mean_of_tasks():
    items = [prompt("single_object", text="1"), prompt("single_object", text="2"), prompt("counting", text="3")]
    figures = {each.name: each for each in GenEval().figures(items, [[True, True, False], [True], [False, True]])}
    assert figures["single_object"].value.value == 3 / 4 and figures["single_object"].count == 4
    assert figures["counting"].value.value == 1 / 2 and np.isinf(figures["counting"].value.high)
    assert figures["images"].value.value == 4 / 6 and figures["prompts with a right image"].value.value == 1
    overall = figures["overall (mean of tasks)"]
    assert overall.value.value == (3 / 4 + 1 / 2) / 2 and overall.headline and overall.count == 6
    assert overall.value.low < overall.value.value < overall.value.high


@pytest.mark.parametrize("metadata, said", [
    ({}, "has no tag"), ({"tag": "x", "include": [{"class": "cat"}]}, "needs a class and a count"),
    ({"tag": "x", "include": [{"class": "cat", "count": 1, "position": ["above", 0]}]}, "names no clause before it"),
    ({"tag": "x", "include": [{"class": "cat", "count": 1, "color": "mauve"}]}, "the colour 'mauve' is none of red")])
def test_wrong_metadata_are_named(metadata, said):
    with pytest.raises(UserError, match=said):
        geneval_task(SuitePrompt("a cat", "0", json.dumps(metadata)))


def test_a_box_around_a_mask():
    mask = np.zeros((6, 8), bool)
    mask[2:4, 3:7] = True
    assert box_of(mask) == (3, 2, 7, 4)


LABELS = {"id2label": {0: "cat", 1: "mouse"}, "label2id": {"cat": 0, "mouse": 1}}


def tiny_boxes(folder):
    from transformers import YolosConfig, YolosForObjectDetection, YolosImageProcessor

    config = YolosConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
                         image_size=[32, 32], patch_size=8, num_detection_tokens=5, **LABELS)
    YolosForObjectDetection(config).save_pretrained(folder)
    YolosImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)


def tiny_masks(folder):
    from transformers import (
        Mask2FormerConfig,
        Mask2FormerForUniversalSegmentation,
        Mask2FormerImageProcessor,
        SwinConfig,
    )

    backbone = SwinConfig(image_size=32, embed_dim=8, depths=[1] * 4, num_heads=[1] * 4, window_size=2,
                          out_features=["stage1", "stage2", "stage3", "stage4"])
    config = Mask2FormerConfig(backbone_config=backbone, feature_size=32, mask_feature_size=32, hidden_dim=32,
                               encoder_feedforward_dim=16, encoder_layers=1, decoder_layers=2, num_attention_heads=2,
                               dim_feedforward=16, num_queries=4, **LABELS)
    Mask2FormerForUniversalSegmentation(config).save_pretrained(folder)
    Mask2FormerImageProcessor(size={"height": 64, "width": 64}).save_pretrained(folder)


@pytest.mark.parametrize("build, masks", [(tiny_boxes, False), (tiny_masks, True)])
def test_detectors_of_transformers(tmp_path, build, masks):
    torch.manual_seed(0)
    build(tmp_path)
    detector = Detector(str(tmp_path), "cpu", "detector")
    found = detector.detect(Image.new("RGB", (64, 48), "red"), 0.0)
    scores = [each.score for each in found]
    assert found and scores == sorted(scores, reverse=True) and {each.label for each in found} <= {"cat", "mouse"}
    assert all((each.mask is not None) is masks for each in found)
    assert not masks or found[0].mask.shape == (48, 64)
    kept = detector.detect(Image.new("RGB", (64, 48), "red"), scores[0] - 1e-6)
    assert len(kept) == sum(score > scores[0] - 1e-6 for score in scores) >= 1


def test_what_detects_nothing_is_refused(tmp_path):
    from transformers import ViTConfig, ViTImageProcessor

    ViTConfig().save_pretrained(tmp_path)
    ViTImageProcessor().save_pretrained(tmp_path)
    with pytest.raises(UserError, match="is a vit, which detects no objects"):
        Detector(str(tmp_path), "cpu", "detector")
