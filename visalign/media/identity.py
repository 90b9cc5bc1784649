"""What tells stored media apart without decoding them."""

import hashlib
from pathlib import Path


def stored_identity(stored: bytes | str) -> str:
    """Of bytes: a hash of them. Of a file, or of each file in a folder: path, size and time of its last change.

    Raises OSError where there is no such file.
    """
    if isinstance(stored, bytes):
        return hashlib.sha256(stored).hexdigest()
    path = Path(stored).absolute()
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    states = [(str(file), file.stat()) for file in files]
    return repr([(name, state.st_size, state.st_mtime_ns) for name, state in states])
