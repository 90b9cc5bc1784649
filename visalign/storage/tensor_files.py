"""The tensors of one or several .safetensors files, mapped and read one at a time, so that memory holds no copy."""

import re
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from visalign.errors import UserError
from visalign.storage.weights import open_tensors, read_json, read_shapes, some

KEPT_OPEN = 2**24
"""Bytes read through one mapping; what was read counts as this process's memory until the mapping is closed."""
_SHARD = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.safetensors")


class TensorFiles:
    """Tensors by name, whichever of the files they are in.

    shapes: from the headers. Raises UserError starting with `where` for a broken file.
    """

    def __init__(self, paths: Sequence[Path], where: str):
        self.paths, self.where = paths, where
        self._place = {name: (path, shape) for path in paths for name, shape in read_shapes(path, where).items()}
        self.shapes = {name: shape for name, (_, shape) in self._place.items()}
        self._open: dict = {}
        self._read = 0

    def read(self, name: str) -> Tensor:
        """A tensor, mapped from its file. Raises UserError when the file broke meanwhile."""
        path, _ = self._place[name]
        if self._read > KEPT_OPEN:
            self.close()
        if path not in self._open:
            self._open[path] = open_tensors(path, self.where)
        tensor = self._open[path].get_tensor(name)
        self._read += tensor.nbytes
        return tensor

    def close(self) -> None:
        """Let go of the mappings."""
        self._open.clear()
        self._read = 0


def with_other_shards(path: Path, where: str) -> tuple[Path, ...]:
    """All files of the model that one file, or an index of several files, is part of.

    Raises UserError starting with `where` for files that are missing.
    """
    if path.name.endswith(".index.json"):
        names = {str(name) for name in read_json(path, where).get("weight_map", {}).values()}
        if not names:
            raise UserError(f"{where}: its weight_map names no files")
    elif match := _SHARD.fullmatch(path.name):
        names = {f"{match['stem']}-{number:05d}-of-{match['count']}.safetensors"
                 for number in range(1, int(match["count"]) + 1)}
    else:
        return (path,)
    missing = [name for name in names if not (path.parent / name).is_file()]
    if missing:
        raise UserError(f"{where}: it is one of {len(names)} files, of which {len(missing)} are missing: "
                        f"{some(missing)}; download them too")
    return tuple(sorted(path.parent / name for name in names))
