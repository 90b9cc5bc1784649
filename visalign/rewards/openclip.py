"""open_clip models by folder, hub id, or architecture and tag; never from a pickle that could run code."""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from visalign.errors import UserError, nearest
from visalign.media.samples import middle
from visalign.storage.open_clip_models import EMBEDDED_CLIPS, model_name
from visalign.storage.pretrained import check_tokenizer
from visalign.storage.weights import check_loaded, read_json


def check_clip_source(source: str | Path, who: str) -> None:
    """Raise UserError when `source` cannot be an open_clip model; a hub id is checked only on loading."""
    text = str(EMBEDDED_CLIPS.get(str(source), source))
    folder = Path(text).expanduser()
    if folder.is_dir():
        if not (folder / "open_clip_config.json").is_file():
            raise UserError(f"reward {who}: {source} is not an open_clip folder, it has no open_clip_config.json")
        if not list(folder.glob("*.safetensors")):
            raise UserError(f"reward {who}: {source} holds no .safetensors weights (pickled weights are refused)")
        check_own_tokenizer(folder, f"reward {who}")
        return
    if text.count("/") != 1 or text.startswith((".", "/", "~")):
        raise UserError(f"reward {who}: {source} is neither a folder, nor ARCHITECTURE/TAG as in ViT-L-14/openai, nor "
                        f"a hub id, nor an embedded model{nearest(text, EMBEDDED_CLIPS)}")
    import open_clip

    architecture, _, tag = text.partition("/")
    if architecture in open_clip.list_models():
        tags = open_clip.list_pretrained_tags_by_model(architecture)
        if tag not in tags and not Path(tag).is_file():
            raise UserError(f"reward {who}: open_clip has no weights '{tag}' for {architecture}{nearest(tag, tags)}")


def check_own_tokenizer(folder: Path, where: str) -> None:
    """Raise UserError starting with `where` when an open_clip folder's settings name a tokenizer that is missing."""
    file = folder / "open_clip_config.json"
    text = read_json(file, f"{where}: {file}").get("model_cfg", {}).get("text_cfg", {})
    if text.get("hf_tokenizer_name"):
        check_tokenizer(folder, where)
    elif text.get("vocab_size", BUILT_IN_WORDS) != BUILT_IN_WORDS:
        raise UserError(f"{where}: {file} has {text['vocab_size']} words and names no hf_tokenizer_name; open_clip's "
                        f"own tokenizer has {BUILT_IN_WORDS}")


BUILT_IN_WORDS = 49408
"""Vocabulary size of open_clip's own tokenizer, which is used where a model names none."""


def load_open_clip(source: str | Path, who: str):
    """(model in evaluation mode, preprocess, tokenizer). Raises UserError when it cannot be loaded."""
    import open_clip

    check_clip_source(source, who)
    name, tag = model_name(source)
    try:
        model, _, preprocess = open_clip.create_model_and_transforms(name, pretrained=tag, weights_only=True)
        tokenizer = open_clip.get_tokenizer(name)
    except Exception as error:  # hub, file and shape errors of many kinds; to the user all mean the same
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"reward {who}: open_clip could not load {source} ({reason})") from error
    check_loaded(model, f"reward {who}: {source}")
    return model.eval().requires_grad_(False), preprocess, tokenizer


def to_batch(preprocess, images: list[Image.Image]) -> Tensor:
    """float32 [n, 3, H, W]: each image through `preprocess`.

    Images that already have the model's size skip its resizing and are normalised together, to the same numbers.
    """
    size, mean, std = _resize_and_norm(preprocess)
    if size is None or any(image.size != (size[1], size[0]) or image.mode != "RGB" for image in images):
        return torch.stack([preprocess(middle(image)) for image in images])
    pixels = torch.from_numpy(np.stack([np.asarray(image) for image in images])).permute(0, 3, 1, 2)
    return pixels.float().div(255).sub_(mean).div_(std).contiguous()


