"""GenEval (Ghosh et al. 2023): does an image hold the objects, counts, colours and places of its prompt?

An image is right when of every class in `include` as many objects are found as asked, in the colour and place asked,
and of none in `exclude` too many. The table: the share of right images and of prompts with one, by task, and the mean
of the tasks. Objects by a detector of transformers, the colour of each by CLIP on its crop, the rest greyed out.

Differs from the published scripts in: their Mask2Former is mmdetection's; transformers' twin of it is the default, and
any other detector that knows COCO's classes may be named.
"""

import json
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from visalign.data.suites import SuitePrompt
from visalign.errors import UserError, nearest
from visalign.evaluation.suites.base import SuiteFigure, SuiteScorer, check_model_is_there, mean_figure, mean_of_groups
from visalign.evaluation.suites.detection import Detection, Detector, config_of
from visalign.media.samples import Sample
from visalign.rewards.clip import ClipScore
from visalign.validation.ranges import Portion

NAMED_COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white")
COLOUR_TEMPLATES = ("a photo of a {colour} {name}", "a photo of a {colour}-colored {name}",
                    "a photo of a {colour} object")
GREYED_OUT = (0x99, 0x99, 0x99)
COUNTING, MOST_OBJECTS = "counting", 16
ALSO_CALLED = {"computer mouse": "mouse", "computer keyboard": "keyboard", "tv remote": "remote"}
"""Classes of the suite, and what COCO's detectors call them."""


@dataclass
class GenEval(SuiteScorer):
    """detector: a model of object detection or instance segmentation that knows COCO's classes. clip: an open_clip
    model for colours. threshold: the least score of an object; counting_threshold: where the task is counting.
    position_threshold: by which share of both sizes centres must be apart before a place is told."""

    detector: str = "facebook/mask2former-swin-small-coco-instance"
    clip: str = "ViT-L-14/openai"
    threshold: Portion = 0.3
    counting_threshold: Portion = 0.9
    position_threshold: Portion = 0.1

    def check(self, items: list[SuitePrompt]) -> None:
        for item in items:
            geneval_task(item)
        check_model_is_there(self.detector, "bench geneval: detector")
        for name in dict.fromkeys(each["class"] for item in items for part in ("include", "exclude")
                                  for each in geneval_task(item).get(part, [])):
            if self.name_of(name) not in self.known:
                raise UserError(f"bench geneval: the detector {self.detector} knows no {name}"
                                f"{nearest(name, self.known)}; name one of COCO's classes")
        if any("color" in each for item in items for each in geneval_task(item).get("include", [])):
            self.colours.check()

    @cached_property
    def colours(self) -> ClipScore:
        return ClipScore(source=self.clip, device=self.device, name="colours")

    @cached_property
    def known(self) -> frozenset[str]:
        """The detector's classes, from its configuration."""
        return frozenset(config_of(self.detector, "bench geneval: detector").id2label.values())

    @cached_property
    def found_by(self) -> Detector:
        return Detector(self.detector, self.device, "bench geneval: detector")

    @cached_property
    def _shades(self) -> dict[str, torch.Tensor]:
        return {}

    def score(self, item: SuitePrompt, sample: Sample) -> bool:
        """Whether the image is right."""
        task = geneval_task(item)
        least = self.counting_threshold if task["tag"] == COUNTING else self.threshold
        objects: dict[str, list[Detection]] = {}
        for each in self.found_by.detect(sample.image, least):
            if len(objects.setdefault(each.label, [])) < MOST_OBJECTS:
                objects[each.label].append(each)
        too_many = any(len(objects.get(self.name_of(clause["class"]), [])) >= clause["count"]
                       for clause in task.get("exclude", []))
        return not too_many and self._all_included(sample.image, objects, task.get("include", []))

    def name_of(self, name: str) -> str:
        """A class as the detector calls it."""
        return name if name in self.known else ALSO_CALLED.get(name, name)

    def _all_included(self, image: Image.Image, objects: dict[str, list[Detection]], clauses: list[dict]) -> bool:
        """Every clause is looked at by the surest objects of its class; a place is relative to an earlier clause's."""
        matched: list[list[Detection]] = []
        for clause in clauses:
            found = objects.get(self.name_of(clause["class"]), [])[:clause["count"]]
            if len(found) < clause["count"]:
                return False
            if "color" in clause:
                seen = [self.colour_of(image, each, clause["class"]) for each in found]
                if seen.count(clause["color"]) < clause["count"]:
                    return False
            if "position" in clause:
                where, target = clause["position"]
                if not all(where in relative_places(one, other, self.position_threshold) for one in found
                           for other in matched[target]):
                    return False
            matched.append(found)
        return True

    def colour_of(self, image: Image.Image, found: Detection, name: str) -> str:
        """The likeliest of NAMED_COLOURS, by CLIP on the crop, what is not the object greyed out."""
        if name not in self._shades:
            texts = [template.format(colour=colour, name=name) for colour in NAMED_COLOURS
                     for template in COLOUR_TEMPLATES]
            features = self.colours.text_features(texts).view(len(NAMED_COLOURS), len(COLOUR_TEMPLATES), -1).mean(1)
            self._shades[name] = F.normalize(features, dim=-1)
        shown = image.convert("RGB")
        if found.mask is not None:
            shown = Image.composite(shown, Image.new("RGB", shown.size, GREYED_OUT), Image.fromarray(found.mask))
        left, top, right, bottom = map(round, found.box)
        crop = shown.crop((left, top, max(right, left + 1), max(bottom, top + 1)))
        likeness = self.colours.features([crop]) @ self._shades[name].T
        return NAMED_COLOURS[int(likeness.argmax())]

    def figures(self, items: list[SuitePrompt], scored: list[list[bool]]) -> list[SuiteFigure]:
        tags = [geneval_task(item)["tag"] for item in items]
        by_task = [mean_figure(tag, [each for own, each in zip(tags, scored, strict=True) if own == tag])
                   for tag in dict.fromkeys(tags)]
        whole = [mean_figure("images", scored), mean_figure("prompts with a right image", [[any(each)] for each in
                                                                                          scored])]
        return [*whole, *by_task, mean_of_groups("overall (mean of tasks)", tags, scored)]


