"""Features of the words of a prompt and of the patches of an image, by an open_clip model.

Both leave the last layer as the model's own feature does: its last norm, its projection, unit length. The model was
trained for the feature of a text's last token and of an image's class token alone, so words and patches are rougher.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from visalign.errors import UserError
from visalign.storage.open_clip_models import model_settings

_OTHER = "; take a CLIP model with a vision transformer, such as tiny-clip or clip:ViT-L-14/openai"


def check_has_tokens(source: str, where: str) -> None:
    """Raise UserError starting with `where` for an architecture whose tokens do not lie where its features do."""
    settings = model_settings(source, where)
    vision = settings.get("vision_cfg", {})
    if (vision.get("timm_model_name") or isinstance(vision.get("layers"), list | tuple)
            or vision.get("attentional_pool")):
        raise UserError(f"{where}: {source} has no patches among its features{_OTHER}")
    if settings.get("custom_text") or settings.get("text_cfg", {}).get("hf_model_name"):
        raise UserError(f"{where}: {source} has no words among its features{_OTHER}")


def patch_tokens(model: nn.Module, pixels: Tensor) -> Tensor:
    """Unit features of the patches of normalised pixels [B, 3, H, W], float32 [B, h, w, d] for h x w patches."""
    visual = model.visual
    found = visual.forward_intermediates(pixels, indices=1, normalize_intermediates=True, intermediates_only=True)
    tokens = found["image_intermediates"][-1].permute(0, 2, 3, 1)
    return F.normalize((tokens if visual.proj is None else tokens @ visual.proj).float(), dim=-1)


def text_tokens(model: nn.Module, tokens: Tensor) -> list[Tensor]:
    """Unit features of the tokens [n, L] of texts, from behind the first to the last that is not padding, float32
    [l, d] each.

    The first token is the same in every text, and what it becomes too, since it sees no other.
    """
    found = model.forward_intermediates(text=tokens, text_indices=1, normalize_intermediates=True,
                                        intermediates_only=True)["text_intermediates"][-1]
    projection = model.text_projection
    if projection is not None:
        found = projection(found) if isinstance(projection, nn.Linear) else found @ projection
    ends = tokens.argmax(-1) if model.text_pool_type == "argmax" else (tokens == model.text_eos_id).int().argmax(-1)
    return [F.normalize(own[1:end + 1].float(), dim=-1) for own, end in zip(found, ends.tolist(), strict=True)]


def patch_places(height: int, width: int, frames: int) -> tuple[Tensor, Tensor]:
    """Of every patch, frame by frame and row by row: when it is, [frames h w], from 0 at the first frame to 1 at the
    last; and where, [frames h w, 2], the centre in units of the image's sides."""
    when = torch.linspace(0, 1, frames)[:, None].expand(-1, height * width).reshape(-1)
    rows, columns = ((torch.arange(count) + 0.5) / count for count in (height, width))
    return when, torch.cartesian_prod(rows, columns).repeat(frames, 1)
