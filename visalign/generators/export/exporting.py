"""Writing what was learned in formats that plain diffusers and common user interfaces read.

LoRA: `pytorch_lora_weights.safetensors` for `pipeline.load_lora_weights(folder)`, or what lora_export.py has for
pipelines without that. Beside it, under the names of user interfaces and with `.alpha`: `lora_kohya.safetensors` for
U-Nets, `lora_comfyui.safetensors` for transformers whose names are known. LoHa and LoKr: `lora_lycoris.safetensors`.
Users: `user_adapter.safetensors` and what it is for, `user_adapter.json`, which visalign alone reads.
Full fine-tuning: a folder for `from_pretrained`, its CLIP encoders under the published names, beside what its base was
made for (made_for.py); and `model.safetensors` where user interfaces take a whole model as one file (ldm.py).
"""

import json
from pathlib import Path

from visalign.config import OfflineConfig, OnlineConfig
from visalign.config.goals import GOALS_FILE
from visalign.generators.base import Generator
from visalign.generators.export.ldm import one_file_holds, write_single_file
from visalign.generators.export.model_card import model_card
from visalign.generators.files.locating import locate_model
from visalign.generators.files.made_for import pass_on
from visalign.generators.lora.export import PUBLISHED_PREFIX, write_loras
from visalign.generators.users import UserAdapter, write_user_adapter
from visalign.storage.run_folder import write_atomically
from visalign.storage.weights import read_json, read_tensors, share_storage, write_tensors


def export(generator: Generator, folder: Path, config: OfflineConfig, figures: dict[str, str]) -> list[str]:
    """Write weights and a model card; returns the names of the files or folders written."""
    folder.mkdir(parents=True, exist_ok=True)
    written = _EXPORTS[generator.tuning](generator, folder, config)
    if config.goals:
        write_atomically(folder / GOALS_FILE, (config.goals.model_dump_json(indent=1) + "\n").encode())
        written.append(GOALS_FILE)
    write_atomically(folder / "README.md", model_card(config, generator, figures).encode())
    return [*written, "README.md"]


def _export_lora(generator: Generator, folder: Path, config: OfflineConfig) -> list[str]:
    return [str(file.relative_to(folder)) for file in write_loras(generator, folder)]


def _export_users(generator: Generator, folder: Path, config: OfflineConfig) -> list[str]:
    about = UserAdapter(config.model.user_features, config.data.users.context, generator.user_term.width)
    return [file.name for file in write_user_adapter(generator.user_term, folder, about)]


def export_pipeline(generator: Generator, folder: Path, config: OfflineConfig | OnlineConfig) -> list[str]:
    """Write a model of which all weights were trained; returns the names of what was written."""
    place = folder / "pipeline"
    generator.pipeline.save_pretrained(place)
    for name, module in generator.pipeline.components.items():
        prefix = PUBLISHED_PREFIX.get(type(module).__name__)
        if prefix:
            _put_prefix(place / name, prefix)
    share_storage(place)
    pass_on(locate_model(config.model).folder, place)
    precision = config.output.single_file
    if precision == "none" or not one_file_holds(generator.pipeline):
        return ["pipeline"]
    write_single_file(generator.pipeline, folder / SINGLE_FILE, precision, Path(config.output.folder).name)
    return ["pipeline", SINGLE_FILE]


SINGLE_FILE = "model.safetensors"
_EXPORTS = {"lora": _export_lora, "user": _export_users, "full": export_pipeline}


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
