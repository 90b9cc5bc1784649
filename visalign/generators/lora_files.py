"""Reading LoRA files of common programs: matrices for the modules of a model, or one sentence.

It reads diffusers' names (with peft's, kohya's or the older endings), kohya's and OneTrainer's with underscores,
adapter folders of peft, and what diffusers itself converts (the original names of SDXL, FLUX, Wan ...). The result is

    W + strength * up @ down,    alpha / rank (rank by default) being in `up` already

Every tensor must find its module, fit it, and be finite.
"""

import json
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from visalign.errors import UserError
from visalign.generators.adapters import inject
from visalign.storage.weights import PICKLES, read_json, read_metadata, read_tensors, some

LORA_FILES = ("pytorch_lora_weights.safetensors", "adapter_model.safetensors")
ADAPTER_SETTINGS = "adapter_config.json"
ADAPTER_METADATA = "lora_adapter_metadata"  # where diffusers stores peft's settings

_ENDINGS = (re.compile(r"^(.+)\.(lora_A|lora_B|lora_down|lora_up)(?:\.\w+)?\.weight$"),
            re.compile(r"^(.+?)[._]lora(?:_linear_layer)?\.(down|up)\.weight$"))
_DOWN = ("lora_A", "lora_down", "down")
_OTHERS = {r"\.hada_w\d": "LoHa", r"\.lokr_w\d": "LoKr", r"\.b?oft_": "OFT", r"\.ia3_": "IA3",
           r"\.lora_mid": "LoCon with a middle matrix",
           r"\.(dora_scale|lora_magnitude_vector)": "DoRA", r"\.lora_embedding_": "an embedding",
           r"\.modules_to_save": "retrained modules", r"\.diff(_b)?$": "whole differences", r"\.bias$": "biases",
           r"\.[wb]_norm$": "retrained norms", r"^(emb_params|bundle_emb)": "a textual inversion"}
"""Parts of names, as regular expressions, that identify other kinds of adapters."""
_CHANGED_BASES = ("pissa", "olora", "corda", "loftq", "lora_ga")
_MEANT_FOR = (("double_blocks", "FLUX or HunyuanVideo"), ("single_transformer_blocks", "FLUX"), ("joint_blocks", "SD3"),
              ("down_blocks", "Stable Diffusion 1, 2 or XL"), ("input_blocks", "Stable Diffusion 1, 2 or XL"),
              ("unet", "Stable Diffusion 1, 2 or XL"), ("add_q_proj", "SD3 or FLUX"), ("self_attn", "Wan"),
              ("text_projection", "a CLIP text encoder"), ("transformer_blocks", "another transformer"))


@dataclass(frozen=True)
class LoraMatrices:
    """down [rank, in, ...] and up [out, rank, ...], float32; alpha / rank is in `up`."""

    down: Tensor
    up: Tensor


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
        raise UserError(f"{where}: holds {kind} ({name}), which is not supported; only plain LoRA is")
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
    """Raise UserError for adapters that are not a plain LoRA on the published weights."""
    kind = settings.get("peft_type") or "LORA"
    if str(kind).upper().rpartition(".")[2] != "LORA":
        raise UserError(f"{where}: peft_type {kind} is not supported; only LORA is")
    if settings.get("use_dora"):
        raise UserError(f"{where}: DoRA (use_dora) is not supported; only plain LoRA is")
    start = str(settings.get("init_lora_weights"))
    if start.lower().startswith(_CHANGED_BASES):
        raise UserError(f"{where}: init_lora_weights {start} changed the model's own weights too, which this adapter "
                        "does not hold; convert it to a plain LoRA with peft first")
    for name in ("r", "lora_alpha"):
        if not isinstance(settings.get(name, 1), int | float) or settings.get(name, 1) <= 0:
            raise UserError(f"{where}: {name} {settings[name]!r} is not a positive number")


