"""Writing what was learned in formats that plain diffusers and common user interfaces read.

LoRA: `pytorch_lora_weights.safetensors` for `pipeline.load_lora_weights(folder)`, or what lora_export.py has for
pipelines without that. Beside it, under the names of user interfaces and with `.alpha`: `lora_kohya.safetensors` for
U-Nets, `lora_comfyui.safetensors` for transformers whose names are known.
Full fine-tuning: a folder for `from_pretrained`, its CLIP encoders under the published names; and `model.safetensors`
where user interfaces take a whole model as one file (ldm_export.py).
"""

import json
from pathlib import Path

import torch
from torch import Tensor

from visalign.config import OfflineConfig
from visalign.generators.base import Generator
from visalign.generators.ldm_export import one_file_holds, write_single_file
from visalign.generators.lora_export import lora_weights, write_lora
from visalign.generators.model_card import model_card
from visalign.storage.run_folder import write_atomically
from visalign.storage.weights import read_json, read_tensors, share_storage, write_tensors


def export(generator: Generator, folder: Path, config: OfflineConfig, figures: dict[str, str]) -> list[str]:
    """Write weights and a model card; returns the names of the files or folders written."""
    folder.mkdir(parents=True, exist_ok=True)
    written = _export_lora(generator, folder) if generator.tuning == "lora" else _export_full(
        generator, folder, config)
    write_atomically(folder / "README.md", model_card(config, generator, figures).encode())
    return [*written, "README.md"]


def _export_lora(generator: Generator, folder: Path) -> list[str]:
    written = []
    for part, network in generator.networks().items():
        place = folder if part == generator.denoiser_name else folder / part
        written.append(write_lora(generator, network, place))
        weights, alpha, _ = lora_weights(network)
        for file, tensors in for_interfaces(generator, weights, alpha).items():
            write_tensors(place / file, tensors, {"format": "pt"})
            written.append(place / file)
    return [str(file.relative_to(folder)) for file in written]


def for_interfaces(generator: Generator, weights: dict[str, Tensor], alpha: float) -> dict[str, dict[str, Tensor]]:
    """The tensors of each file for user interfaces, by file name; none where a layer has no name there."""
    if generator.has_kohya_names:
        from diffusers.utils import convert_state_dict_to_kohya

        kohya = convert_state_dict_to_kohya({f"{generator.denoiser_name}.{k}": v for k, v in weights.items()})
        return {"lora_kohya.safetensors": {k: torch.tensor(alpha) if k.endswith(".alpha") else v
                                           for k, v in kohya.items()}}
    found = {}
    for key, value in weights.items():
        module, _, side = key.rpartition(".lora_")
        name = generator.interface_name(module)
        if name is None:
            return {}
        found |= {f"{name}.lora_{side}": value, f"{name}.alpha": torch.tensor(alpha)}
    return {"lora_comfyui.safetensors": found}


def _export_full(generator: Generator, folder: Path, config: OfflineConfig) -> list[str]:
    place = folder / "pipeline"
    generator.pipeline.save_pretrained(place)
    for name, module in generator.pipeline.components.items():
        prefix = PUBLISHED_PREFIX.get(type(module).__name__)
        if prefix:
            _put_prefix(place / name, prefix)
    share_storage(place)
    precision = config.output.single_file
    if precision == "none" or not one_file_holds(generator.pipeline):
        return ["pipeline"]
    write_single_file(generator.pipeline, folder / SINGLE_FILE, precision, Path(config.output.folder).name)
    return ["pipeline", SINGLE_FILE]


SINGLE_FILE = "model.safetensors"


PUBLISHED_PREFIX = {"CLIPTextModel": "text_model.", "CLIPVisionModel": "vision_model."}
"""The prefix that transformers since 5.6 omits from these networks' weight names, and all other programs expect."""


def _put_prefix(folder: Path, prefix: str) -> None:
    """Rename the weights of one network as published; transformers reads both."""
    def published(name: str) -> str:
        return name if name.startswith(prefix) else prefix + name

    for file in folder.glob("*.safetensors"):
        tensors = read_tensors(file, f"export {file}")
        write_tensors(file, {published(name): tensor for name, tensor in tensors.items()}, {"format": "pt"})
    for file in folder.glob("*.safetensors.index.json"):
        index = read_json(file, f"export {file}")
        index["weight_map"] = {published(name): shard for name, shard in index["weight_map"].items()}
        write_atomically(file, (json.dumps(index, indent=2) + "\n").encode())
