"""Checks, from the headers alone, that a pipeline's part has every tensor in its shape, and no other.

The libraries that read a part do so here without memory, so that their own rules for older names, for weights that two
layers share, and for what an architecture ignores are the ones that count. Files are mapped, and no value is touched.
"""

import functools
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from visalign.errors import UserError, notice
from visalign.storage.pretrained import check_tokenizer
from visalign.storage.weights import check_keys, quiet_reports, read_json, read_shapes, some


def check_part(kind: type[nn.Module], part: Path, variant: str | None = None) -> None:
    """Raise UserError unless the files of a part's folder hold exactly the weights of a network of this kind.

    Extra weights beside those of a text or image encoder cause only a notice: many checkpoints contain a whole CLIP.
    """
    _check(kind, part, variant, tuple((file.name, file.stat().st_size, file.stat().st_mtime_ns)
                                      for file in sorted(part.iterdir()) if file.is_file()))


@functools.lru_cache(maxsize=256)
def _check(kind: type[nn.Module], part: Path, variant: str | None, stamp: tuple) -> None:
    where = f"model {part}"
    check_files(part, where, variant)
    options = {"variant": variant, "use_safetensors": True, "output_loading_info": True, "device_map": "meta"}
    with quiet_reports(), _CopiesWithoutMemory():
        try:
            if issubclass(kind, _transformer_class()):
                _, info = kind.from_pretrained(part, ignore_mismatched_sizes=True, **options)
            else:
                _, info = kind.from_pretrained(part, **options)
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RuntimeError) as error:
            reason = " ".join(str(error).split(". If")[0].split())[:200]
            raise UserError(f"{where}: could not be loaded ({reason})") from error
    if not part.name.startswith(("text_encoder", "image_encoder")):
        check_keys(info, where)
        return
    check_keys({**info, "unexpected_keys": ()}, where)
    if info.get("unexpected_keys"):
        notice(f"{where}: {len(info['unexpected_keys'])} tensors that this model has no place for are ignored: "
               f"{some(info['unexpected_keys'])}")


class _CopiesWithoutMemory(TorchDispatchMode):
    """Within it a copy of a file's tensor in another precision or place has no values, and the file is not read.

    diffusers brings weights into their network's precision before it puts them where they have no memory.
    """

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is torch.ops.aten._to_copy.default and not args[0].untyped_storage().resizable():  # a mapped file's
            kwargs = kwargs | {"device": torch.device("meta"), "non_blocking": False}
        return func(*args, **kwargs)


def check_words(folder: Path, names: Iterable[str]) -> None:
    """Raise UserError for a tokenizer or processor of a local pipeline, among these parts, that lacks its files."""
    for name in names:
        if name.startswith("tokenizer"):
            check_tokenizer(folder / name, f"model {folder}")
        elif name.startswith("image_processor") and not (folder / name / "preprocessor_config.json").is_file():
            raise UserError(f"model {folder / name}: has no preprocessor_config.json, which says how images are "
                            "prepared")


def check_files(part: Path, where: str, variant: str | None) -> None:
    """Raise UserError for a shard that an index names and that is missing, and for files that are broken."""
    for index in part.glob(f"*.safetensors.index.{variant}.json" if variant else "*.safetensors.index.json"):
        shards = set(read_json(index, f"model {index}").get("weight_map", {}).values())
        missing = [shard for shard in shards if not (part / str(shard)).is_file()]
        if missing:
            raise UserError(f"{where}: {index.name} names {len(shards)} files, of which {len(missing)} are missing: "
                            f"{some(map(str, missing))}; download them too")
    for file in sorted(part.glob("*.safetensors")):
        read_shapes(file, f"model {file}")


def _transformer_class() -> type:
    from transformers import PreTrainedModel

    return PreTrainedModel
