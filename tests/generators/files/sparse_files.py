"""Model files of full size that take no room: their headers are real, their values are holes in the file."""

import json
import math
from pathlib import Path

BYTES = {"F16": 2, "F32": 4}


def write_sparse(path: Path, shapes: dict[str, tuple[int, ...]], metadata: dict[str, str] | None = None,
                 dtype: str = "F16") -> Path:
    """A .safetensors file of tensors that are all zero."""
    header, end = {"__metadata__": metadata} if metadata else {}, 0
    for name, shape in shapes.items():
        start, end = end, end + math.prod(shape) * BYTES[dtype]
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)
    return path
