"""Configurations and tokenizers that visalign brings along for single files of published families, without weights.

A layout becomes a folder as diffusers has it, written once into the user's cache. The configurations are facts of the
published models; CLIP's vocabulary is the one that open_clip is installed with.
"""

import gzip
import hashlib
import json
import shutil
import uuid
from collections.abc import Mapping
from pathlib import Path

from visalign.errors import UserError
from visalign.generators.files.embedded import MODEL_ASSETS
from visalign.generators.files.single_file import SingleFile
from visalign.storage.weights import read_json

LAYOUTS = MODEL_ASSETS / "layouts"
LAYOUT_CACHE = Path("~/.cache/visalign/layouts")
_START, _END = "<|startoftext|>", "<|endoftext|>"
_MERGES = 49152 - 256 - 2
"""Of CLIP's vocabulary: all that is neither a byte, alone or at a word's end, nor one of two marks."""
_ATTENDED = ("attn2.to_k.weight", "transformer_blocks.0.attn2.to_k.weight")
_WIDTHS = {"StableDiffusionPipeline": {768: "sd15", 1024: "sd21"}, "StableDiffusionXLPipeline": {2048: "sdxl"}}
"""Of the text that a U-Net attends to."""


def layout_name(file: SingleFile, prediction: str) -> str:
    """The name of the layout that a single file's denoiser belongs to, by the shapes in its header.

    prediction: as `model.prediction` has it. Raises UserError for a family without a layout.
    """
    pipeline, shapes = file.pipelines()[0], file.denoiser
    if pipeline in _WIDTHS:
        width = next((shape[1] for name, shape in sorted(shapes.items()) if name.endswith(_ATTENDED)), 0)
        name = _WIDTHS[pipeline].get(width)
        if name == "sd21":
            return _of_sd2(file, prediction)
    elif pipeline == "StableDiffusion3Pipeline":
        positions = shapes.get("pos_embed", shapes.get("pos_embed.pos_embed", (0, 0)))[1]
        large = any(each.startswith(("joint_blocks.37.", "transformer_blocks.37.")) for each in shapes)
        name = {147456: "sd35_medium", 36864: "sd35_large" if large else "sd3_medium"}.get(positions)
    else:
        guided = any(each.startswith(("guidance_in.", "time_text_embed.guidance_embedder.")) for each in shapes)
        name = {"FluxPipeline": "flux_dev" if guided else "flux_schnell"}.get(pipeline)
    if name is None:
        raise UserError(f"model {file.path}: holds a {pipeline}'s denoiser of a size for which visalign has no "
                        "configuration; name model.base, a diffusers folder or hub id of the same family")
    return name


def _of_sd2(file: SingleFile, prediction: str) -> str:
    said = file.noise_settings().get("prediction_type") if prediction == "auto" else prediction
    if said is None:
        raise UserError(f"model {file.path}: a Stable Diffusion 2 file does not say how it predicts; set "
                        "model.prediction: v_prediction (2.1, of 768 pixels) or epsilon (2.1 base, of 512 pixels)")
    return "sd21" if said == "v_prediction" else "sd21_base"


def layout_folder(name: str) -> Path:
    """The layout as a diffusers folder without weights. Raises UserError when the cache cannot be written."""
    content = (LAYOUTS / f"{name}.json").read_bytes()
    version = hashlib.sha256(content + Path(__file__).read_bytes()).hexdigest()[:12]
    folder = LAYOUT_CACHE.expanduser() / f"{name}-{version}"
    if folder.is_dir():
        return folder
    temporary = folder.with_name(f".tmp-{uuid.uuid4().hex[:8]}-{folder.name}")
    try:
        _write(temporary, read_json(LAYOUTS / f"{name}.json", f"layout {name}"))
        temporary.rename(folder)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        if not folder.is_dir():  # else another process was quicker
            raise UserError(f"{LAYOUT_CACHE}: configurations and tokenizers of single files cannot be written there "
                            f"({error.strerror})") from None
    return folder


def _write(folder: Path, parts: Mapping[str, dict]) -> None:
    for name, config in parts.items():
        if name == "model_index":
            _dump(folder / "model_index.json", config)
        elif name.startswith("tokenizer"):
            write_clip_tokenizer(folder / name, config["pad_token"])
        else:
            _dump(folder / name / ("scheduler_config.json" if name == "scheduler" else "config.json"), config)


def write_clip_tokenizer(folder: Path, pad_token: str) -> None:
    """CLIP's tokenizer of 77 tokens in the format of transformers; its families differ in the token that they pad with.

    Raises OSError.
    """
    from open_clip.tokenizer import bytes_to_unicode, default_bpe

    with gzip.open(default_bpe(), "rt", encoding="utf-8") as file:
        merges = file.read().split("\n")[1:_MERGES + 1]
    letters = list(bytes_to_unicode().values())
    words = [*letters, *(f"{letter}</w>" for letter in letters), *("".join(merge.split()) for merge in merges),
             _START, _END]
    _dump(folder / "vocab.json", {word: number for number, word in enumerate(words)})
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]), encoding="utf-8")
    _dump(folder / "tokenizer_config.json", {
        "tokenizer_class": "CLIPTokenizer", "model_max_length": 77, "bos_token": _START, "eos_token": _END,
        "unk_token": _END, "pad_token": pad_token})


def _dump(path: Path, content: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
