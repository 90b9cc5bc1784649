"""Which layers of a model a LoRA file is for: matrices by network and module, or one sentence.

Known are diffusers' names (with peft's, kohya's or the older endings), kohya's and OneTrainer's with underscores,
LyCORIS', adapter folders of peft, and what diffusers itself converts (the original names of SDXL, FLUX, Wan ...).

    W + strength * up @ down,    alpha / rank (rank by default) being in `up` already

Every tensor must find its module, fit it, and be finite.
"""

import math
import re
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from visalign.errors import UserError
from visalign.generators.lora.adapters import OF_ADAPTER
from visalign.generators.lora.files import LoraFile, inner_files, read_lora
from visalign.generators.lora.layers import LYCORIS, Layers, LoraMatrices, LycorisMatrices, Matrices
from visalign.storage.weights import some

_ENDINGS = (re.compile(r"^(.+)\.(lora_A|lora_B|lora_down|lora_up)(?:\.\w+)?\.weight$"),
            re.compile(r"^(.+?)[._]lora(?:_linear_layer)?\.(down|up)\.weight$"))
_OTHER_SIDES = re.compile(r"^(.+)\.(hada_w\d_[ab]|lokr_w\d(?:_[ab])?|dora_scale|lora_magnitude_vector)"
                          r"(?:\.\w+)?(?:\.weight)?$")
_DOWN = ("lora_A", "lora_down", "down")
_MEANT_FOR = (("double_blocks", "FLUX or HunyuanVideo"), ("single_transformer_blocks", "FLUX"), ("joint_blocks", "SD3"),
              ("down_blocks", "Stable Diffusion 1, 2 or XL"), ("input_blocks", "Stable Diffusion 1, 2 or XL"),
              ("unet", "Stable Diffusion 1, 2 or XL"), ("add_q_proj", "SD3 or FLUX"), ("self_attn", "Wan"),
              ("text_projection", "a CLIP text encoder"), ("transformer_blocks", "another transformer"))
_NOT_CONVERTED = (LookupError, ValueError, AssertionError, RuntimeError)
"""What diffusers' converters raise for names that they do not know (ValueError, LookupError, NotImplementedError, which
is a RuntimeError) and for tensors that cannot be taken apart as their names say (AssertionError, RuntimeError)."""


Naming = Callable[[str], str | None]
"""A layer's name in user interfaces, where it has one of its own."""


def fit_lora(path: Path, networks: dict[str, nn.Module], pipeline_class: type, main: str,
             naming: Naming = lambda name: None) -> dict[str, Layers]:
    """Matrices by network and module, of a file or folder; a folder may hold another folder for a second network.

    networks: by their names in the pipeline, perhaps on the meta device; `main`: the denoiser's. Raises UserError
    naming what is left over.
    """
    found = match_lora(read_lora(path), networks, pipeline_class, main, naming)
    for inner in inner_files(path):
        name = inner.parent.name
        if name not in networks:
            raise UserError(f"lora {path}: holds weights for {name}, which {pipeline_class.__name__} as loaded here "
                            "does not have")
        found[name] = match_lora(read_lora(inner), {main: networks[name]}, pipeline_class, main, naming)[main]
    return found


def match_lora(lora: LoraFile, networks: dict[str, nn.Module], pipeline_class: type, main: str,
               naming: Naming = lambda name: None) -> dict[str, Layers]:
    """One file's matrices; see `fit_lora`."""
    layers = {part: _layers_of(network) for part, network in networks.items()}
    places = _spellings(layers, main, naming)
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
    found: dict[str, Layers] = {}
    for stem, sides in parsed.items():
        network, module = places[stem]
        if module in found.setdefault(network, {}):
            raise UserError(f"{lora.where()}: holds {network}.{module} twice")
        settings = lora.settings.get(network) or lora.settings.get("") or {}
        made = _matrices(lora, stem, sides, settings, module, layers[network][module])
        _check_kind(lora, stem, settings, made.kind)
        found[network][module] = made
    return found


def _check_kind(lora: LoraFile, stem: str, settings: dict, kind: str) -> None:
    """Raise UserError when the settings beside the tensors are of another kind of adapter."""
    told = str(settings.get("peft_type") or kind).rpartition(".")[2].lower()
    told = "dora" if told == "lora" and settings.get("use_dora") else told
    if settings and told != kind:
        raise UserError(f"{lora.where()}: its settings are those of a {told}, and {stem} is a {kind}; part of it is "
                        "missing, or the settings belong to another file")


