"""A network filled from a single file: its tensors found, converted and checked by the header, then read one by one.

The conversions are those of diffusers; they run on tensors whose values are not read, so a missing one, one of another
shape and one that nothing takes are known before loading.
"""

from collections.abc import Callable, Iterable, Mapping

import torch
from accelerate import init_empty_weights
from torch import Tensor, nn

from visalign.errors import UserError, notice
from visalign.generators.files.lazy_tensors import LazyTensor, Read, Recorded, lazy
from visalign.generators.files.single_file import DENOISER, SingleFile
from visalign.storage.out_of_memory import give_back
from visalign.storage.weights import check_keys, some

TRIMMED = 2**24
"""Bytes read before memory is tidied, which takes about a millisecond."""
_OPEN_CLIP = "transformer.resblocks."
_BESIDE = ("position_ids", "logit_scale", "text_projection", "text_projection.weight")
"""Ends of the names of what text encoders are saved with and many do not use."""
_LAST_OF_SD2 = "cond_stage_model.model.transformer.resblocks.23."
"""A layer that Stable Diffusion 2 was trained without, and whose weights its files hold."""


def bare_part(kind: type[nn.Module], folder: str, name: str) -> nn.Module:
    """The network that a part's configuration describes: parameters without memory, constants with their values."""
    with init_empty_weights():
        return configured(kind, folder, name)


def blank_part(kind: type[nn.Module], folder: str, name: str, dtype: torch.dtype, device: torch.device) -> nn.Module:
    """The network with one zero in place of each weight, seen in the weight's shape: it answers in the right shapes,
    takes no memory, and reads no weights."""
    module = bare_part(kind, folder, name)
    kept = _kept_in_full(module, dtype)
    for prefix, layer in module.named_modules():
        for own, parameter in layer._parameters.items():
            if parameter is not None:
                precision = torch.float32 if kept & {*prefix.split("."), own} else dtype
                zero = torch.zeros((), dtype=precision, device=device)
                layer._parameters[own] = nn.Parameter(zero.expand(parameter.shape), requires_grad=False)
    return module.eval()


def configured(kind: type[nn.Module], folder: str, name: str) -> nn.Module:
    """A network as its configuration says. name: of the folder in a pipeline's folder or hub repository, may be ''."""
    if hasattr(kind, "load_config"):  # of diffusers
        return kind.from_config(kind.load_config(folder, subfolder=name or None))
    return kind._from_config(kind.config_class.from_pretrained(folder, subfolder=name))


def tensors_for(module: nn.Module, file: SingleFile, part: str, where: str) -> dict[str, LazyTensor | Tensor]:
    """The tensors of a file for a network, under its names, in its shapes; none of them is read.

    Raises UserError starting with `where` when the file lacks some, or holds others.
    """
    prefix, names = file.names_of(part, type(module).__name__)
    tensors = {name.removeprefix(prefix): lazy(name, file.shapes[name]) for name in names}
    try:
        found, missing = (_of_diffusers if hasattr(module, "load_config") else _of_text)(module, tensors, prefix)
    except (IndexError, ValueError, RuntimeError, AttributeError, TypeError) as error:  # conversions do not check
        reason = " ".join(str(error).split())[:160]
        raise UserError(f"{where}: its tensors are not arranged as its family's are ({reason})") from error
    wanted = module.state_dict()
    tied = _tied(module)
    for name, other in tied.items():
        found.update({other: found[name]} if name in found and other not in found else {})
    used = frozenset().union(*(each.sources for each in found.values() if isinstance(each, LazyTensor)))
    over = sorted({*found.keys() - wanted.keys() - tied.keys(), *(set(names) - used)})
    check_keys({
        "missing_keys": missing or [name for name in wanted if name not in found and name not in tied],
        "mismatched_keys": [name for name, tensor in wanted.items()
                            if name in found and tuple(found[name].shape) != tuple(tensor.shape)],
        "unexpected_keys": () if part.startswith("text_encoder") else over}, where)
    odd = [name for name in over if not name.endswith(_BESIDE) and not name.startswith(_LAST_OF_SD2)]
    if odd:
        notice(f"{where}: {len(odd)} tensor{'s' if len(odd) > 1 else ''} that this model has no place for "
               f"{'are' if len(odd) > 1 else 'is'} ignored: {some(odd)}")
    return {name: found[name] for name in wanted if name in found}


