"""Users' names as visalign stores them."""

import hashlib
import re

_HASHED = re.compile(r"user-[0-9a-f]{16}")


def hashed_user(name: str) -> str:
    """A name as visalign stores it: equal names give equal hashes, and a hash stays as it is.

    A hash keeps names out of tables and pages; anyone with a list of names can still find which one it stands for.
    """
    name = name.strip()
    return name if _HASHED.fullmatch(name) else f"user-{hashlib.sha256(name.encode()).hexdigest()[:16]}"
