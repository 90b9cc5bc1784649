"""PickScore, HPS v2.1 and the LAION aesthetic predictor: CLIP models in the layouts their authors published."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from visalign.errors import UserError
from visalign.media.samples import Sample, middle
from visalign.rewards.base import RewardModel, Scores
from visalign.rewards.openclip import (
    check_clip_source,
    cut_prompts,
    letterboxed,
    letterboxed_pixels,
    load_open_clip,
    to_batch,
)
from visalign.rewards.sizes import of_open_clip, of_transformers
from visalign.storage.hub_files import hub_file, hub_reason
from visalign.storage.pretrained import check_processor, load_whole
from visalign.storage.weights import check_finite


def check_hub_or_folder(source: str, marker: str, who: str) -> None:
    """Raise UserError unless `source` is a folder that holds `marker` or looks like a hub id."""
    folder = Path(source).expanduser()
    if folder.is_dir():
        if not (folder / marker).is_file():
            raise UserError(f"reward {who}: {source} has no {marker}")
    elif source.startswith((".", "/", "~")) or source.count("/") != 1:
        raise UserError(f"reward {who}: {source} is neither a folder nor a hub id")


def published_file(source: str, name: str, who: str) -> Path:
    """A file of a local folder, the file itself, or one from the hub repository `source`.

    Raises UserError when there is none.
    """
    path = Path(source).expanduser()
    if path.is_file():
        return path
    if path.is_dir():
        if (path / name).is_file():
            return path / name
        raise UserError(f"reward {who}: {source} holds no {name}")
    check_hub_or_folder(source, name, who)
    try:
        return hub_file(source, name)
    except Exception as error:  # the hub raises many kinds; all mean the same to a person
        raise UserError(f"reward {who}: no local file {source}, and the hub did not give {name} "
                        f"({hub_reason(error)})") from error


def published_weights(path: Path, who: str) -> dict[str, Tensor]:
    """A state dict from safetensors, or from a pickle that may hold tensors only.

    Raises UserError when the file is broken or holds anything else.
    """
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            weights = load_file(path)
        else:
            weights = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # truncated archives and forbidden pickles raise many kinds
        reason = " ".join(str(error).split())[:120]
        raise UserError(f"reward {who}: {path} cannot be read as weights ({reason})") from None
    for key in ("state_dict", "model"):
        weights = weights[key] if isinstance(weights, dict) and isinstance(weights.get(key), dict) else weights
    if not isinstance(weights, dict) or not all(isinstance(v, Tensor) for v in weights.values()):
        raise UserError(f"reward {who}: {path} holds no state dict")
    check_finite(weights.items(), f"reward {who}: {path}")
    return weights


def load_weights(module: nn.Module, weights: dict[str, Tensor], path: Path, who: str) -> None:
    """Strict load. Raises UserError naming the first weight that does not fit."""
    try:
        module.load_state_dict(weights)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:160]
        raise UserError(f"reward {who}: {path} does not fit the model ({reason})") from None


@dataclass
class PickScore(RewardModel):
    """PickScore (Kirstain et al. 2023): logit scale times cosine, about 15 to 26.

    source: a transformers CLIPModel by hub id or folder. processor: of the processor it was trained with (None: the
    source's own). scaled: divide by 26, which brings it near [0, 1].
    """

    source: str = "yuvalkirstain/PickScore_v1"
    processor: str | None = "laion/CLIP-ViT-H-14-laion2B-s32B-b79K"
    scaled: bool = False

    dimensions = ("preference",)
    needs_prompt = True

    def check(self) -> None:
        check_hub_or_folder(self.source, "config.json", self.name)
        if self._own_processor() is None:
            check_hub_or_folder(self.processor, "preprocessor_config.json", self.name)
        check_processor(self._own_processor() or self.processor, f"reward {self.name}")

    def _own_processor(self) -> str | None:
        """The source when it is a folder with its own processor, or no other is set."""
        own = (Path(self.source).expanduser() / "preprocessor_config.json").is_file()
        return self.source if own or self.processor is None else None

    def held_bytes(self) -> int | None:
        published = self.source == PickScore.source  # which is a ViT-H-14
        return of_open_clip("ViT-H-14") if published else of_transformers("CLIPModel", self.source)

    def load(self) -> nn.Module:
        from transformers import CLIPImageProcessor, CLIPModel, CLIPTokenizer

        origin = self._own_processor() or self.processor
        self.image_processor = CLIPImageProcessor.from_pretrained(origin)
        self.tokenizer = CLIPTokenizer.from_pretrained(origin)
        return load_whole(CLIPModel, self.source, f"reward {self.name}", dtype=torch.float32)

    def score_batch(self, samples: list[Sample]) -> Scores:
        network = self.network
        length = network.config.text_config.max_position_embeddings
        prompts = [sample.prompt for sample in samples]
        tokens = self.tokenizer(prompts, padding="max_length", truncation=True, max_length=length, return_tensors="pt")
        counts = [len(ids) for ids in self.tokenizer(prompts).input_ids]
        pixels = self.image_processor([middle(sample.image) for sample in samples], return_tensors="pt").pixel_values
        output = network(input_ids=tokens.input_ids.to(self.device), pixel_values=pixels.to(self.device),
                         attention_mask=tokens.attention_mask.to(self.device))
        cosine = (F.normalize(output.image_embeds, dim=-1) * F.normalize(output.text_embeds, dim=-1)).sum(-1)
        score = network.logit_scale.exp() * cosine / (26 if self.scaled else 1)
        return Scores(score[:, None], {i: f"prompt cut to the model's {length} tokens"
                                       for i, n in enumerate(counts) if n > length})


@dataclass
class HPSv2(RewardModel):
    """HPS v2.1 (Wu et al. 2023): 100 times the cosine of a fine-tuned ViT-H-14, about 20 to 33.

    It sees the whole image on black, never a crop of its centre, as its authors' code does.

    source: hub id, folder or file of `HPS_v2.1_compressed.pt`. architecture: an open_clip architecture, or a folder
    or embedded name whose configuration is used.
    """

    source: str = "xswu/HPSv2"
    architecture: str = "ViT-H-14"

    dimensions = ("preference",)
    needs_prompt = True
    score_range = (-100.0, 100.0)
    file_name = "HPS_v2.1_compressed.pt"

    def check(self) -> None:
        path = Path(self.source).expanduser()
        if not path.is_file():
            check_hub_or_folder(self.source, self.file_name, self.name)

    def held_bytes(self) -> int | None:
        return of_open_clip(self.architecture)

    def load(self) -> nn.Module:
        import open_clip

        path = published_file(self.source, self.file_name, self.name)
        weights = published_weights(path, self.name)
        name = f"local-dir:{self.architecture}" if Path(self.architecture).is_dir() else self.architecture
        model, _, self.preprocess = open_clip.create_model_and_transforms(name, load_weights=False)
        self.tokenizer = open_clip.get_tokenizer(name)
        load_weights(model, weights, path, self.name)
        return model.eval().requires_grad_(False)

    @torch.no_grad()
    def features(self, images: list[Image.Image]) -> Tensor:
        """Unit-length image embeddings, float32 [n, d] on the CPU."""
        network = self.network
        parts = [letterboxed(self.preprocess, images[start:start + self.batch_size], self.name)
                 for start in range(0, len(images), self.batch_size)]
        return torch.cat([F.normalize(network.encode_image(part.to(self.device)).float(), dim=-1).cpu()
                          for part in parts])

    def pixel_features(self, pixels: Tensor) -> Tensor:
        """As `features`, of pixels [B, 3, H, W] in [0, 1], on their device and with gradients."""
        network = self.network
        found = network.encode_image(letterboxed_pixels(self.preprocess, pixels.to(self.device), self.name))
        return F.normalize(found.float(), dim=-1)

    @torch.no_grad()
    def prompt_features(self, prompts: list[str]) -> tuple[Tensor, list[str | None]]:
        """Unit-length prompt embeddings, float32 [n, d] on the CPU, and a note where one was cut."""
        network = self.network
        found = F.normalize(network.encode_text(self.tokenizer(prompts).to(self.device)).float(), dim=-1).cpu()
        cut = cut_prompts(self.tokenizer, prompts)
        return found, [cut.get(i) for i in range(len(prompts))]

    def score_pixels(self, pixels: Tensor, prompts: list[str]) -> Tensor:
        """As `score`, of pixels [B, 3, H, W] in [0, 1] and with gradients, [B, 1]."""
        features = self.pixel_features(pixels)
        return 100 * (features * self.prompt_features(prompts)[0].to(features)).sum(-1, keepdim=True)

    def score_batch(self, samples: list[Sample]) -> Scores:
        network, prompts = self.network, [sample.prompt for sample in samples]
        pixels = letterboxed(self.preprocess, [sample.image for sample in samples], self.name).to(self.device)
        image = F.normalize(network.encode_image(pixels).float(), dim=-1)
        text = F.normalize(network.encode_text(self.tokenizer(prompts).to(self.device)).float(), dim=-1)
        return Scores(100 * (image * text).sum(-1, keepdim=True), cut_prompts(self.tokenizer, prompts))


def aesthetic_head(weights: dict[str, Tensor]) -> nn.Sequential:
    """The predictor's stack of linear layers and dropouts, its sizes read from `layers.N.weight`."""
    places = sorted(int(key.split(".")[1]) for key in weights if key.endswith(".weight"))
    layers: list[nn.Module] = [nn.Identity()] * (max(places, default=-1) + 1)
    for place in places:
        out_size, in_size = weights[f"layers.{place}.weight"].shape
        layers[place] = nn.Linear(in_size, out_size)
    return nn.Sequential(*layers)


@dataclass
class Aesthetic(RewardModel):
    """LAION aesthetic predictor v2 (Schuhmann 2022): an MLP on the normalised CLIP ViT-L/14 embedding, about 1 to 10.

    source: the file `sac+logos+ava1-l14-linearMSE.pth` (or .safetensors) of the GitHub repository
    christophschuhmann/improved-aesthetic-predictor, the folder or hub repository that holds it, or the hub's mirror of
    it under another name. clip: an open_clip source.
    """

    source: str = "trl-lib/ddpo-aesthetic-predictor"
    clip: str = "ViT-L-14/openai"

    dimensions = ("aesthetics",)
    file_name, mirrored_name = "sac+logos+ava1-l14-linearMSE.pth", "aesthetic-model.pth"

    def check(self) -> None:
        path = Path(self.source).expanduser()
        if not path.is_file():
            check_hub_or_folder(self.source, self.file_name, self.name)
        check_clip_source(self.clip, self.name)

    def held_bytes(self) -> int | None:
        return of_open_clip(self.clip)  # its own layers are a few hundredths of one of them

    def load(self) -> nn.Module:
        named = self.mirrored_name if self.source == Aesthetic.source else self.file_name
        path = published_file(self.source, named, self.name)
        weights = published_weights(path, self.name)
        if not weights or not all(key.startswith("layers.") for key in weights):
            raise UserError(f"reward {self.name}: {path} is not such a predictor: its weights are not named layers.N")
        head = nn.ModuleDict({"layers": aesthetic_head(weights)})
        load_weights(head, weights, path, self.name)
        model, self.preprocess, _ = load_open_clip(self.clip, self.name)
        return nn.ModuleDict({"clip": model, "head": head}).eval()

    def score_batch(self, samples: list[Sample]) -> Tensor:
        network: Any = self.network
        pixels = to_batch(self.preprocess, [sample.image for sample in samples]).to(self.device)
        embedding = F.normalize(network["clip"].encode_image(pixels).float(), dim=-1)
        return network["head"]["layers"](embedding)
