"""The page of `visalign reward attack`: how often an order turned, and the images that did it."""

from pathlib import Path

import numpy as np
from PIL import Image

from visalign.reports import media_uri, render_page
from visalign.storage.files import write_atomically

SHOWN, AMPLIFIED = 6, 8
"""Images of each kind; by how much a difference is multiplied to be seen."""


def write_attack_report(file: Path, found, data: str) -> None:
    """Write the page; the images shown are those whose order turned by most."""
    shown = {kind: sorted((each for each in found.attacked if each.kind == kind and each.success),
                          key=lambda each: -each.gain)[:SHOWN] for kind in found.kinds}
    write_atomically(file, render_page(
        "reward_attack.html.j2", title=f"{found.reward} under attack", found=found, data=data,
        shown={kind: [(each, media_uri(each.other_image), media_uri(each.original), media_uri(each.changed),
                       media_uri(amplified_change(each.original, each.changed))) for each in rows]
               for kind, rows in shown.items()}, amplified=AMPLIFIED, finite=np.isfinite))


def amplified_change(before: Image.Image, after: Image.Image) -> Image.Image:
    """What changed, amplified around grey."""
    change = np.asarray(after, np.float64) - np.asarray(before, np.float64)
    return Image.fromarray((128 + AMPLIFIED * change).clip(0, 255).astype(np.uint8))
