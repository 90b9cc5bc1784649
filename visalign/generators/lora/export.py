"""A trained adapter, with all that lies below it, in the files that other programs load, and the lines that load it.

Every file reproduces the trained model from the base alone, and alpha / rank is in the weights, so that readers with
and without alpha apply the same. LoRA and DoRA are written as diffusers loads them for this pipeline: by the pipeline,
the network, or peft where diffusers has no way at all. LoHa and LoKr, which it does not know, have LyCORIS' names.
"""

import json
from pathlib import Path

import torch
from torch import Tensor, nn

from visalign.generators.base import Generator
from visalign.generators.lora.adapters import HELD, TRAINED
from visalign.generators.lora.files import ADAPTER_METADATA, ADAPTER_SETTINGS, LORA_FILES, LYCORIS_FILE
from visalign.generators.lora.layers import LYCORIS, Layers, LoraMatrices, joined, of_one_rank, taken
from visalign.storage.run_folder import write_atomically
from visalign.storage.weights import share_storage, write_tensors

PUBLISHED_PREFIX = {"CLIPTextModel": "text_model.", "CLIPVisionModel": "vision_model."}
"""The prefix that transformers since 5.6 omits from these networks' weight names, and all other programs expect."""


def learned(network: nn.Module) -> Layers:
    """What a network's adapters do, those below and the trained one together, with alpha equal to the rank."""
    return joined(taken(network, HELD), taken(network, TRAINED))


def write_loras(generator: Generator, folder: Path) -> list[Path]:
    """Write the adapters of all networks, a second network's to a folder of its own; returns the files."""
    parts = generator.networks() | generator.text_encoders()
    return write_layers(generator, folder, {part: learned(network) for part, network in parts.items()})


def write_layers(generator: Generator, folder: Path, found: dict[str, Layers]) -> list[Path]:
    """Write adapters by network, for a generator that need not have them on, and may be on the meta device."""
    texts = {name: {_published(encoder, module): each for module, each in layers.items()}
             for name, encoder in generator.text_encoders().items() if (layers := found.get(name))}
    written = []
    for part, network in generator.networks().items():
        layers = found.get(part)
        if layers:
            main = part == generator.denoiser_name
            place = folder if main else folder / part
            place.mkdir(parents=True, exist_ok=True)
            written += _write(generator, network, place, layers, texts if main else {})
    return written


def _published(encoder: nn.Module, module: str) -> str:
    prefix = PUBLISHED_PREFIX.get(type(encoder).__name__, "")
    return module if module.startswith(prefix) else prefix + module


def _write(generator: Generator, network: nn.Module, folder: Path, layers: Layers,
           texts: dict[str, Layers]) -> list[Path]:
    kind = next(iter(layers.values())).kind
    stems = _stems(generator, layers, texts)
    if kind in LYCORIS:
        write_tensors(folder / LYCORIS_FILE, _lined(stems, {}), {"format": "pt"})
        return [folder / LYCORIS_FILE]
    written = [_write_lora(generator, network, folder, layers, texts)]
    if kind == "lora" and all(_has_name(generator, module) for module in layers):
        file = folder / ("lora_kohya.safetensors" if generator.has_kohya_names else "lora_comfyui.safetensors")
        ends = {"lora_A": "lora_down", "lora_B": "lora_up"} if generator.has_kohya_names else {}
        write_tensors(file, _lined(stems, ends), {"format": "pt"})
        written.append(file)
    return written


def _has_name(generator: Generator, module: str) -> bool:
    return generator.has_kohya_names or generator.interface_name(module) is not None


def _stems(generator: Generator, layers: Layers, texts: dict[str, Layers]) -> Layers:
    """Layers by their names in user interfaces; LyCORIS' where these have none."""
    def lined(prefix: str, module: str) -> str:
        return f"{prefix}_{module.replace('.', '_')}"

    found = {}
    for module, each in layers.items():
        own = lined("lora_unet", module) if generator.has_kohya_names else generator.interface_name(module)
        found[own or lined("lycoris", module)] = each
    only = len(generator.text_encoders()) == 1
    for name, encoder in texts.items():
        number = "" if only else "2" if name.endswith("_2") else "1"
        found |= {lined(f"lora_te{number}", module): each for module, each in encoder.items()}
    return found