def fit_lora(path: Path, networks: dict[str, nn.Module], pipeline_class: type,
             main: str) -> dict[str, dict[str, LoraMatrices]]:
    """Matrices by network and module, of a file or folder; a folder may hold another folder for a second network.

    networks: by their names in the pipeline, perhaps on the meta device; `main`: the denoiser's. Raises UserError
    naming what is left over.
    """
    found = match_lora(read_lora(path), networks, pipeline_class, main)
    for inner in sorted(find_lora(path).parent.glob(f"*/{LORA_FILES[0]}")) if path.is_dir() else ():
        name = inner.parent.name
        if name not in networks:
            raise UserError(f"lora {path}: holds weights for {name}, which {pipeline_class.__name__} as loaded here "
                            "does not have")
        found[name] = match_lora(read_lora(inner), {main: networks[name]}, pipeline_class, main)[main]
    return found


def match_lora(lora: LoraFile, networks: dict[str, nn.Module], pipeline_class: type,
               main: str) -> dict[str, dict[str, LoraMatrices]]:
    """One file's matrices; see `fit_lora`."""
    places = _spellings(networks, main)
    parsed = _parse(lora, lora.tensors)
    if any(stem not in places for stem in parsed):
        converted = _by_diffusers(lora, pipeline_class, networks[main])
        if converted is not None:
            other = _parse(lora, converted)
            if len(other) >= len(parsed) and all(stem in places for stem in other):
                parsed = other
    odd = [stem for stem in parsed if stem not in places]
    if odd:
        hint = next((f"; by its names it is for {model}" for word, model in _MEANT_FOR
                     if any(word in stem for stem in odd)), "")
        raise UserError(f"{lora.where()}: {len(odd)} of {len(parsed)} adapted layers are not in "
                        f"{pipeline_class.__name__} as loaded here: {some(odd)}{hint}")
    found: dict[str, dict[str, LoraMatrices]] = {}
    for stem, sides in parsed.items():
        network, module = places[stem]
        if module in found.setdefault(network, {}):
            raise UserError(f"{lora.where()}: holds {network}.{module} twice")
        found[network][module] = _pair(lora, stem, sides, network, module, networks[network].get_submodule(module))
    return found


def _spellings(networks: dict[str, nn.Module], main: str) -> dict[str, tuple[str, str]]:
    """Every name that a file may use for a module, to (network, module)."""
    found: dict[str, tuple[str, str]] = {}
    for part, network in networks.items():
        dotted = [f"{part}.", f"{part}.base_model.model."]
        lined = {"text_encoder": ["lora_te_", "lora_te1_"], "text_encoder_2": ["lora_te2_"]}.get(part, [])
        if part == main:
            dotted += ["", "base_model.model.", "diffusion_model."]
            lined += ["lora_unet_", "lora_transformer_", "lycoris_"]
        for name, module in network.named_modules():
            if not isinstance(module, nn.Linear | nn.Conv2d):
                continue
            names = {name, name.removesuffix(".0")}
            if part.startswith("text_encoder"):  # transformers names them with and without the prefix
                names |= {f"text_model.{each}" for each in names} | {each.removeprefix("text_model.") for each in names}
            for each in names:
                for prefix in dotted:
                    found.setdefault(prefix + each, (part, name))
                for prefix in lined:
                    found.setdefault(prefix + each.replace(".", "_"), (part, name))
    return found


