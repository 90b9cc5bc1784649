"""A network's time as a function of the process's."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class TimeRule:
    """The argument is offset + slope u, where u is t, or the time before a shift of u = t / (t + shift (1 - t)).

    Diffusion networks get their integer time as it is (slope 1). tokens: of an argument [B, tokens], None for [B].
    fixed: tokens with a constant time, bool [tokens]; constant: that time.
    """

    offset: float
    slope: float
    shift: float | None = None
    shape: tuple[int, ...] = ()
    fixed: Tensor | None = None
    constant: float = 0.0

    def __call__(self, t: Tensor) -> Tensor:
        """t: [B]. Returns [B, *shape]."""
        if self.shift is not None:
            t = t / (t + self.shift * (1 - t))
        value = t if (self.offset, self.slope) == (0, 1) else self.offset + self.slope * t
        if not self.shape:
            return value
        value = value.view(-1, *[1] * len(self.shape)).expand(-1, *self.shape)
        return value if self.fixed is None else torch.where(self.fixed, self.constant, value)


_USUAL = ((0.0, 1000.0), (0.0, 1.0), (1.0, -1.0), (1000.0, -1000.0))


def fit_times(times: Tensor, given: Tensor, exact: bool) -> tuple[float, float, float | None] | None:
    """(offset, slope, shift) of `given` [n] as a function of process times [n]; None where there is none.

    exact: whether the values are known to float32, rather than to half precision or whole numbers.
    """
    t, y = times.double(), given.double()
    reach = y.abs().max().clamp(min=1e-12)
    most = reach * (2e-5 if exact else 6e-3)
    for offset, slope in _USUAL:
        if (offset + slope * t - y).abs().max() <= most:
            return offset, slope, None
    design = torch.stack([torch.ones_like(t), t], 1)
    offset, slope = torch.linalg.lstsq(design, y[:, None]).solution[:, 0].tolist()
    if (offset + slope * t - y).abs().max() <= most:
        return _rounded(offset, reach), _rounded(slope, reach), None
    for scale in (1000.0, 1.0):
        u = y / scale
        inside = (t > 1e-3) & (t < 1 - 1e-3) & (u > 1e-3) & (u < 1 - 1e-3)
        shift = (t * (1 - u) / (u * (1 - t)))[inside]
        if len(shift) > 2 and (shift - shift.mean()).abs().max() < (1e-3 if exact else 3e-2) * shift.mean():
            return 0.0, scale, float(shift.median())
    return None


def _rounded(value: float, reach: Tensor) -> float:
    """Without the noise of least squares."""
    return round(value, 6) if abs(value) > 1e-6 * float(reach) else 0.0
