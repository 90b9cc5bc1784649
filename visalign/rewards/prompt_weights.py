"""Several rewards, weighed by the prompt: a prompt that quotes a text asks for other things than one that does not.

    r(x, p) = sum_k w_k(p) z_k(x, p),   w(p) = softmax(H e(p) + h)     z_k: standardised, e: features of the prompt

`visalign reward fit-weights` fits H and h to labelled pairs by Bradley-Terry, with a scale for all; with H = 0 the
weights are the same for all prompts, with h = 0 as well they are equal.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from visalign.errors import UserError
from visalign.media.samples import Sample
from visalign.rewards.combine import Combination
from visalign.rewards.on_clip import check_width, has_features, refuse_width
from visalign.rewards.sizes import sum_of
from visalign.storage.weights import read_shapes, read_tensors


class PromptWeights(NamedTuple):
    """head: [K, d]. bias, mean, std: [K]; mean and std are of each reward's values."""

    head: Tensor
    bias: Tensor
    mean: Tensor
    std: Tensor

    def of(self, features: Tensor) -> Tensor:
        """Weights [n, K], of each prompt summing to 1, from unit features [n, d]."""
        return (features @ self.head.T.to(features) + self.bias.to(features)).softmax(-1)

    def combine(self, values: Tensor, features: Tensor) -> Tensor:
        """[n] from values [n, K] of the rewards and features [n, d] of the prompts."""
        return (self.of(features) * (values - self.mean) / self.std).sum(-1)


def fit_prompt_weights(a: Tensor, b: Tensor, a_won: Tensor, features: Tensor, penalty: float = 1e-3,
                       by_prompt: bool = True, steps: int = 200) -> PromptWeights:
    """Maximum likelihood of who won, from values [n, K] of both sides of pairs, bool [n], and features [n, d] of their
    prompts. penalty: of the head's mean square. by_prompt: whether the prompt may count.

    Raises ValueError for a reward that is the same for all samples.
    """
    values = torch.cat([a, b]).double()
    mean, std = values.mean(0), values.std(0, correction=0)
    if (std == 0).any():
        raise ValueError(f"reward {int((std == 0).nonzero()[0]) + 1} is the same for all samples")
    margins = (a - b).double() / std * torch.where(a_won, 1.0, -1.0).double()[:, None]
    features = features.double()
    head = torch.zeros(a.shape[1], features.shape[1], dtype=torch.float64, requires_grad=by_prompt)
    bias = torch.zeros(a.shape[1], dtype=torch.float64, requires_grad=True)
    scale = torch.zeros((), dtype=torch.float64, requires_grad=True)
    learnt = [bias, scale, *([head] if by_prompt else [])]
    optimizer = torch.optim.LBFGS(learnt, max_iter=steps, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        weights = (features @ head.T + bias).softmax(-1)
        loss = F.softplus(-scale.exp() * (weights * margins).sum(-1)).mean() + penalty * head.square().mean()
        loss.backward()
        return loss

    optimizer.step(closure)
    return PromptWeights(*(tensor.detach().float() for tensor in (head, bias, mean, std)))


@dataclass
class PromptWeighted(Combination):
    """Rewards weighed by the prompt, as labelled pairs say (`visalign reward fit-weights`).

    file: the .safetensors file that it wrote for these rewards, in this order. prompts_by: the CLIP model whose
    features of prompts it read.
    """

    file: str = ""
    prompts_by: Any = None

    needs_prompt = True

    def __post_init__(self):
        super().__post_init__()
        if self.prompts_by is None or not has_features(self.prompts_by):
            raise ValueError("prompts_by must be a CLIP model, such as tiny-clip or clip:ARCHITECTURE/TAG")
        self._weights: PromptWeights | None = None

    def check(self) -> None:
        super().check()
        self.prompts_by.check()
        if not self.file:
            raise UserError(f"reward {self.name}: set file to what `visalign reward fit-weights` wrote")
        shapes = read_shapes(self._path, self._where)
        if set(shapes) != set(PromptWeights._fields) or len(shapes["head"]) != 2:
            raise UserError(f"{self._where}: holds {', '.join(sorted(shapes)) or 'nothing'}; expected "
                            f"{', '.join(PromptWeights._fields)}, as `visalign reward fit-weights` writes them")
        rewards, width = shapes["head"]
        if rewards != len(self.columns):
            raise UserError(f"{self._where}: weighs {rewards} rewards, and `of` has {len(self.columns)}: "
                            f"{', '.join(self.columns)}")
        check_width(self.prompts_by, width, self._where)

    @property
    def _path(self) -> Path:
        return Path(self.file).expanduser()

    @property
    def _where(self) -> str:
        return f"reward {self.name}: file {self.file}"

    def to(self, device: str) -> None:
        super().to(device)
        self.prompts_by.to(device)

    def held_bytes(self) -> int | None:
        return sum_of([super().held_bytes(), self.prompts_by.held_bytes()])

    @property
    def prompt_weights(self) -> PromptWeights:
        if self._weights is None:
            self._weights = PromptWeights(**read_tensors(self._path, self._where))
        return self._weights

    def combine(self, values: Tensor, spreads: Tensor, samples: list[Sample]) -> Tensor:
        features, _ = self.prompts_by.prompt_features([sample.prompt for sample in samples])
        refuse_width(self.prompts_by, self.prompt_weights.head.shape[1], features.shape[1], self._where)
        return self.prompt_weights.combine(values, features.float().cpu())