def _layers_of(network: nn.Module) -> dict[str, nn.Module]:
    """The layers that a LoRA may be for, by name, also where they have adapters already."""
    return {name.removesuffix(".base_layer"): module for name, module in network.named_modules()
            if isinstance(module, nn.Linear | nn.Conv2d) and not OF_ADAPTER.search(name)}


def _spellings(layers: dict[str, dict[str, nn.Module]], main: str, naming: Naming) -> dict[str, tuple[str, str]]:
    """Every name that a file may use for a module, to (network, module)."""
    found: dict[str, tuple[str, str]] = {}
    for part, named in layers.items():
        dotted = [f"{part}.", f"{part}.base_model.model."]
        lined = {"text_encoder": ["lora_te_", "lora_te1_"], "text_encoder_2": ["lora_te2_"]}.get(part, [])
        if part == main:
            dotted += ["", "base_model.model.", "diffusion_model."]
            lined += ["lora_unet_", "lora_transformer_", "lycoris_"]
        for name in named:
            names = {name, name.removesuffix(".0")}
            if part.startswith("text_encoder"):  # transformers names them with and without the prefix
                names |= {f"text_model.{each}" for each in names} | {each.removeprefix("text_model.") for each in names}
            own = naming(name) if part == main else None
            if own is not None:
                found.setdefault(own, (part, name))
            for each in names:
                for prefix in dotted:
                    found.setdefault(prefix + each, (part, name))
                for prefix in lined:
                    found.setdefault(prefix + each.replace(".", "_"), (part, name))
    return found


