"""Diversity in pixels: MS-SSIM and, with its weights at hand, LPIPS, between a prompt's generations."""

import hashlib
import itertools
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from visalign.errors import UserError
from visalign.media import pixels as measures
from visalign.media.samples import to_pixels

PAIRS, SIDE = 28, 256
"""Pairs of a prompt that are compared (all of 8 generations; a fixed choice of more), and at which size."""
_BETAS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
_KERNEL = 11
_ALEXNET = "alexnet-owt-7be5be79.pth"


def pairs_of(count: int, seed: int = 0) -> list[tuple[int, int]]:
    """Which generations of a prompt are compared; the same for every prompt and model."""
    every = list(itertools.combinations(range(count), 2))
    if len(every) <= PAIRS:
        return every
    chosen = np.random.default_rng(seed).choice(len(every), PAIRS, replace=False)
    return [every[i] for i in sorted(chosen)]


def as_batch(images: list[Image.Image]) -> Tensor:
    """float32 [K, 3, S, S] in [0, 1], S the shorter side but at most 256."""
    return to_pixels(images, min(SIDE, *(min(image.size) for image in images))) / 2 + 0.5


def ms_ssim_distance(images: Tensor) -> float:
    """Mean 1 - MS-SSIM of luma (Wang et al. 2003) over pairs of one prompt's images [K, 3, S, S] in [0, 1].

    Images below 176 pixels have fewer scales (torchmetrics' own bound lies above the window's), with the published
    weights of those scales made to sum to 1. NaN below 11 pixels.
    """
    from torchmetrics.functional.image import multiscale_structural_similarity_index_measure

    side = images.shape[-1]
    scales = sum(side > (_KERNEL - 1) * 2**j and side // max(1, j) ** 2 >= _KERNEL for j in range(len(_BETAS)))
    if not scales:
        return float("nan")
    weights = np.array(_BETAS[:scales]) / sum(_BETAS[:scales])
    first, second = _sides(measures.luma(images)[:, None])
    likeness = multiscale_structural_similarity_index_measure(
        first, second, kernel_size=_KERNEL, data_range=1.0, betas=tuple(weights.tolist()), normalize="relu")
    return float(1 - likeness)


def _sides(images: Tensor) -> tuple[Tensor, Tensor]:
    first, second = zip(*pairs_of(len(images)), strict=True)
    return images[list(first)], images[list(second)]


class Lpips:
    """LPIPS with AlexNet (Zhang et al. 2018). `weights`: torchvision's AlexNet, .safetensors or .pth.

    Raises UserError when the file is missing or not an AlexNet.
    """

    def __init__(self, weights: str | Path):
        from torchmetrics.functional.image.lpips import _NoTrainLpips

        self.network = _NoTrainLpips(net="alex", pnet_rand=True).eval().requires_grad_(False)
        state = _read(Path(weights).expanduser())
        self.fingerprint = hashlib.sha256(b"".join(state[name].float().numpy().tobytes() for name in sorted(state)
                                                   if name.startswith("features."))).hexdigest()
        try:
            for place, number in enumerate((0, 3, 6, 8, 10), start=1):
                layer = getattr(self.network.net, f"slice{place}")[-2]
                layer.load_state_dict({part: state[f"features.{number}.{part}"] for part in ("weight", "bias")})
        except (KeyError, RuntimeError) as error:
            raise UserError(f"lpips {weights}: is not torchvision's AlexNet ({' '.join(str(error).split())[:120]})"
                            ) from None

    @torch.no_grad()
    def distance(self, images: Tensor) -> float:
        """Mean over pairs of one prompt's images [K, 3, S, S] in [0, 1]."""
        first, second = _sides(images)
        return float(self.network(first, second, normalize=True).mean())


def find_lpips(weights: str | None = None) -> str | None:
    """The AlexNet to use: the one named, or torchvision's own download; None when there is none."""
    if weights:
        if not Path(weights).expanduser().is_file():
            raise UserError(f"lpips {weights}: there is no such file")
        return weights
    cached = Path(torch.hub.get_dir()) / "checkpoints" / _ALEXNET
    return str(cached) if cached.is_file() else None


def _read(file: Path) -> dict[str, Tensor]:
    import pickle

    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        return torch.load(file, map_location="cpu", weights_only=True)
    except (OSError, SafetensorError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise UserError(f"lpips {file}: cannot be read ({' '.join(str(error).split())[:120]})") from None
