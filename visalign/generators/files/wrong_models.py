"""What users give in place of a model, recognised by its files, with what to give instead."""

import json
from pathlib import Path

from visalign.errors import UserError
from visalign.generators.lora.files import LORA_FILES
from visalign.storage.weights import PICKLES, some

OTHERS = {".onnx": "ONNX files are not supported",
          ".engine": "TensorRT engines are not supported", ".zip": "an archive is not read; unpack it"}


def refuse_wrong_file(path: Path) -> None:
    """Raise UserError for a file that is neither .safetensors nor .gguf."""
    ending = path.suffix.lower()
    if ending in PICKLES:
        raise UserError(f"model {path}: pickled weights can run code when read and are refused; convert them to "
                        ".safetensors first")
    if ending in OTHERS or (path.is_file() and not is_weights(path)):
        what = OTHERS.get(ending, "this kind of file is not supported")
        raise UserError(f"model {path}: {what}; give a diffusers folder, a hub id or a .safetensors file")


def is_weights(path: Path) -> bool:
    """Whether a name is that of a file of weights, or of the index of several."""
    return path.suffix.lower() in (".safetensors", ".gguf") or path.name.endswith(".safetensors.index.json")


def refuse_wrong_folder(folder: Path) -> None:
    """Raise UserError for a folder without model_index.json that says what it is and what to give."""
    if (folder / "model_index.json").is_file():
        return
    if any((folder / name).is_file() for name in (*LORA_FILES, "adapter_config.json")):
        raise UserError(f"model {folder}: is a LoRA, not a model; give the model it was made for, and the LoRA "
                        "beside it (generate --lora, compare MODEL+LORA)")
    if (folder / "config.yaml").is_file() and (folder / "export").is_dir():
        whole = folder / "export" / "pipeline"
        raise UserError(f"model {folder}: is a run, not a model; give " + (
            str(whole) if whole.is_dir() else "its model, and the run with --lora"))
    if (folder / "config.json").is_file():
        above = folder.parent / "model_index.json"
        raise UserError(f"model {folder}: is one part of a pipeline ({_kind_of(folder / 'config.json')}); give " + (
            f"the whole one, {folder.parent}" if above.is_file() else "the folder that has a model_index.json"))
    files = [str(file) for file in sorted(folder.glob("*.safetensors"))] if folder.is_dir() else []
    if files:
        raise UserError(f"model {folder}: not a diffusers pipeline, it has no model_index.json; give one of its files "
                        f"({some(files)})")


def _kind_of(config: Path) -> str:
    try:
        found = json.loads(config.read_text())
        return str(found.get("_class_name") or found["architectures"][0])
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return "its config.json does not say which"