def _lined(stems: Layers, ends: dict[str, str]) -> dict[str, Tensor]:
    """Tensors and alpha, which is the rank, by stem and by what the format calls a layer's sides."""
    found = {}
    for stem, each in stems.items():
        dot = ".weight" if isinstance(each, LoraMatrices) else ""
        found |= {f"{stem}.{ends.get(side, side)}{dot}": tensor for side, tensor in each.folded().tensors.items()}
        found[f"{stem}.alpha"] = torch.tensor(float(each.rank))
    return found


def _write_lora(generator: Generator, network: nn.Module, folder: Path, layers: Layers,
                texts: dict[str, Layers]) -> Path:
    """The file of the pipeline, or of the network or peft where the pipeline has none."""
    pipeline, name = type(generator.pipeline), generator.denoiser_name
    weights, settings = _of_peft(layers)
    if hasattr(pipeline, "save_lora_weights"):
        given = {f"{text}_lora_layers": _of_peft(found)[0] for text, found in texts.items()}
        pipeline.save_lora_weights(folder, **given, **{f"{name}_lora_layers": weights,
                                                       f"{name}_lora_adapter_metadata": settings})
    elif hasattr(network, "load_lora_adapter"):
        write_tensors(folder / LORA_FILES[0], weights, {"format": "pt", ADAPTER_METADATA: json.dumps(settings)})
    else:
        write_tensors(folder / LORA_FILES[1], {f"base_model.model.{key}": value for key, value in weights.items()},
                      {"format": "pt"})
        write_atomically(folder / ADAPTER_SETTINGS, (json.dumps(settings, indent=2) + "\n").encode())
    share_storage(folder)
    return next(folder / file for file in LORA_FILES if (folder / file).is_file())


def _of_peft(layers: Layers) -> tuple[dict[str, Tensor], dict]:
    """Weights under peft's names and the settings that go with them, as JSON has them."""
    from peft import LoraConfig

    even = of_one_rank(layers)
    first = next(iter(even.values()))
    settings = LoraConfig(r=first.rank, lora_alpha=first.rank, target_modules=sorted(even),
                          use_dora=first.kind == "dora").to_dict()
    weights = {f"{module}.{side}" + ("" if side == "lora_magnitude_vector" else ".weight"): tensor.contiguous()
               for module, each in even.items() for side, tensor in each.tensors.items()}
    return weights, json.loads(json.dumps(settings, default=lambda value: sorted(value) if isinstance(value, set) else
                                          str(value)))


def loading_lines(generator: Generator) -> str:
    """Python that loads the LoRA from "path/to/this/folder" into `pipeline`."""
    pipeline, network, name = type(generator.pipeline), generator.denoiser, generator.denoiser_name
    if any(each.kind in LYCORIS for part in generator.networks().values() for each in taken(part, TRAINED).values()):
        return ("# diffusers reads no LoHa or LoKr; ComfyUI does, and so does\n"
                '#   visalign generate MODEL "a prompt" --lora path/to/this/folder -o samples')
    if hasattr(pipeline, "load_lora_weights"):
        return 'pipeline.load_lora_weights("path/to/this/folder")' + "".join(
            f'\npipeline.load_lora_weights("path/to/this/folder/{part}", load_into_{part}=True)'
            for part in generator.networks() if part != name)
    if hasattr(network, "load_lora_adapter"):
        return (f'pipeline.{name}.load_lora_adapter("path/to/this/folder", prefix=None, '
                f'weight_name="{LORA_FILES[0]}")')
    return ("from peft import PeftModel\n\n"
            f'pipeline.{name} = PeftModel.from_pretrained(pipeline.{name}, "path/to/this/folder")')
