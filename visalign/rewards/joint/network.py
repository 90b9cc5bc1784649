"""The unified reward's network: a backbone's features per dimension, then an ensemble of small heads.

    open_clip:  frames -> vision tokens -> hierarchical pooling -> temporal attention pooling ┐
                prompt -> text embedding ─────────────────────────────────────────────────────┴-> features [B, 1, d]
    vlm:        prompt, frames and one special token a dimension -> last hidden states            features [B, D, d]
    heads:      E members of D two-layer heads                                                    rewards [B, E, D]
                or another head of HEADS: users' ideal points, latents or groups, embeddings that are compared

Hierarchical pooling is SoliReward's HPQA (arXiv 2512.22170): one learned query attends to the shallowest chosen layer,
then with what it has read to the next one, and a second learned query attends to the last layer; the two are added.
Differs from it in: the layers' tokens are normed and projected to one width first; with `residual`, the default, an
answer is added to the query, where the published code replaces the query by it; and frame differences enter the
temporal pooling, since a pooled set of frames has no order of its own.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from visalign.config import JointSettings
from visalign.errors import UserError
from visalign.media.samples import Sample
from visalign.objectives.base import Outcome
from visalign.rewards.joint.general import GeneralPreference
from visalign.rewards.joint.groups import TasteGroups
from visalign.rewards.joint.heads import NOBODY_KNOWN, Head, Heads, KnownUsers
from visalign.rewards.joint.ideal_points import IdealPoints
from visalign.rewards.joint.variational import Variational
from visalign.rewards.openclip import to_batch


class HierarchicalPool(nn.Module):
    """Tokens of several layers, a list of [B, N_k, width_k] -> [B, width]; `masks` are True at padding.

    residual: whether what a layer answers is added to the query. The published code (lian700/SoliReward) replaces the
    query by it, so that a shallow layer is heard only in what the next one is asked.
    """

    def __init__(self, widths: list[int], width: int, heads: int, residual: bool = True):
        super().__init__()
        self.residual = residual
        self.project = nn.ModuleList(nn.Sequential(nn.LayerNorm(w), nn.Linear(w, width)) for w in widths)
        self.attend = nn.ModuleList(nn.MultiheadAttention(width, heads, batch_first=True) for _ in widths)
        self.attend_last = nn.MultiheadAttention(width, heads, batch_first=True)
        self.shallow_query = nn.Parameter(torch.randn(1, 1, width) * width**-0.5)
        self.deep_query = nn.Parameter(torch.randn(1, 1, width) * width**-0.5)

    def forward(self, layers: list[Tensor], masks: Tensor | None = None) -> Tensor:
        query = self.shallow_query.expand(len(layers[0]), -1, -1)
        for project, attend, tokens in zip(self.project, self.attend, layers, strict=True):
            tokens = project(tokens)
            answer = attend(query, tokens, tokens, key_padding_mask=masks, need_weights=False)[0]
            query = query + answer if self.residual else answer
        deep = self.deep_query.expand(len(tokens), -1, -1)
        deep = self.attend_last(deep, tokens, tokens, key_padding_mask=masks, need_weights=False)[0]
        return (query + deep).squeeze(1)


class TemporalPool(nn.Module):
    """Frame features [B, T, d] with mask [B, T] (True at padding) -> [B, width]; an image is a video of one frame."""

    def __init__(self, features: int, width: int, heads: int):
        super().__init__()
        self.content, self.change = nn.Linear(features, width), nn.Linear(features, width)
        self.mix = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.GELU(),
                                 nn.Linear(2 * width, width))
        self.query = nn.Parameter(torch.randn(1, 1, width) * width**-0.5)
        self.attend = nn.MultiheadAttention(width, heads, batch_first=True)
        self.norm = nn.LayerNorm(width)

    def forward(self, frames: Tensor, mask: Tensor) -> Tensor:
        change = F.pad(frames[:, 1:] - frames[:, :-1], (0, 0, 1, 0))
        change = change.masked_fill(mask[..., None], 0)
        counts = (~mask).sum(1, keepdim=True)
        place = torch.arange(frames.shape[1], device=frames.device) / (counts - 1).clamp(min=1)
        tokens = self.content(frames) + self.change(change) + sinusoids(place, self.query.shape[-1]).to(frames)
        tokens = tokens + self.mix(tokens)
        query = self.query.expand(len(frames), -1, -1)
        pooled = self.attend(query, tokens, tokens, key_padding_mask=mask, need_weights=False)[0]
        return self.norm(pooled.squeeze(1))


def sinusoids(place: Tensor, width: int) -> Tensor:
    """Places in [0, 1], [...], as sines and cosines of half a period up to 8 periods, [..., width]."""
    rates = torch.logspace(math.log2(0.5), 3, width // 2, base=2, device=place.device) * 2 * math.pi
    angles = place.float()[..., None] * rates
    return F.pad(torch.cat([angles.sin(), angles.cos()], -1), (0, width % 2))


class OpenClipBackbone(nn.Module):
    """Image and text towers of an open_clip model. `collate` makes tensors on the CPU, `forward` [B, 1, features]."""

    def beside(self) -> Outcome | None:
        """Nothing is learnt beside what the heads ask for."""
        return None

    def __init__(self, settings: JointSettings, clip: nn.Module, preprocess, tokenizer):
        super().__init__()
        self.settings, self.clip, self.preprocess, self.tokenizer = settings, clip, preprocess, tokenizer
        clip.requires_grad_(settings.tuning == "full")
        if settings.tuning == "lora":
            add_backbone_lora(clip, settings.lora_rank, ["attn", "c_fc", "c_proj"])
        size = clip.visual.image_size
        blocks = len(getattr(getattr(clip.visual, "transformer", None), "resblocks", ())) or None
        if blocks is not None and max(settings.layers, default=0) >= blocks:
            raise UserError(f"model.layers names block {max(settings.layers)}, but {settings.source} has the blocks 0 "
                            f"to {blocks - 1}")
        with torch.no_grad():
            widths, embedding = self._widths(size if isinstance(size, tuple) else (size, size))
        width, heads = settings.width, settings.attention_heads
        self.pool = HierarchicalPool(widths, width, heads, settings.residual) if widths else None
        self.temporal = TemporalPool(embedding + (width if widths else 0), width, heads)
        self.text = nn.Linear(embedding, width)
        self.features, self.prompt = 3 * width + 1, slice(width, 2 * width)

    def _widths(self, size: tuple[int, int]) -> tuple[list[int], int]:
        embedding, tokens = self._see(torch.zeros(1, 3, *size))
        return [layer.shape[-1] for layer in tokens], embedding.shape[-1]

    def _see(self, pixels: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Image embedding [N, d] and the chosen layers' tokens [N, n, w] of pixels [N, 3, H, W]."""
        if not self.settings.layers:
            return self.clip.encode_image(pixels), []
        seen = self.clip.forward_intermediates(image=pixels, image_indices=list(self.settings.layers), normalize=False,
                                               image_output_fmt="NLC")
        return seen["image_features"], seen["image_intermediates"]

    def collate(self, samples: list[Sample]) -> dict[str, Tensor]:
        frames = [sample.frames(self.settings.frames) for sample in samples]
        return {"pixels": to_batch(self.preprocess, [image for each in frames for image in each]),
                "lengths": torch.tensor([len(each) for each in frames]),
                "tokens": self.tokenizer([sample.prompt for sample in samples])}

    def forward(self, pixels: Tensor, lengths: Tensor, tokens: Tensor) -> Tensor:
        learns = self.settings.tuning != "frozen" or pixels.requires_grad
        with torch.set_grad_enabled(torch.is_grad_enabled() and learns):
            embedding, layers = self._see(pixels)
            text = self.clip.encode_text(tokens)
        seen = torch.cat([embedding, self.pool(layers)], -1) if self.pool else embedding
        padded = nn.utils.rnn.pad_sequence(seen.split(lengths.tolist()), batch_first=True)
        mask = torch.arange(padded.shape[1], device=padded.device) >= lengths[:, None]
        pooled, words = self.temporal(padded, mask), self.text(text)
        mean = torch.stack([part.mean(0) for part in embedding.split(lengths.tolist())])
        fit = F.cosine_similarity(mean, text, dim=-1)[:, None]
        return torch.cat([pooled, words, pooled * words, fit.to(pooled)], -1)[:, None]


