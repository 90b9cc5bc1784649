"""Published architectures at full size with random bf16 weights, as diffusers folders on disk.

Text encoders have the published widths and two layers: what they compute is encoded once and never trained.
"""

import importlib
import json
from pathlib import Path

import torch

from tests.published import published
from visalign.generators.files.parts import parts_of

SHALLOW = {"num_hidden_layers": 2, "num_layers": 2, "d_ff": 1024}


def build(name: str, tiny: Path, to: Path) -> Path:
    """The folder of a model whose weights are drawn as its class draws them."""
    folder = published(name, tiny, to)
    before = torch.get_default_dtype()
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    try:
        for part, (library, kind) in parts_of(json.loads((folder / "model_index.json").read_text())).items():
            if kind is not None and part.startswith(("unet", "transformer", "vae", "text_encoder")):
                made = _made(getattr(importlib.import_module(library), kind), folder / part)
                made.to(torch.bfloat16).save_pretrained(folder / part)  # tables of positions are made in fp32
    finally:
        torch.set_default_dtype(before)
    return folder


def _made(kind: type, folder: Path) -> torch.nn.Module:
    if hasattr(kind, "load_config"):
        return kind.from_config(kind.load_config(folder))
    config = kind.config_class.from_pretrained(folder)
    for name, value in SHALLOW.items():
        if hasattr(config, name):
            setattr(config, name, value)
    return kind(config)
