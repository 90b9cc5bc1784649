"""Writing what was learned in formats that plain diffusers and common user interfaces read.

LoRA: `pytorch_lora_weights.safetensors` for `pipeline.load_lora_weights(folder)`. For U-Net families also
`lora_kohya.safetensors` (kohya naming with alpha, read by AUTOMATIC1111, Forge and ComfyUI). For SD3 the first file
is itself a single-file LoRA with the `transformer.` prefix. Full fine-tuning: a folder for `from_pretrained`.
"""

import json
import platform
from importlib.metadata import version
from pathlib import Path

import torch
from safetensors.torch import save_file

from visalign.config import Config
from visalign.generators.base import Generator
from visalign.runs import write_atomically


def export(generator: Generator, folder: Path, config: Config, figures: dict[str, str]) -> list[str]:
    """Write weights and a model card; returns the names of the files or folders written."""
    folder.mkdir(parents=True, exist_ok=True)
    written = _export_lora(generator, folder, config) if generator.tuning == "lora" else _export_full(generator, folder)
    write_atomically(folder / "README.md", model_card(config, generator, figures).encode())
    return [*written, "README.md"]


def _export_lora(generator: Generator, folder: Path, config: Config) -> list[str]:
    from diffusers.utils import convert_state_dict_to_kohya
    from peft.utils import get_peft_model_state_dict

    name, written = generator.denoiser_name, []
    for part, network in generator.networks().items():
        weights = {k: v.detach().cpu().contiguous() for k, v in get_peft_model_state_dict(network).items()}
        adapter = network.peft_config["default"].to_dict()
        place = folder if part == name else folder / part
        type(generator.pipeline).save_lora_weights(
            place, **{f"{name}_lora_layers": weights, f"{name}_lora_adapter_metadata": adapter})
        written.append(str((place / "pytorch_lora_weights.safetensors").relative_to(folder)))
    if not generator.has_kohya_names:
        return written
    kohya = convert_state_dict_to_kohya({f"{name}.{k}": v for k, v in weights.items()})
    alpha = torch.tensor(float(config.model.lora.alpha))
    save_file({k: alpha.clone() if k.endswith(".alpha") else v.contiguous() for k, v in kohya.items()},
              folder / "lora_kohya.safetensors")
    return [*written, "lora_kohya.safetensors"]


def _export_full(generator: Generator, folder: Path) -> list[str]:
    generator.pipeline.save_pretrained(folder / "pipeline")
    return ["pipeline"]


def versions() -> dict[str, str]:
    """Versions that decide whether a run can be repeated."""
    packages = ("visalign", "torch", "diffusers", "transformers", "accelerate", "peft", "open_clip_torch")
    return {"python": platform.python_version()} | {name: version(name) for name in packages}


def model_card(config: Config, generator: Generator, figures: dict[str, str]) -> str:
    """Markdown: what this is, how to load it, settings, figures, versions."""
    pipeline = type(generator.pipeline).__name__
    if generator.tuning == "lora":
        load = (f'pipeline = {pipeline}.from_pretrained("{config.model.source}")\n'
                'pipeline.load_lora_weights("path/to/this/folder")')
        load += "".join(f'\npipeline.load_lora_weights("path/to/this/folder/{part}", load_into_{part}=True)'
                        for part in generator.networks() if part != generator.denoiser_name)
    else:
        load = f'pipeline = {pipeline}.from_pretrained("path/to/this/folder/pipeline")'
    rows = "\n".join(f"| {name} | {value} |" for name, value in figures.items())
    return f"""---
base_model: {config.model.source}
tags: [diffusers, preference-alignment, {config.objective['name']}]
---
# {config.model.source} aligned with {config.objective['name']}

```python
from diffusers import {pipeline}

{load}
```

Data: {config.taught_by()}.

| measured on held-out prompts | |
|---|---|
{rows}

## Settings
```json
{json.dumps(config.model_dump(mode='json'), indent=2)}
```

## Versions
{', '.join(f'{name} {number}' for name, number in versions().items())}
"""
