"""Objects in images by a detector of transformers: boxes, or instances with masks."""

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

from visalign.errors import UserError
from visalign.storage.pretrained import load_whole
from visalign.storage.weights import quiet_reports


@dataclass(frozen=True)
class Detection:
    """One object: its class, the score in [0, 1], the box (left, top, right, bottom) in pixels, and its mask [H, W]
    where the detector gives one."""

    label: str
    score: float
    box: tuple[float, float, float, float]
    mask: np.ndarray | None = None


class Detector:
    """A model of object detection or instance segmentation. Raises UserError for any other."""

    def __init__(self, source: str, device: str, where: str):
        from transformers import AutoImageProcessor, AutoModelForObjectDetection, AutoModelForUniversalSegmentation

        config = config_of(source, where)
        try:
            self.processor = AutoImageProcessor.from_pretrained(source)
        except (OSError, ValueError) as error:
            raise not_loaded(source, where, error) from None
        self.masks = type(config) in AutoModelForUniversalSegmentation._model_mapping
        if not self.masks and type(config) not in AutoModelForObjectDetection._model_mapping:
            raise UserError(f"{where}: {source} is a {config.model_type}, which detects no objects; name a model of "
                            "object detection or instance segmentation")
        kind = AutoModelForUniversalSegmentation if self.masks else AutoModelForObjectDetection
        self.model = load_whole(kind, source, where).to(device)
        self.device, self.labels = device, config.id2label

    @torch.no_grad()
    def detect(self, image: Image.Image, threshold: float) -> list[Detection]:
        """Objects whose score exceeds the threshold, the surest first."""
        outputs = self.model(**self.processor(images=image, return_tensors="pt").to(self.device))
        size = [image.size[::-1]]
        if self.masks:
            [found] = self.processor.post_process_instance_segmentation(outputs, threshold=threshold, target_sizes=size,
                                                                        return_binary_maps=True)
            maps = found["segmentation"]
            kept = [(info, mask) for info, mask in zip(found["segments_info"], [] if maps is None else maps,
                                                       strict=True) if mask.any()]
            objects = [Detection(self.labels[info["label_id"]], float(info["score"]), box_of(mask), mask)
                       for info, mask in ((info, mask.cpu().numpy().astype(bool)) for info, mask in kept)]
        else:
            [found] = self.processor.post_process_object_detection(outputs, threshold=threshold, target_sizes=size)
            objects = [Detection(self.labels[int(label)], float(score), tuple(box.tolist())) for label, score, box in
                       zip(found["labels"], found["scores"], found["boxes"], strict=True)]
        return sorted((each for each in objects if each.score > threshold), key=lambda each: -each.score)


def config_of(source: str, where: str):
    """A transformers model's configuration. Raises UserError where there is none that transformers knows."""
    from transformers import AutoConfig

    try:
        with quiet_reports():
            return AutoConfig.from_pretrained(source)
    except (OSError, ValueError) as error:
        raise not_loaded(source, where, error) from None


def not_loaded(source: str, where: str, error: Exception) -> UserError:
    return UserError(f"{where}: transformers could not load {source} ({' '.join(str(error).split())[:160]})")


def box_of(mask: np.ndarray) -> tuple[float, float, float, float]:
    """The smallest box around a mask [H, W] that is not empty."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)