def geneval_task(item: SuitePrompt) -> dict:
    """A prompt's metadata. Raises UserError naming what it lacks."""
    task = json.loads(item.metadata)
    where = f"bench geneval: prompt '{item.prompt[:60]}'"
    if not isinstance(task.get("tag"), str):
        raise UserError(f"{where} has no tag, which names its task")
    for clause in (*task.get("include", []), *task.get("exclude", [])):
        if not isinstance(clause, dict) or not isinstance(clause.get("class"), str) or not isinstance(
                clause.get("count"), int):
            raise UserError(f"{where}: {clause!r} needs a class and a count")
    for i, clause in enumerate(task.get("include", [])):
        place = clause.get("position")
        if place is not None and not (isinstance(place, list) and len(place) == 2 and place[1] in range(i)):
            raise UserError(f"{where}: position {place!r} names no clause before it")
        if clause.get("color", NAMED_COLOURS[0]) not in NAMED_COLOURS:
            raise UserError(f"{where}: the colour {clause['color']!r} is none of {', '.join(NAMED_COLOURS)}")
    return task


def relative_places(one: Detection, other: Detection, threshold: float) -> set[str]:
    """Where one object is relative to another: their centres' offset, less `threshold` of both sizes, of the whole
    offset's length must exceed a half in a direction."""
    first, second = (np.array(each.box, float).reshape(2, 2) for each in (one, other))
    offset = first.mean(0) - second.mean(0)
    sizes = np.abs(first[1] - first[0]) + np.abs(second[1] - second[0])
    left = np.maximum(np.abs(offset) - threshold * sizes, 0) * np.sign(offset)
    if (np.abs(left) < 1e-3).all():
        return set()
    x, y = left / np.linalg.norm(offset)
    return {name for name, there in (("left of", x < -0.5), ("right of", x > 0.5), ("above", y < -0.5),
                                     ("below", y > 0.5)) if there}