def filled(module: nn.Module, found: Mapping[str, LazyTensor | Tensor], read: Read, dtype: torch.dtype) -> nn.Module:
    """The network with its tensors read, each in its precision at once; in evaluation mode, on the CPU."""
    kept, wanted, values, bytes_read = _kept_in_full(module, dtype), module.state_dict(), {}, 0
    for name, tensor in found.items():
        precision = torch.float32 if kept & set(name.split(".")) else dtype
        own = torch.empty(tensor.shape, dtype=precision if wanted[name].is_floating_point() else wanted[name].dtype)
        values[name] = own.copy_(tensor.make(read) if isinstance(tensor, LazyTensor) else tensor)
        bytes_read += own.nbytes
        if bytes_read > TRIMMED:
            bytes_read = 0
            give_back()
    module.load_state_dict(values, strict=False, assign=True)
    give_back()
    if hasattr(module, "tie_weights"):
        module.tie_weights()
    return module.eval()


def _kept_in_full(module: nn.Module, dtype: torch.dtype) -> set[str]:
    """Parts of the names of tensors that stay in single precision, as the network's class says."""
    half = (torch.float16, torch.bfloat16) if hasattr(module, "load_config") else (torch.float16,)
    return set(getattr(module, "_keep_in_fp32_modules", None) or ()) if dtype in half else set()


def _tied(module: nn.Module) -> dict[str, str]:
    """Names of weights that are one with another, and the other's."""
    tied = getattr(module, "_tied_weights_keys", None) or {}
    return dict(tied) if isinstance(tied, Mapping) else dict.fromkeys(tied, "shared.weight")  # before transformers 5


Converted = tuple[dict[str, LazyTensor | Tensor], list[str]]
"""Tensors under a network's names, and the names of those that a file lacks."""


def _of_diffusers(module: nn.Module, tensors: dict[str, LazyTensor], prefix: str) -> Converted:
    import diffusers
    from diffusers.loaders.single_file_model import SINGLE_FILE_LOADABLE_CLASSES

    own = module.state_dict().keys()
    tensors = module._fix_state_dict_keys_on_load(dict(tensors))
    if 2 * len(own & tensors.keys()) > len(own):
        return tensors, []
    conversion = next((each["checkpoint_mapping_fn"] for name, each in SINGLE_FILE_LOADABLE_CLASSES.items()
                       if isinstance(module, getattr(diffusers, name, ()))), None)
    if conversion is None:
        return tensors, []
    if isinstance(module, diffusers.UNet2DConditionModel):
        tensors = {f"{DENOISER}{name}": tensor for name, tensor in tensors.items()}
    return _run(lambda recorded: conversion(config=dict(module.config), checkpoint=recorded), tensors)


def _run(conversion: Callable[[Recorded], dict], tensors: Mapping[str, LazyTensor]) -> Converted:
    recorded = Recorded(tensors)
    try:
        found = conversion(recorded)
    except KeyError as error:
        return {}, [str(error.args[0])]
    return {name: tensor for name, tensor in found.items() if tensor is not None}, recorded.missing


def _of_text(module: nn.Module, tensors: dict[str, LazyTensor], prefix: str) -> Converted:
    from diffusers.loaders.single_file_utils import convert_open_clip_checkpoint

    missing: list[str] = []
    if any(name.startswith(_OPEN_CLIP) for name in tensors):
        tensors, missing = _run(lambda recorded: convert_open_clip_checkpoint(module, recorded, prefix=prefix),
                                {f"{prefix}{name}": tensor for name, tensor in tensors.items()})
    own = module.state_dict()
    found = {_spelled(name, own): tensor for name, tensor in tensors.items()}
    if prefix == "text_encoders.clip_l.transformer." and "text_projection.weight" in own:
        # SD3 takes what CLIP-L pools as it is, and diffusers takes it through a matrix
        found["text_projection.weight"] = torch.eye(len(own["text_projection.weight"]))
    return found, missing


def _spelled(name: str, own: Iterable[str]) -> str:
    """The name with or without `text_model.`, whichever the installed transformers has."""
    return next((each for each in (name, f"text_model.{name}", name.removeprefix("text_model.")) if each in own), name)
