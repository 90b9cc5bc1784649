"""What can be measured on an image without a network; rewards and evaluators share these numbers.

Pixels are float tensors [B, 3, H, W] in [0, 1]; luma is Rec. 601 (0.299 R + 0.587 G + 0.114 B).
"""

import io

import numpy as np
import torch
from PIL import Image
from torch import Tensor

LUMA = (0.299, 0.587, 0.114)


def pixels_of(image: Image.Image) -> np.ndarray:
    """float64 [H, W, 3] in [0, 1]."""
    return np.asarray(image.convert("RGB"), dtype=np.float64) / 255


def luma_of(pixels: np.ndarray) -> np.ndarray:
    return pixels @ np.array(LUMA)


def safe_root(values: Tensor) -> Tensor:
    """Square root with gradient 0 instead of infinity at 0."""
    positive = values > 0
    return torch.where(positive, values, 1.0).sqrt() * positive


def luma(pixels: Tensor) -> Tensor:
    """[B, H, W]."""
    return torch.einsum("bchw,c->bhw", pixels, torch.tensor(LUMA).to(pixels))


def contrast(pixels: Tensor) -> Tensor:
    """Root-mean-square contrast: the standard deviation of luma, in [0, 0.5], [B]."""
    return safe_root(luma(pixels).flatten(1).var(1, correction=0))


def saturation(pixels: Tensor) -> Tensor:
    """Mean HSV saturation, in [0, 1], [B]."""
    high, low = pixels.amax(1), pixels.amin(1)
    return ((high - low) / high.clamp(min=1e-8)).flatten(1).mean(1)


def colourfulness(pixels: Tensor) -> Tensor:
    """Hasler and Süsstrunk 2003: std + 0.3 mean of the opponent colours, on the 0-255 scale, [B]."""
    red, green, blue = (255 * pixels).flatten(2).unbind(1)
    rg, yb = red - green, (red + green) / 2 - blue
    spread = safe_root(rg.var(1, correction=0) + yb.var(1, correction=0))
    return spread + 0.3 * safe_root(rg.mean(1).square() + yb.mean(1).square())


def sharpness(y: np.ndarray) -> float:
    """Standard deviation of the 4-neighbour Laplacian of luma [H, W], in [0, 4]; NaN below 3 pixels a side."""
    if min(y.shape) < 3:
        return float("nan")
    return float((y[:-2, 1:-1] + y[2:, 1:-1] + y[1:-1, :-2] + y[1:-1, 2:] - 4 * y[1:-1, 1:-1]).std())


def edge_density(y: np.ndarray, threshold: float = 0.1) -> float:
    """Share of pixels whose luma [H, W] changes by more than `threshold` a pixel (central differences)."""
    rows, columns = np.gradient(y)
    return float((np.hypot(rows, columns) > threshold).mean())


def jpeg_kilobytes(image: Image.Image, quality: int = 95) -> float:
    """Size as a JPEG in kilobytes of 1000 bytes."""
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, "JPEG", quality=quality)
    return buffer.getbuffer().nbytes / 1000