def letterboxed(preprocess, images: list[Image.Image], who: str) -> Tensor:
    """float32 [n, 3, S, S]: whole images, the longer side resized to the model's S, centred on black, normalised.

    As in HPS v2's own code: bicubic on pixels in [0, 1] that are not rounded or clamped (its ResizeMaxSize; where one
    side already fits, that code pads nothing, and its model then fails on images that are not square).
    Raises UserError when the model's own transform has an unknown form.
    """
    from torchvision.transforms.functional import InterpolationMode, pad, resize, to_tensor

    size, mean, std = _resize_and_norm(preprocess)
    if size is None:
        raise UserError(f"reward {who}: its preprocessing is not resize, crop and normalise")
    rows = []
    for image in images:
        pixels, side = to_tensor(image.convert("RGB")), max(size)
        scale = side / max(pixels.shape[1:])
        height, width = (max(1, round(length * scale)) for length in pixels.shape[1:])
        if scale != 1:
            pixels = resize(pixels, [height, width], InterpolationMode.BICUBIC)
        left, top = (side - width) // 2, (side - height) // 2
        rows.append(pad(pixels, [left, top, side - width - left, side - height - top]))
    return (torch.stack(rows) - mean) / std


def letterboxed_pixels(preprocess, pixels: Tensor, who: str) -> Tensor:
    """As `letterboxed`, of pixels [B, 3, H, W] in [0, 1] and with gradients."""
    size, mean, std = _resize_and_norm(preprocess)
    if size is None:
        raise UserError(f"reward {who}: its preprocessing is not resize, crop and normalise, so it has no gradient")
    side, sides = max(size), pixels.shape[-2:]
    height, width = (max(1, round(length * side / max(sides))) for length in sides)
    if (height, width) != tuple(sides):
        pixels = F.interpolate(pixels, (height, width), mode="bicubic", antialias=True, align_corners=False)
    left, top = (side - width) // 2, (side - height) // 2
    pixels = F.pad(pixels, (left, side - width - left, top, side - height - top))
    return (pixels - mean.to(pixels)) / std.to(pixels)


def pixels_to_batch(preprocess, pixels: Tensor, who: str) -> Tensor:
    """As `to_batch`, of pixels [B, 3, H, W] in [0, 1] and with gradients; resizing is bicubic and antialiased.

    Raises UserError when the model's own transform has an unknown form.
    """
    size, mean, std = _resize_and_norm(preprocess)
    if size is None:
        raise UserError(f"reward {who}: its preprocessing is not resize, crop and normalise, so it has no gradient")
    if pixels.shape[-2:] != size:
        pixels = F.interpolate(pixels, size, mode="bicubic", antialias=True, align_corners=False).clamp(0, 1)
    return (pixels - mean.to(pixels)) / std.to(pixels)


def _resize_and_norm(preprocess) -> tuple[tuple[int, int] | None, Tensor | None, Tensor | None]:
    """Target (height, width), mean and std of open_clip's evaluation transform, Nones where it has another form."""
    steps = {type(step).__name__: step for step in getattr(preprocess, "transforms", ())}
    if not {"Resize", "Normalize"} <= steps.keys() <= {"Resize", "CenterCrop", "MaybeConvertMode", "MaybeToTensor",
                                                      "Normalize"}:
        return None, None, None
    size = steps["CenterCrop"].size if "CenterCrop" in steps else steps["Resize"].size
    size = (size, size) if isinstance(size, int) else tuple(size)
    mean, std = (torch.tensor(getattr(steps["Normalize"], name)).view(3, 1, 1) for name in ("mean", "std"))
    return (size if len(size) == 2 else None), mean, std


def cut_prompts(tokenizer, prompts: list[str]) -> dict[int, str]:
    """A note for each prompt that is longer than the tokenizer's context."""
    length = tokenizer.context_length
    longer = tokenizer(prompts, context_length=4 * length)
    empty = tokenizer([""], context_length=4 * length)[0]
    # by the last used position, since some tokenizers pad with a token that also occurs in text
    counts = ((longer != empty[-1]) * torch.arange(1, longer.shape[1] + 1)).amax(1).tolist()
    return {i: f"prompt cut to the model's {length} tokens" for i, n in enumerate(counts) if n > length}
