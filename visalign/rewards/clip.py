"""CLIPScore: how well an image fits its prompt by an open_clip model (Radford et al. 2021; Hessel et al. 2021)."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from visalign.errors import UserError
from visalign.media.samples import Sample
from visalign.rewards.base import RewardModel, Scores
from visalign.rewards.clip_tokens import check_has_tokens, patch_tokens, text_tokens
from visalign.rewards.openclip import (
    check_clip_source,
    cut_prompts,
    load_open_clip,
    pixels_to_batch,
    to_batch,
)
from visalign.rewards.sizes import of_open_clip
from visalign.storage.open_clip_models import EMBEDDED_CLIPS

SCALES = {"cosine": lambda cosine: cosine, "percent": lambda cosine: 100 * cosine,
          "hessel": lambda cosine: 2.5 * cosine.clamp(min=0)}
PROMPTS_KEPT, FRAMES = 4096, 8
"""Prompts whose embeddings are cached (generations of one prompt come in many batches); frames used of a video."""


@dataclass
class ClipScore(RewardModel):
    """Cosine of image and prompt embedding by any open_clip model.

    source: an embedded model, a folder, ARCHITECTURE/TAG, or a hub id. scale: the plain `cosine` in [-1, 1],
    `percent` (times 100), or `hessel` 2.5 max(cosine, 0).
    """

    source: str = "ViT-L-14/openai"
    scale: Literal["cosine", "percent", "hessel"] = "cosine"

    dimensions = ("alignment",)
    needs_prompt = True
    score_range = (-1.0, 1.0)

    def __post_init__(self):
        super().__post_init__()
        low, high = SCALES[self.scale](torch.tensor([-1.0, 1.0])).tolist()
        self.score_range = (low, high)
        self._known: dict[str, tuple[Tensor, str | None]] = {}

    def check(self) -> None:
        check_clip_source(self.source, self.name)

    def weights_folder(self) -> Path | None:
        folder = Path(EMBEDDED_CLIPS.get(self.source, self.source)).expanduser()
        return folder if folder.is_dir() else None

    def held_bytes(self) -> int | None:
        return of_open_clip(self.source)

    def load(self) -> nn.Module:
        model, self.preprocess, self.tokenizer = load_open_clip(self.source, self.name)
        return model

    @torch.no_grad()
    def features(self, images: list[Image.Image]) -> Tensor:
        """Unit-length image embeddings, float32 [n, d] on the CPU."""
        network, parts = self.network, []
        for start in range(0, len(images), self.batch_size):
            pixels = to_batch(self.preprocess, images[start:start + self.batch_size])
            parts.append(F.normalize(network.encode_image(pixels.to(self.device)).float(), dim=-1).cpu())
        return torch.cat(parts)

    def sample_features(self, samples: list[Sample]) -> Tensor:
        """Unit features [n, D] of images; of videos the mean over 8 frames, concatenated with the change from first to
        last and the summed size of the changes between, so that videos of equal look but different motion differ.

        Raises UserError for a mixture of images and videos.
        """
        if len({sample.modality for sample in samples}) > 1:
            raise UserError("images and videos cannot be compared with each other; measure them separately")
        frames = [sample.frames(FRAMES) for sample in samples]
        found = self.features([frame for each in frames for frame in each]).split([len(each) for each in frames])
        if samples[0].modality == "image":
            return torch.cat(found)
        changes = [own.diff(dim=0) for own in found]  # none for a video of one frame, and its motion is 0 then
        return F.normalize(torch.stack([torch.cat([own.mean(0), change.sum(0), change.abs().sum(0)])
                                        for own, change in zip(found, changes, strict=True)]), dim=-1)

    @torch.no_grad()
    def text_features(self, prompts: list[str]) -> Tensor:
        """Unit-length prompt embeddings, float32 [n, d] on the CPU."""
        network = self.network
        tokens = self.tokenizer(prompts).to(self.device)
        return F.normalize(network.encode_text(tokens).float(), dim=-1).cpu()

    def prompt_features(self, prompts: list[str]) -> tuple[Tensor, list[str | None]]:
        """Embeddings of the prompts, and a note where one was truncated; recent ones are cached.

        Each is embedded alone: in a batch its last digit would depend on which prompts were cached, and so on whether
        the program was restarted in between.
        """
        unknown = [prompt for prompt in dict.fromkeys(prompts) if prompt not in self._known]
        if unknown:
            features = torch.cat([self.text_features([prompt]) for prompt in unknown])
            cut = cut_prompts(self.tokenizer, unknown)
            if len(self._known) > PROMPTS_KEPT:
                self._known = {prompt: self._known[prompt] for prompt in set(prompts) - set(unknown)}
            self._known |= {prompt: (features[i], cut.get(i)) for i, prompt in enumerate(unknown)}
        found = [self._known[prompt] for prompt in prompts]
        return torch.stack([features for features, _ in found]), [note for _, note in found]

    def pixel_features(self, pixels: Tensor) -> Tensor:
        """As `features`, of square pixels [B, 3, H, W] in [0, 1], on their device and with gradients."""
        network = self.network
        found = network.encode_image(pixels_to_batch(self.preprocess, pixels.to(self.device), self.name))
        return F.normalize(found.float(), dim=-1)

    def check_tokens(self, where: str) -> None:
        """Raise UserError starting with `where` for a model whose words and patches have no features; loads nothing."""
        check_has_tokens(self.source, where)

    @torch.no_grad()
    def patch_features(self, images: list[Image.Image]) -> Tensor:
        """Unit features of the patches of n images, float32 [n, h, w, d] on the CPU."""
        network = self.network
        return torch.cat([patch_tokens(network, to_batch(self.preprocess, images[start:start + self.batch_size])
                                       .to(self.device)).cpu() for start in range(0, len(images), self.batch_size)])

    @torch.no_grad()
    def word_features(self, prompt: str) -> tuple[Tensor, str | None]:
        """Unit features of a prompt's tokens and of its end, float32 [l, d] on the CPU, and a note where it was cut."""
        network = self.network
        return text_tokens(network, self.tokenizer([prompt]).to(self.device))[0].cpu(), cut_prompts(
            self.tokenizer, [prompt]).get(0)

    def score_pixels(self, pixels: Tensor, prompts: list[str]) -> Tensor:
        """As `score`, of square pixels [B, 3, H, W] in [0, 1] and with gradients, [B, 1]."""
        features = self.pixel_features(pixels)
        texts = self.prompt_features(prompts)[0].to(self.device)
        return SCALES[self.scale]((features * texts).sum(-1, keepdim=True))

    def score_batch(self, samples: list[Sample]) -> Scores:
        texts, notes = self.prompt_features([sample.prompt for sample in samples])
        cosine = (self.features([sample.image for sample in samples]) * texts).sum(-1, keepdim=True)
        return Scores(SCALES[self.scale](cosine), {i: note for i, note in enumerate(notes) if note})
