"""The embedded reward that nobody trains against by default: is the image of the prompt's group of drawings?"""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from visalign.errors import UserError
from visalign.media.samples import Sample, to_pixels
from visalign.rewards.base import RewardModel
from visalign.rewards.sizes import of_header
from visalign.storage.open_clip_models import CLIP_ASSETS
from visalign.storage.weights import read_json

SIDE = 64
EMBEDDED_GROUP = CLIP_ASSETS / "tiny-group"


def group_classifier(groups: int) -> nn.Module:
    """An untrained classifier of images [B, 3, 64, 64] in [-1, 1] into `groups`."""
    layers: list[nn.Module] = []
    for wide, narrow in ((3, 24), (24, 48), (48, 96), (96, 128)):
        layers += [nn.Conv2d(wide, narrow, 3, 2, 1), nn.BatchNorm2d(narrow), nn.GELU()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Dropout(0.3), nn.Linear(2048, groups))


@dataclass
class EmojiGroup(RewardModel):
    """Probability in [0, 1] of the prompt's group of emoji, by a small classifier that saw real drawings only."""

    source: str = str(EMBEDDED_GROUP)

    needs_prompt: ClassVar[bool] = True
    score_range: ClassVar[tuple[float, float]] = (0.0, 1.0)

    def check(self) -> None:
        for name in ("groups.json", "model.safetensors"):
            if not (Path(self.source) / name).is_file():
                raise UserError(f"reward {self.name}: {self.source} has no {name}; "
                                "scripts/embedded/train_group.py writes such a folder")

    def groups_of(self, prompt: str) -> list[int]:
        """Indices of the groups that a caption of the embedded drawings may mean; [] for any other prompt."""
        return self._card["captions"].get(prompt.strip(), [])

    @property
    def _card(self) -> dict:
        if getattr(self, "_read", None) is None:
            self._read = read_json(Path(self.source) / "groups.json", f"reward {self.name}")
        return self._read

    def held_bytes(self) -> int:
        file = Path(self.source) / "model.safetensors"
        return of_header(file, f"reward {file}")

    def load(self) -> nn.Module:
        network = group_classifier(len(self._card["groups"]))
        network.load_state_dict({name: value.float() if value.is_floating_point() else value for name, value in
                                 load_file(Path(self.source) / "model.safetensors").items()})
        return network.eval().requires_grad_(False)

    def refusal(self, sample: Sample) -> str | None:
        return super().refusal(sample) or (
            None if self.groups_of(sample.prompt) else "knows the captions of the embedded drawings only")

    def score_pixels(self, pixels: Tensor, prompts: list[str]) -> Tensor:
        """[B, 1] for images [B, 3, 64, 64] in [0, 1], with gradients."""
        chances = self.network(pixels * 2 - 1).softmax(1)
        return torch.stack([chances[i, self.groups_of(prompt)].sum() for i, prompt in enumerate(prompts)])[:, None]

    def score_batch(self, samples: list[Sample]) -> Tensor:
        pixels = to_pixels([sample.image for sample in samples], SIDE) / 2 + 0.5
        return self.score_pixels(pixels.to(self.device), [sample.prompt for sample in samples])
