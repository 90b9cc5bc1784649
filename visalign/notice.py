"""What a user should know and need not mend: one line on the terminal, each text once."""

import functools
import os
import sys


@functools.cache
def notice(text: str) -> None:
    """Say `text` on the error stream, above any progress bar; of several processes the first one speaks."""
    if os.environ.get("RANK", "0") == "0":
        from tqdm import tqdm

        tqdm.write(f"visalign: {text}", file=sys.stderr)
