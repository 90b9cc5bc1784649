"""From a located model's files to a diffusers pipeline that holds its weights."""

from collections.abc import Container
from pathlib import Path

import torch
from torch import nn

from visalign.generators.files.completeness import check_part, check_words
from visalign.generators.files.file_parts import bare_part, blank_part, filled, tensors_for
from visalign.generators.files.gguf_files import load_quantised
from visalign.generators.files.locating import ModelLocation
from visalign.generators.files.parts import left_out, networks_of, parts_of, variant_of
from visalign.generators.files.scheduler_files import load_scheduler


def load_pipeline(pipeline_class, checkpoint: ModelLocation, dtype: torch.dtype, blank: Container[str] = (),
                  device: torch.device | None = None):
    """The pipeline, its networks on the CPU in `dtype`, the VAE in single precision.

    checkpoint: on this machine. blank: names of networks whose weights are left out, and which are on `device` at once
    (to move them would make room for their weights). Raises UserError, and what the libraries raise, for files that are
    not whole.
    """
    index, dtypes = checkpoint.index(), {"vae": torch.float32}
    given = left_out(checkpoint) | {"scheduler": load_scheduler(checkpoint)}
    models = {name: kind for name, kind in networks_of(index).items() if name not in given}
    check_words(Path(checkpoint.folder), parts_of(index).keys() - given.keys() - checkpoint.parts.keys())
    for name, kind in models.items():
        _check_folder(checkpoint, name, kind)
    given |= {name: blank_part(kind, *checkpoint.folder_of(name), dtype, device) if name in blank else
              load_part(checkpoint, name, kind, dtypes.get(name, dtype)) for name, kind in models.items()}
    given |= {name: _tokenizer(index, name, *checkpoint.folder_of(name)) for name in checkpoint.parts
              if name not in models}
    return pipeline_class.from_pretrained(checkpoint.folder, use_safetensors=True, **given)


def load_part(checkpoint: ModelLocation, name: str, kind: type[nn.Module], dtype: torch.dtype) -> nn.Module:
    """One network of a pipeline, from the single file that holds it or else from its folder."""
    folder, inner = checkpoint.folder_of(name)
    file = checkpoint.file_of(name, kind.__name__)
    if file is None:
        return kind.from_pretrained(folder, subfolder=inner, variant=variant_of(checkpoint.path_of(name)),
                                    use_safetensors=True, torch_dtype=dtype)
    if file.quantised:
        return load_quantised(kind, file, folder, inner, dtype)
    module = bare_part(kind, folder, inner)
    found = tensors_for(module, file, name, file.where(name))
    with file.opened() as tensors:
        return filled(module, found, tensors.read, dtype)


def _check_folder(checkpoint: ModelLocation, name: str, kind: type[nn.Module]) -> None:
    if checkpoint.file_of(name, kind.__name__) is None:
        check_part(kind, checkpoint.path_of(name), variant_of(checkpoint.path_of(name)))


def _tokenizer(index: dict, name: str, folder: str, inner: str):
    import transformers

    return getattr(transformers, parts_of(index)[name][1]).from_pretrained(folder, subfolder=inner)
