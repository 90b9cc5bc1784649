"""Finding and reading LoRA files of common programs; lora_matching.py says which layers of a model they are for."""

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from visalign.errors import UserError
from visalign.generators.users import find_user_adapter
from visalign.storage.weights import PICKLES, read_json, read_metadata, read_tensors, some

LYCORIS_FILE = "lora_lycoris.safetensors"
LORA_FILES = ("pytorch_lora_weights.safetensors", "adapter_model.safetensors", LYCORIS_FILE)
ADAPTER_SETTINGS = "adapter_config.json"
ADAPTER_METADATA = "lora_adapter_metadata"  # where diffusers stores peft's settings

_OTHERS = {r"\.b?oft_": "OFT", r"\.ia3_": "IA3", r"\.lora_mid|\.hada_t\d|\.lokr_t\d": "a middle (Tucker) matrix",
           r"\.lora_embedding_": "an embedding",
           r"\.modules_to_save": "retrained modules", r"\.diff(_b)?$": "whole differences", r"\.bias$": "biases",
           r"\.[wb]_norm$": "retrained norms", r"^(emb_params|bundle_emb)": "a textual inversion"}
"""Parts of names, as regular expressions, that identify other kinds of adapters."""
_CHANGED_BASES = ("pissa", "olora", "corda", "loftq", "lora_ga")


@dataclass(frozen=True)
class LoraFile:
    """Tensors by name, and peft's settings of each network (under "" those of a file that has one)."""

    path: Path
    tensors: dict[str, Tensor]
    settings: dict[str, dict]

    def where(self) -> str:
        return f"lora {self.path}"


def find_lora(path: Path) -> Path:
    """The file of a LoRA, given as the file, its folder, or the run that exported it.

    Raises UserError saying which file or folder to give.
    """
    if find_user_adapter(path):
        raise UserError(f"lora {path}: is of users (model.tuning user), and no LoRA; `visalign generate --lora` takes "
                        "it, with --user")
    if not path.is_dir():
        if not path.is_file():
            raise UserError(f"lora {path}: there is no such file or folder")
        if path.suffix.lower() != ".safetensors":
            pickled = " (pickled weights can run code when read and are refused)" if path.suffix in PICKLES else ""
            raise UserError(f"lora {path}: only .safetensors files are read{pickled}")
        return path
    for name in LORA_FILES:
        if (path / name).is_file():
            return path / name
    if (path / "model_index.json").is_file():
        raise UserError(f"lora {path}: is a whole model; give it as the model")
    if (path / "state.json").is_file():
        raise UserError(f"lora {path}: is a checkpoint of a run, which `evaluate` and the demo read; here give the "
                        "run's export folder")
    if (path / "config.yaml").is_file():
        return _of_run(path)
    return _only_one(path)


def _of_run(run: Path) -> Path:
    export = run / "export"
    if (export / "pipeline").is_dir():
        raise UserError(f"lora {run}: the run trained all weights; give {export / 'pipeline'} as the model")
    found = next((export / name for name in LORA_FILES if (export / name).is_file()), None)
    if found is None:
        raise UserError(f"lora {run}: the run has no {export / LORA_FILES[0]}; it has not finished")
    return found


def _only_one(folder: Path) -> Path:
    files = sorted(folder.glob("*.safetensors"))
    if len(files) == 1:
        return files[0]
    if files:
        raise UserError(f"lora {folder}: holds several files ({some(file.name for file in files)}); give one of them")
    inner = sorted({file.parent for name in LORA_FILES for file in folder.glob(f"*/{name}")})
    if inner:
        raise UserError(f"lora {folder}: holds no weights itself; give {some(map(str, inner))}")
    pickled = any(file.suffix in PICKLES for file in folder.iterdir())
    raise UserError(f"lora {folder}: holds no .safetensors file" + (
        " (pickled weights are refused; convert them first)" if pickled else ""))


def read_lora(path: Path) -> LoraFile:
    """Read what `find_lora` finds.

    Raises UserError for what is broken, empty, not finite, or another kind of adapter.
    """
    file = find_lora(path)
    where = f"lora {file}"
    tensors = read_tensors(file, where)
    if not tensors:
        raise UserError(f"{where}: holds no tensor")
    kinds = {kind: name for name in tensors for part, kind in _OTHERS.items() if re.search(part, name)}
    if kinds:
        kind, name = next(iter(kinds.items()))
        raise UserError(f"{where}: holds {kind} ({name}), which is not supported; LoRA, DoRA, LoHa and LoKr are")
    return LoraFile(file, tensors, _settings_of(file, where))


def _settings_of(file: Path, where: str) -> dict[str, dict]:
    beside = file.parent / ADAPTER_SETTINGS
    if file.name == LORA_FILES[1]:
        settings = read_json(beside, f"lora {beside}")
        _check_settings(settings, f"lora {beside}")
        return {"": settings}
    try:
        flat = json.loads(read_metadata(file, where).get(ADAPTER_METADATA, "{}"))
        found: dict[str, dict] = {}
        for key, value in flat.items():
            network, _, name = key.rpartition(".")
            found.setdefault(network, {})[name] = value
    except (ValueError, AttributeError):
        raise UserError(f"{where}: its header's {ADAPTER_METADATA} is not readable as JSON") from None
    for settings in found.values():
        _check_settings(settings, where)
    return found


def _check_settings(settings: dict, where: str) -> None:
    """Raise UserError for adapters of an unknown kind, or not on the published weights."""
    kind = str(settings.get("peft_type") or "LORA").upper().rpartition(".")[2]
    if kind not in ("LORA", "LOHA", "LOKR"):
        raise UserError(f"{where}: peft_type {kind} is not supported; LORA, LOHA and LOKR are")
    start = str(settings.get("init_lora_weights"))
    if start.lower().startswith(_CHANGED_BASES):
        raise UserError(f"{where}: init_lora_weights {start} changed the model's own weights too, which this adapter "
                        "does not hold; convert it to a plain LoRA with peft first")
    for name in ("r", "lora_alpha", "alpha"):
        if not isinstance(settings.get(name, 1), int | float) or settings.get(name, 1) <= 0:
            raise UserError(f"{where}: {name} {settings[name]!r} is not a positive number")


def inner_files(path: Path) -> list[Path]:
    """The files of a folder's further networks, each in a folder of the network's name."""
    folder = find_lora(path).parent
    return sorted(file for name in LORA_FILES for file in folder.glob(f"*/{name}")) if path.is_dir() else []


def digest_of(path: Path) -> str:
    """A hash of every file that `path` stands for."""
    main = find_lora(path)
    digest = hashlib.sha256()
    for file in (main, main.parent / ADAPTER_SETTINGS if main.name == LORA_FILES[1] else main, *inner_files(path)):
        digest.update(hashlib.sha256(file.read_bytes()).digest() if file.is_file() else b"")
    return digest.hexdigest()