def _parse(lora: LoraFile, tensors: dict[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """A layer's tensors by side and by what they adapt. Raises UserError for other tensors and incomplete layers."""
    found: dict[str, dict[str, Tensor]] = {}
    odd = []
    for name, tensor in tensors.items():
        match = next(filter(None, (ending.match(name) for ending in _ENDINGS)), None)
        other = _OTHER_SIDES.match(name)
        if other:
            stem, side = other[1], "magnitude" if other[2] in ("dora_scale", "lora_magnitude_vector") else other[2]
        elif match:
            stem, side = match[1].replace(".processor.", "."), "down" if match[2] in _DOWN else "up"
        elif name.endswith(".alpha") and tensor.numel() == 1:
            stem, side = name.removesuffix(".alpha"), "alpha"
        else:
            odd.append(name)
            continue
        found.setdefault(stem, {})[side] = tensor
    if odd:
        raise UserError(f"{lora.where()}: {len(odd)} of {len(tensors)} tensors are no part of a LoRA: {some(odd)}")
    halves = [stem for stem, sides in found.items() if not _whole(sides.keys() - {"alpha"})]
    if halves:
        raise UserError(f"{lora.where()}: {len(halves)} layers lack one of their matrices: {some(halves)}")
    return found


def _whole(sides: set[str]) -> bool:
    """Whether the tensors of a layer make up exactly one LoRA, DoRA, LoHa or LoKr."""
    first, second = ([{factor}, {f"{factor}_a", f"{factor}_b"}] for factor in ("lokr_w1", "lokr_w2"))
    return sides in ({"down", "up"}, {"down", "up", "magnitude"}, set(LYCORIS["loha"]),
                     *(one | other for one in first for other in second))


def _by_diffusers(lora: LoraFile, pipeline_class: type, denoiser: nn.Module) -> dict[str, Tensor] | None:
    """The tensors under diffusers' names, where it knows how; alphas stand beside them."""
    if not hasattr(pipeline_class, "lora_state_dict"):
        return None
    options = {"unet_config": denoiser.config} if hasattr(denoiser, "down_blocks") else {}
    try:
        found = pipeline_class.lora_state_dict(dict(lora.tensors), return_alphas=True, **options)
    except _NOT_CONVERTED:  # the caller names what is left over
        return None
    state, alphas = found[:2] if isinstance(found, tuple) else (found, None)
    return state | {name: torch.as_tensor(float(value)) for name, value in (alphas or {}).items()}


def _matrices(lora: LoraFile, stem: str, sides: dict[str, Tensor], settings: dict, module: str,
              layer: nn.Module) -> Matrices:
    """One layer's part. Raises UserError when it is not of the layer's shape."""
    sides = {side: tensor.float() for side, tensor in sides.items()}
    wanted = (layer.out_features, layer.in_features) if isinstance(layer, nn.Linear) else tuple(layer.weight.shape)
    if "down" not in sides:
        return _lycoris(lora, stem, sides, settings, module, wanted)
    down, up = (_shaped(sides[side], layer) for side in ("down", "up"))
    ones = (1,) * (len(wanted) - 2)
    rank = down.shape[0] if down.ndim else 0
    if not rank or down.shape[1:] != wanted[1:] or up.shape != (wanted[0], rank, *ones):
        raise UserError(f"{lora.where()}: {stem} has matrices of {_sizes(down.shape)} and {_sizes(up.shape)}, and "
                        f"this model's layer takes {_sizes(('rank', *wanted[1:]))} and "
                        f"{_sizes((wanted[0], 'rank', *ones))}; the file is for another model")
    magnitude = sides.get("magnitude")
    by_columns = magnitude is not None and magnitude.ndim == 2 and magnitude.shape[0] == 1 != wanted[0]
    if magnitude is not None and (magnitude.numel() != wanted[0] or by_columns):
        raise UserError(f"{lora.where()}: {stem} has lengths of {_sizes(magnitude.shape)}, and this model's layer has "
                        f"{wanted[0]} rows; DoRA by columns is not supported")
    alpha = float(sides["alpha"]) if "alpha" in sides else _alpha_of(settings, module)
    if alpha is not None and settings.get("use_rslora") and "alpha" not in sides:
        alpha *= math.sqrt(rank)
    return LoraMatrices(down, up, alpha, None if magnitude is None else magnitude.flatten())


def _lycoris(lora: LoraFile, stem: str, sides: dict[str, Tensor], settings: dict, module: str,
             wanted: tuple[int, ...]) -> LycorisMatrices:
    """An alpha in the file counts by LyCORIS' rule: not at all where both factors of a LoKr are whole."""
    kind = "loha" if "hada_w1_a" in sides else "lokr"
    tensors = {side: tensor for side, tensor in sides.items() if side in LYCORIS[kind]}
    rank = next((tensors[side].shape[0] for side in ("hada_w1_b", "lokr_w2_b", "lokr_w1_b") if side in tensors),
                settings.get("r", 1))
    alpha = _alpha_of(settings, module)
    if "alpha" in sides:
        alpha = float(sides["alpha"]) if any(side.endswith("_b") for side in tensors) else None
    made = LycorisMatrices(kind, tensors, rank, float(rank if alpha is None else alpha))
    try:
        shape = replace(made, tensors={side: tensor.to("meta") for side, tensor in tensors.items()}).product().shape
        fits = shape[0] == wanted[0] and shape.numel() == math.prod(wanted)
    except RuntimeError:
        fits = False
    if not fits:
        shapes = ", ".join(f"{side} {_sizes(tensor.shape)}" for side, tensor in sorted(tensors.items()))
        raise UserError(f"{lora.where()}: {stem} ({shapes}) does not make up this model's layer of {_sizes(wanted)}; "
                        "the file is for another model")
    return made


def _sizes(sizes: Iterable[int | str]) -> str:
    return " x ".join(map(str, sizes)) or "no size"


def _shaped(matrix: Tensor, layer: nn.Module) -> Tensor:
    """Some programs treat a 1x1 convolution and a linear layer alike."""
    if isinstance(layer, nn.Linear) and matrix.ndim == 4 and matrix.shape[2:] == (1, 1):
        return matrix[:, :, 0, 0]
    if isinstance(layer, nn.Conv2d) and matrix.ndim == 2:
        return matrix[:, :, None, None]
    return matrix


def _alpha_of(settings: dict, module: str) -> float | None:
    """By peft's settings, None without any."""
    alpha = settings.get("lora_alpha", settings.get("alpha"))
    if alpha is None:
        return None
    patterns = settings.get("alpha_pattern") or {}
    return next((value for key, value in patterns.items() if re.match(rf"(.*\.)?({key})$", module)), alpha)
