"""A reward on noisy latents: the frozen generator's own first blocks, a pooling and small heads conditioned on time.

    latents at time t, prompt -> blocks of the generator -> hierarchical pooling, sines of the noise level -> rewards

It is trained on both sides of an annotation at one time and with one noise. Its rewards are log-odds. Saved as a folder
with guide.json and guide.safetensors (the pooling and the heads; the generator's weights stay where they are).
"""

import hashlib
import json
from pathlib import Path

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from visalign.config import GuideHeadSettings, ModelSettings
from visalign.errors import UserError
from visalign.generators.base import Generator
from visalign.rewards.joint.heads import Heads
from visalign.rewards.joint.network import HierarchicalPool, sinusoids
from visalign.storage.weights import write_tensors

GUIDE_FILES = ("guide.json", "guide.safetensors")


class LatentReward(nn.Module):
    """`forward(latents, t, **conditioning) -> float32 [B, E, D]`, with gradients to the latents."""

    def __init__(self, generator: Generator, settings: GuideHeadSettings):
        super().__init__()
        self.settings, self._generator = settings, [generator]  # in a list: its weights are not this module's
        count = len(generator.blocks())
        if settings.blocks[-1] >= count:
            raise UserError(f"head.blocks names block {settings.blocks[-1]}, but {generator.pipeline_class} has the "
                            f"blocks 0 to {count - 1}")
        width = settings.width
        self.pool = HierarchicalPool(self._widths(), width, settings.attention_heads)
        self.mix = nn.Sequential(nn.LayerNorm(2 * width), nn.Linear(2 * width, 2 * width), nn.GELU())
        self.heads = Heads(2 * width, len(settings.dimensions), settings.members, width)

    @property
    def generator(self) -> Generator:
        return self._generator[0]

    @torch.no_grad()
    def _widths(self) -> list[int]:
        generator = self.generator
        latents = torch.zeros(1, *generator.latent_shape(), device=generator.device)
        t = generator.process.times_at(torch.tensor([0.5])).to(generator.device)
        seen = generator.features(latents, t, generator.encode_prompts(["a"]), self.settings.blocks)
        return [tokens.shape[-1] for tokens in seen]

    def forward(self, latents: Tensor, t: Tensor, **conditioning: Tensor) -> Tensor:
        seen = self.generator.features(latents, t, conditioning, self.settings.blocks)
        noise = sinusoids(self.generator.process.noise_fraction(t), self.settings.width).to(latents.device)
        pooled = torch.cat([self.pool(seen), noise], -1)
        return self.heads((pooled + self.mix(pooled))[:, None])


def save_guide(folder: Path, guide: LatentReward, model: ModelSettings, about: dict) -> None:
    """Write a guide's folder, with its metadata (`about`)."""
    folder.mkdir(parents=True, exist_ok=True)
    write_tensors(folder / GUIDE_FILES[1], guide.state_dict())
    saved = {"head": guide.settings.model_dump(mode="json"), "model": model.source,
             "network": guide.generator.pipeline_class, **about}
    (folder / GUIDE_FILES[0]).write_text(json.dumps(saved, indent=2) + "\n")


def find_guide(source: str | Path) -> Path:
    """The folder of a guide, or of the run that trained one. Raises UserError when it is neither."""
    folder = Path(source).expanduser()
    folder = folder / "guide" if (folder / "guide" / GUIDE_FILES[0]).is_file() else folder
    for name in GUIDE_FILES:
        if not (folder / name).is_file():
            raise UserError(f"guide {source}: not a guide's folder, it has no {name}; `visalign guide train` makes one")
    return folder


def digest_of_guide(source: str | Path) -> str:
    """A hash of its files."""
    folder = find_guide(source)
    return hashlib.sha256(b"".join((folder / name).read_bytes() for name in GUIDE_FILES)).hexdigest()


def read_head(folder: Path) -> GuideHeadSettings:
    """Its settings. Raises UserError naming the file when they cannot be read."""
    try:
        return GuideHeadSettings.model_validate(json.loads((folder / GUIDE_FILES[0]).read_text())["head"])
    except (ValueError, KeyError, ValidationError) as error:
        reason = " ".join(str(error).split())[:150]
        raise UserError(f"guide {folder / GUIDE_FILES[0]}: not a guide's settings ({reason})") from None


def read_network(folder: Path) -> str:
    """The pipeline whose network a guide reads. Raises UserError naming the file when it does not say."""
    found = json.loads((folder / GUIDE_FILES[0]).read_text()).get("network")
    if not isinstance(found, str):
        raise UserError(f"guide {folder / GUIDE_FILES[0]}: does not say which network it is for (network)")
    return found


def load_guide(source: str | Path, generator: Generator) -> LatentReward:
    """A guide on the generator it was trained for. Raises UserError when they do not fit."""
    folder = find_guide(source)
    guide = LatentReward(generator, read_head(folder))
    try:
        guide.load_state_dict(load_file(folder / GUIDE_FILES[1]))
    except (SafetensorError, RuntimeError, OSError) as error:
        reason = " ".join(str(error).split())[:150]
        raise UserError(f"guide {folder / GUIDE_FILES[1]}: does not fit {generator.pipeline_class} as loaded here "
                        f"({reason})") from None
    return guide.to(generator.device).eval().requires_grad_(False)