TOWERS = ("backbone.clip.", "backbone.model.")
"""How names of a backbone's pretrained weights begin."""
OF_SHOWN = "shown "
"""How names of what a backbone reads of pairs begin that a head is shown beside those that are learnt from."""
HEADS: dict[str, type[Head]] = {"scalar": Heads, "ideal_points": IdealPoints, "variational": Variational,
                                "groups": TasteGroups, "general": GeneralPreference}
"""By the setting `model.<name>` that asks for it; `scalar` where none is given."""


class JointNetwork(nn.Module):
    """Backbone and heads; `forward(**collated) -> float32 [B, E, D]`, or what the head of `settings` gives."""

    def __init__(self, backbone: nn.Module, settings: JointSettings, users: KnownUsers = NOBODY_KNOWN):
        super().__init__()
        self.backbone, self.settings = backbone, settings
        self.heads = HEADS[settings.head].of(settings, backbone, users)
        self.own_rates = {f"heads.{name}": rate for name, rate in self.heads.own_rates(settings).items()}
        # open_clip's temperature, and what follows the last chosen layer, are not used by the reward
        self.unused_weights = (r"\.logit_(scale|bias)$", *getattr(backbone, "unused_weights", ()))

    @property
    def context_pairs(self) -> int:
        return self.heads.context_pairs

    def collate(self, samples: list[Sample]) -> dict[str, Tensor]:
        return self.backbone.collate(samples) | self.heads.collate(samples)

    def collate_shown(self, samples: list[Sample]) -> dict[str, Tensor]:
        """Of pairs that the head is shown, first sides and then second ones."""
        return {f"{OF_SHOWN}{name}": tensor for name, tensor in self.backbone.collate(samples).items()}

    def forward(self, **inputs: Tensor) -> Tensor:
        told = {name: inputs.pop(name) for name in self.heads.reads if name in inputs}
        shown = {name.removeprefix(OF_SHOWN): inputs.pop(name) for name in list(inputs) if name.startswith(OF_SHOWN)}
        if shown:
            with torch.no_grad():
                told["shown"] = self.backbone(**shown)
        return self.heads(self.backbone(**inputs), **told)

    def beside(self, outcome: Tensor, step: int) -> Outcome | None:
        """See `Head.beside`; together with what a backbone learns beside it."""
        found = [each for each in (self.heads.beside(outcome, step), self.backbone.beside()) if each]
        if not found:
            return None
        return Outcome(sum(each.loss for each in found), {k: v for each in found for k, v in each.metrics.items()})

    def filters(self, told: dict[str, Tensor],
                together: Callable[[Tensor], Tensor]) -> tuple[Callable[[Tensor], Tensor], ...]:
        """See `Head.filters`."""
        return self.heads.filters(told, together)

    def remembered(self) -> dict[str, nn.Module]:
        """See `Head.remembered`."""
        return self.heads.remembered()

    def after_step(self, done: int) -> None:
        self.heads.after_step(done)


def add_backbone_lora(module: nn.Module, rank: int, targets: list[str]) -> None:
    """Add LoRA adapters to `module`; only they are trained."""
    from peft import LoraConfig, inject_adapter_in_model
    from peft.tuners.lora.layer import MultiheadAttention

    inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=rank, target_modules=targets), module)
    for layer in module.modules():
        if isinstance(layer, MultiheadAttention):
            layer.register_forward_hook(_same_weights_again(layer.get_base_layer()))


def _same_weights_again(attention: nn.MultiheadAttention) -> Callable:
    """A hook that restores an attention layer's own weights.

    peft adds an adapter to them for each pass and subtracts it again, and rounding errors would accumulate from pass to
    pass: a reward would be trained, and saved, on towers that differ from those it is loaded with.
    """
    projection = attention.out_proj.get_base_layer()
    inward, outward = attention.in_proj_weight, projection.weight

    def restore(*_) -> None:
        attention.register_parameter("in_proj_weight", inward)
        projection.register_parameter("weight", outward)

    return restore