def _parse(lora: LoraFile, tensors: dict[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """`down`, `up` and perhaps `alpha` by what they adapt. Raises UserError for other tensors and halves of a pair."""
    found: dict[str, dict[str, Tensor]] = {}
    odd = []
    for name, tensor in tensors.items():
        match = next(filter(None, (ending.match(name) for ending in _ENDINGS)), None)
        if match:
            stem, side = match[1].replace(".processor.", "."), "down" if match[2] in _DOWN else "up"
        elif name.endswith(".alpha") and tensor.numel() == 1:
            stem, side = name.removesuffix(".alpha"), "alpha"
        else:
            odd.append(name)
            continue
        found.setdefault(stem, {})[side] = tensor
    if odd:
        raise UserError(f"{lora.where()}: {len(odd)} of {len(tensors)} tensors are no part of a LoRA: {some(odd)}")
    halves = [stem for stem, sides in found.items() if not {"down", "up"} <= sides.keys()]
    if halves:
        raise UserError(f"{lora.where()}: {len(halves)} layers lack one of their two matrices: {some(halves)}")
    return found


def _by_diffusers(lora: LoraFile, pipeline_class: type, denoiser: nn.Module) -> dict[str, Tensor] | None:
    """The tensors under diffusers' names, where it knows how; alphas stand beside them."""
    options = {"unet_config": denoiser.config} if hasattr(denoiser, "down_blocks") else {}
    try:
        found = pipeline_class.lora_state_dict(dict(lora.tensors), return_alphas=True, **options)
    except Exception:  # converters raise many kinds for names they do not know; the caller names what is left over
        return None
    state, alphas = found[:2] if isinstance(found, tuple) else (found, None)
    return state | {name: torch.as_tensor(float(value)) for name, value in (alphas or {}).items()}


def _pair(lora: LoraFile, stem: str, sides: dict[str, Tensor], network: str, module: str,
          layer: nn.Module) -> LoraMatrices:
    """Raises UserError when the matrices are not of the layer's shape."""
    down, up = (_shaped(sides[side].float(), layer) for side in ("down", "up"))
    wanted = (layer.out_features, layer.in_features) if isinstance(layer, nn.Linear) else tuple(layer.weight.shape)
    ones = (1,) * (len(wanted) - 2)
    rank = down.shape[0] if down.ndim else 0
    if not rank or down.shape[1:] != wanted[1:] or up.shape != (wanted[0], rank, *ones):
        raise UserError(f"{lora.where()}: {stem} has matrices of {_sizes(down.shape)} and {_sizes(up.shape)}, and "
                        f"this model's layer takes {_sizes(('rank', *wanted[1:]))} and "
                        f"{_sizes((wanted[0], 'rank', *ones))}; the file is for another model")
    settings = lora.settings.get(network) or lora.settings.get("") or {}
    strength = float(sides["alpha"]) / rank if "alpha" in sides else _strength(settings, module, rank)
    return LoraMatrices(down, up * strength)


def _sizes(sizes: Iterable[int | str]) -> str:
    return " x ".join(map(str, sizes)) or "no size"


def _shaped(matrix: Tensor, layer: nn.Module) -> Tensor:
    """Some programs treat a 1x1 convolution and a linear layer alike."""
    if isinstance(layer, nn.Linear) and matrix.ndim == 4 and matrix.shape[2:] == (1, 1):
        return matrix[:, :, 0, 0]
    if isinstance(layer, nn.Conv2d) and matrix.ndim == 2:
        return matrix[:, :, None, None]
    return matrix


def _strength(settings: dict, module: str, rank: int) -> float:
    """alpha / rank (rsLoRA: alpha / sqrt(rank)) by peft's settings, 1 without any."""
    if "lora_alpha" not in settings:
        return 1.0
    patterns = settings.get("alpha_pattern") or {}
    own = next((value for key, value in patterns.items() if re.match(rf"(.*\.)?({key})$", module)), None)
    alpha = settings["lora_alpha"] if own is None else own
    return alpha / (math.sqrt(rank) if settings.get("use_rslora") else rank)


def attach(network: nn.Module, pairs: dict[str, LoraMatrices]) -> None:
    """Attach the matrices to a network as a further, frozen adapter."""
    from peft import LoraConfig

    name = f"lora_{len(getattr(network, 'peft_config', None) or {})}"
    ranks = {"^" + re.escape(module): pair.down.shape[0] for module, pair in pairs.items()}
    most = max(ranks.values())
    inject(network, LoraConfig(r=most, lora_alpha=most, rank_pattern=ranks, alpha_pattern=ranks,
                               target_modules="|".join(map(re.escape, pairs))), name)
    for module, pair in pairs.items():
        layer = network.get_submodule(module)
        for side, matrix in ((layer.lora_A[name], pair.down), (layer.lora_B[name], pair.up)):
            side.weight = nn.Parameter(matrix.to(side.weight.device), requires_grad=False)


def changes_nothing(found: dict[str, dict[str, LoraMatrices]]) -> bool:
    """Whether every product is 0, as before the first training step."""
    return not any(pair.up.any() and pair.down.any() for pairs in found.values() for pair in pairs.values())
