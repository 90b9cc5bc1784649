"""CLIPScore: how well a picture fits its prompt by an open_clip model (Radford et al. 2021; Hessel et al. 2021)."""

from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from visalign.errors import UserError
from visalign.media import Sample


class ClipScore:
    """Cosine of picture and prompt embedding, in [-1, 1] (Hessel et al. scale it by 2.5 and cut at 0).

    source: a local folder with `open_clip_config.json` and safetensors weights.
    """

    modalities = frozenset({"image"})
    dimensions = ("alignment",)
    higher_is_better = True

    def __init__(self, source: str | Path, name: str = "clip", device: torch.device | str = "cpu",
                 batch_size: int = 256):
        import open_clip

        folder = Path(source)
        if not (folder / "open_clip_config.json").is_file():
            raise UserError(f"reward {source}: not an open_clip folder, it has no open_clip_config.json")
        if not list(folder.glob("*.safetensors")):
            raise UserError(f"reward {source}: it holds no .safetensors weights (pickled weights are refused)")
        self.name, self.device, self.batch_size = name, torch.device(device), batch_size
        self.model, _, self.preprocess = open_clip.create_model_and_transforms(f"local-dir:{folder}")
        self.model.to(self.device).eval().requires_grad_(False)
        self.tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")

    @torch.no_grad()
    def features(self, images: list[Image.Image]) -> Tensor:
        """Unit-length picture embeddings, float32 [n, d] on the CPU."""
        parts = []
        for start in range(0, len(images), self.batch_size):
            pixels = torch.stack([self.preprocess(image) for image in images[start:start + self.batch_size]])
            parts.append(F.normalize(self.model.encode_image(pixels.to(self.device)).float(), dim=-1).cpu())
        return torch.cat(parts)

    @torch.no_grad()
    def text_features(self, prompts: list[str]) -> Tensor:
        """Unit-length prompt embeddings, float32 [n, d] on the CPU."""
        tokens = self.tokenizer(prompts).to(self.device)
        return F.normalize(self.model.encode_text(tokens).float(), dim=-1).cpu()

    def score(self, samples: list[Sample]) -> Tensor:
        prompts = sorted({sample.prompt for sample in samples})
        texts = dict(zip(prompts, self.text_features(prompts), strict=True))
        pictures = self.features([sample.image for sample in samples])
        return (pictures * torch.stack([texts[sample.prompt] for sample in samples])).sum(-1, keepdim=True)
