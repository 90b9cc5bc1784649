"""Diversity along four axes, after DivGenBench (D2-Align, arXiv 2512.24146): identity, style, layout, tone.

The four names and definitions are the paper's; the extractors are not. The paper uses ArcFace faces, CSD style
features on WikiArt and Grounding DINO boxes. Here identity and style take whatever features they are given, layout
takes boxes of connected foreground, and the prompts are our own, so numbers compare models measured here with each
other, not with the paper's.
"""

import itertools

import numpy as np
import torch
from PIL import Image
from scipy.ndimage import find_objects, label
from scipy.optimize import brentq, linear_sum_assignment
from torch import Tensor

from visalign.evaluators.diversity import distance
from visalign.evaluators.statistics import Estimate, TooFew, mean_with_interval, over_prompts
from visalign.evaluators.style import STYLE

AXES = {"IDS": "identity", "ASC": "style", "SDI": "layout", "PVS": "tone"}
LEAST_AREA, FOREGROUND = 0.005, 0.12


def identity_similarity(features: Tensor) -> Estimate:
    """IDS: mean pairwise cosine of the identities [P, K, D] drawn for one prompt; lower is more diverse."""
    return -mean_with_interval((distance(features) - 1).tolist())


def style_coverage(features: Tensor, references: Tensor, seed: int = 0) -> Estimate:
    """ASC: how many references could be retrieved by generations, over how many by references themselves.

    features [P, K, D]; references [N, D] of images in many styles, halved: one half is retrieved from, the other
    provides queries as the generations do. Higher covers more. Raises TooFew for fewer than 20 references.
    """
    if len(references) < 20:
        raise TooFew(f"{len(references)} references; style coverage needs at least 20")
    order = np.random.default_rng(seed).permutation(len(references))
    catalogue, asking = references[order[::2]].double(), references[order[1::2]].double()
    ceiling = retrievable(_nearest(asking, catalogue), len(catalogue))
    found = _nearest(features.flatten(0, 1).double(), catalogue).reshape(features.shape[:2])
    return over_prompts(lambda rows: retrievable(found[rows].flatten(), len(catalogue)) / ceiling, len(features), seed)


def _nearest(queries: Tensor, catalogue: Tensor) -> np.ndarray:
    return torch.cdist(queries, catalogue).argmin(1).numpy()


def retrievable(found: np.ndarray, size: int) -> float:
    """IRS at infinitely many queries: the share of a catalogue of `size` that queries like these can retrieve.

    n queries that fall evenly on m entries hit m (1 - (1 - 1/m)^n) different ones; m is solved for the number that was
    hit, at most `size`.
    """
    n, distinct = len(found), len(np.unique(found))
    if distinct >= _expected(size, n):
        return 1.0
    if distinct == 1:
        return 1 / size
    return brentq(lambda m: _expected(m, n) - distinct, 1.0, size) / size


def _expected(m: float, n: int) -> float:
    return m * (1 - (1 - 1 / m) ** n)


def layout_dispersion(boxes: list[list[np.ndarray]]) -> Estimate:
    """SDI: 1 - mean over a prompt's pairs of the matched boxes' summed IoU over the larger number of boxes; higher
    places objects more differently. boxes[p][k]: [n, 4] of one image."""
    per_prompt = [1 - float(np.mean([overlap(a, b) for a, b in itertools.combinations(of_prompt, 2)]))
                  for of_prompt in boxes]
    return mean_with_interval(per_prompt)


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    """Summed IoU of the best one-to-one matching of boxes [n, 4] and [m, 4], over max(n, m); 1 when both are empty."""
    if not len(a) or not len(b):
        return float(len(a) == len(b))
    corner = np.maximum(a[:, None, :2], b[None, :, :2])
    far = np.minimum(a[:, None, 2:], b[None, :, 2:])
    common = np.prod(np.clip(far - corner, 0, None), axis=-1)
    area = [np.prod(each[:, 2:] - each[:, :2], axis=-1) for each in (a, b)]
    iou = common / (area[0][:, None] + area[1][None] - common)
    return float(iou[linear_sum_assignment(-iou)].sum() / max(len(a), len(b)))


def boxes_of(image: Image.Image) -> np.ndarray:
    """Boxes (left, top, right, bottom; shares of the sides) of connected parts that differ from the border's colour.

    Parts below 0.5 % of the image are left out. Meant for objects on a plain background.
    """
    pixels = np.asarray(image.convert("RGB"), np.float64) / 255
    border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    apart = np.abs(pixels - np.median(border, 0)).max(-1) > FOREGROUND
    marked, _ = label(apart, np.ones((3, 3)))
    height, width = apart.shape
    found = []
    for number, (rows, columns) in enumerate(find_objects(marked), start=1):
        if (marked[rows, columns] == number).sum() >= LEAST_AREA * height * width:
            found.append((columns.start / width, rows.start / height, columns.stop / width, rows.stop / height))
    return np.array(found, np.float64).reshape(-1, 4)


def tonal_variance(style: np.ndarray) -> Estimate:
    """PVS: standard deviations of saturation, brightness and contrast over generations, added; style [P, K, S].

    Brightness is mean luma here (the paper's is mean HSV value).
    """
    columns = style[:, :, [STYLE.index(name) for name in ("saturation", "luminance", "contrast")]]
    return over_prompts(lambda rows: float(columns[rows].reshape(-1, 3).std(0).sum()), len(columns))
