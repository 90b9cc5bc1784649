"""Tracking one object on a plain background through a video: its position, size, rotation and visibility.

What differs from the background (the median colour of the first frame's border) is the object; its weight in a pixel is
how much it differs. This is meant for drawings and diagrams; real footage needs a learned tracker.
"""

import math

import numpy as np

from visalign.media.pixels import pixels_of
from visalign.media.samples import Video

TRACKED_MOTIONS = ("left", "right", "up", "down", "grow", "shrink", "turn", "bounce", "blink")
_ANGLES, _RINGS = 48, 5


def weights_of(video: Video, frames: int = 64) -> np.ndarray:
    """[T, H, W], how far each pixel is from the background, 0 below 0.06; colours in [0, 1]."""
    pixels = np.stack([pixels_of(frame) for frame in video.evenly(frames)])
    border = np.concatenate([pixels[0, 0], pixels[0, -1], pixels[0, :, 0], pixels[0, :, -1]])
    apart = np.abs(pixels - np.median(border, 0)).max(-1)
    return np.where(apart < 0.06, 0.0, apart)


def components(video: Video) -> np.ndarray | None:
    """How much of each of (right, down, growth, turn, bounce, blink) a video has, float64 [6]; None if it is empty.

    right, down: displacement of the centroid in sides of the frame, over 0.37 (three eighths). growth: log of the ratio
    of radii, over 0.95. turn: absolute degrees, over 150. bounce: how much lower the middle third is than the ends
    (negative: higher), over 0.25. blink: share of the object that is gone at its faintest, between visible ends.
    """
    weights = weights_of(video)
    mass = weights.sum((1, 2))
    if mass.max() <= 1e-9 or len(weights) < 3:
        return None
    seen = mass > 0.35 * np.median(mass[mass > 0])
    x, y, radius = (np.array(v) for v in zip(*(_place(w) for w in weights), strict=True))
    times = np.linspace(0, 1, len(weights))
    last, third = len(weights) - 1, len(weights) // 3
    ends, middle = np.r_[0:max(1, third // 2 + 1), last - third // 2:last + 1], np.arange(third, last + 1 - third)
    way_x, way_y = (_way(times[seen], v[seen]) for v in (x / weights.shape[2], y / weights.shape[1]))
    growth = _way(times[seen], np.log(radius[seen]))
    bounce = (_mean(y, seen, middle) - _mean(y, seen, ends)) / weights.shape[1]
    blink = max(0.0, 1 - mass[1:-1].min() / max(1e-9, min(mass[0], mass[-1]))) if seen[0] and seen[-1] else 0.0
    turn = _turned(weights[seen], x[seen], y[seen], radius[seen])
    return np.array([way_x / 0.37, way_y / 0.37, growth / 0.95, turn / 150, bounce / 0.25, blink])


def _place(weight: np.ndarray) -> tuple[float, float, float]:
    """Centroid and root-mean-square radius in pixels; the centre and 1 where there is nothing."""
    total = weight.sum()
    rows, columns = np.indices(weight.shape)
    if total <= 1e-9:
        return weight.shape[1] / 2, weight.shape[0] / 2, 1.0
    x, y = (columns * weight).sum() / total, (rows * weight).sum() / total
    return x, y, max(1.0, math.sqrt((((columns - x) ** 2 + (rows - y) ** 2) * weight).sum() / total))


def _way(times: np.ndarray, values: np.ndarray) -> float:
    """Change from beginning to end along the least-squares line."""
    return float(np.polyfit(times, values, 1)[0]) if len(values) > 1 else 0.0


def _mean(values: np.ndarray, seen: np.ndarray, where: np.ndarray) -> float:
    kept = [i for i in where if seen[i]]
    return float(values[kept].mean()) if kept else float(values[seen].mean())


def _turned(weights: np.ndarray, x: np.ndarray, y: np.ndarray, radius: np.ndarray) -> float:
    """Absolute degrees of rotation: the shift of best agreement between consecutive rings about the centroid.

    A shift counts only where it agrees clearly better than none, so that round objects do not rotate.
    """
    rings = [_rings(*each) for each in zip(weights, x, y, radius, strict=True)]
    total = 0.0
    for now, then in zip(rings, rings[1:], strict=False):
        fit = np.fft.irfft((np.conj(np.fft.rfft(now)) * np.fft.rfft(then)).sum(0), _ANGLES)
        size = math.sqrt((now**2).sum() * (then**2).sum())
        best = int(fit.argmax())
        if size > 0 and fit[best] - fit[0] > 0.02 * size:
            total += (best if best <= _ANGLES // 2 else best - _ANGLES) * 360 / _ANGLES
    return abs(total)


def _rings(weight: np.ndarray, x: float, y: float, radius: float) -> np.ndarray:
    """The object on circles about its centroid, each ring's mean removed, [rings, angles]."""
    angles = 2 * math.pi * np.arange(_ANGLES) / _ANGLES
    out = np.linspace(0.5, 1.6, _RINGS)[:, None] * radius
    columns, rows = x + out * np.cos(angles), y + out * np.sin(angles)
    left, top = (np.clip(np.floor(v).astype(int), 0, n - 2)
                 for v, n in zip((columns, rows), weight.shape[::-1], strict=True))
    across, down = np.clip(columns - left, 0, 1), np.clip(rows - top, 0, 1)
    ring = ((1 - down) * ((1 - across) * weight[top, left] + across * weight[top, left + 1])
            + down * ((1 - across) * weight[top + 1, left] + across * weight[top + 1, left + 1]))
    return ring - ring.mean(1, keepdims=True)


_AXES = {"right": (0, 1), "left": (0, -1), "down": (1, 1), "up": (1, -1), "grow": (2, 1), "shrink": (2, -1),
         "turn": (3, 1), "bounce": (4, 1), "blink": (5, 1)}


def motion_agreement(found: np.ndarray, motion: str) -> float:
    """How well components [6] fit one of TRACKED_MOTIONS, in [-1, 1]: the wanted part less half of all the rest.

    Only half of the rotation counts as unwanted, since it is the least certain.
    """
    axis, sign = _AXES[motion]
    wanted = sign * found[axis]
    others = found * np.array([1, 1, 1, 0.5, 1, 1])
    others[axis] = 0
    return float(np.clip(min(wanted, 1.0) - 0.5 * np.linalg.norm(others), -1, 1))


def motion_of_video(video: Video) -> str | None:
    """The one of TRACKED_MOTIONS that fits best; None for an empty video."""
    found = components(video)
    return None if found is None else max(TRACKED_MOTIONS, key=lambda motion: motion_agreement(found, motion))
