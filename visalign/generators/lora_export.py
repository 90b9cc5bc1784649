"""A trained LoRA in the format that diffusers loads for this pipeline, and the lines that load it.

Most pipelines load a LoRA themselves; of the others the network does, or peft where diffusers has no way at all.
alpha / rank is in the weights, so that readers without alpha apply them at the same strength.
"""

import json
from pathlib import Path

from torch import Tensor, nn

from visalign.generators.base import Generator
from visalign.generators.lora_files import ADAPTER_METADATA, ADAPTER_SETTINGS, LORA_FILES
from visalign.storage.run_folder import write_atomically
from visalign.storage.weights import share_storage, write_tensors


def lora_weights(network: nn.Module) -> tuple[dict[str, Tensor], float, int]:
    """The adapter's matrices by name, its alpha and its rank."""
    from peft.utils import get_peft_model_state_dict

    adapter = network.peft_config["default"]
    return ({name: value.detach().cpu().contiguous() for name, value in get_peft_model_state_dict(network).items()},
            float(adapter.lora_alpha), adapter.r)


def write_lora(generator: Generator, network: nn.Module, folder: Path) -> Path:
    """Write a network's adapter to `folder`; returns the file."""
    weights, alpha, rank = lora_weights(network)
    weights = {name: value * (alpha / rank) if ".lora_B." in name else value for name, value in weights.items()}
    settings = _plain(network.peft_config["default"].to_dict() | {"lora_alpha": rank})
    pipeline, name = type(generator.pipeline), generator.denoiser_name
    folder.mkdir(parents=True, exist_ok=True)
    if hasattr(pipeline, "save_lora_weights"):
        pipeline.save_lora_weights(folder, **{f"{name}_lora_layers": weights,
                                              f"{name}_lora_adapter_metadata": settings})
    elif hasattr(network, "load_lora_adapter"):
        write_tensors(folder / LORA_FILES[0], weights, {"format": "pt", ADAPTER_METADATA: json.dumps(settings)})
    else:
        write_tensors(folder / LORA_FILES[1], {f"base_model.model.{key}": value for key, value in weights.items()},
                      {"format": "pt"})
        write_atomically(folder / ADAPTER_SETTINGS, (json.dumps(settings, indent=2) + "\n").encode())
    share_storage(folder)
    return next(folder / file for file in LORA_FILES if (folder / file).is_file())


def _plain(settings: dict) -> dict:
    """Settings of peft as JSON has them."""
    return json.loads(json.dumps(settings, default=lambda value: sorted(value) if isinstance(value, set) else
                                 str(value)))


def loading_lines(generator: Generator) -> str:
    """Python that loads the LoRA from "path/to/this/folder" into `pipeline`."""
    pipeline, network, name = type(generator.pipeline), generator.denoiser, generator.denoiser_name
    if hasattr(pipeline, "load_lora_weights"):
        return 'pipeline.load_lora_weights("path/to/this/folder")' + "".join(
            f'\npipeline.load_lora_weights("path/to/this/folder/{part}", load_into_{part}=True)'
            for part in generator.networks() if part != name)
    if hasattr(network, "load_lora_adapter"):
        return (f'pipeline.{name}.load_lora_adapter("path/to/this/folder", prefix=None, '
                f'weight_name="{LORA_FILES[0]}")')
    return ("from peft import PeftModel\n\n"
            f'pipeline.{name} = PeftModel.from_pretrained(pipeline.{name}, "path/to/this/folder")')
