"""Samples of the same prompts and seeds before and after a run: rows for its page, and of images one to look at."""

from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from visalign.data.generations import find_generations
from visalign.media.samples import Media, grid, to_bytes
from visalign.media.source_images import parts_shown
from visalign.media.video_files import read_media
from visalign.storage.files import write_atomically

BEFORE_AFTER = "before_after.png"
PROMPTS, SAMPLES = 16, 4
"""Shown at most: the first held-out prompts and the first samples of each, never a choice of good ones."""


@dataclass(frozen=True)
class BeforeAfter:
    """A held-out prompt's words, its source images where it is an edit, and its samples before and after a run."""

    prompt: str
    sources: tuple[Image.Image, ...]
    before: list[Media]
    after: list[Media]


def first_and_last(run: Path, held: list[dict]) -> list[BeforeAfter]:
    """Per prompt, what was sampled at the first and the last of the run's held-out rows."""
    folders = [run / "samples" / row["folder"] for row in (held[0], held[-1])]
    rows, prompts = [], held[0]["prompts"][:PROMPTS]
    if (folders[0] / "samples.jsonl").is_file():
        kept, each = [find_generations(folder) for folder in folders], held[0]["seeds"]
        answers = [[entry.sample().answer for entry in entries] for entries in kept]
        return [BeforeAfter(prompt, (), *(given[i * each:(i + 1) * each][:SAMPLES] for given in answers))
                for i, prompt in enumerate(prompts)]
    for i, prompt in enumerate(prompts):
        rows.append(BeforeAfter(*parts_shown(prompt), *(
            [read_media(path, path.name) for path in sorted(folder.glob(f"{i:03d}-*.*"))[:SAMPLES]]
            for folder in folders)))
    return rows


def save_before_after(rows: list[BeforeAfter], file: Path) -> Path:
    """Write the rows as one PNG, before on the left, after the source images of edits, and after on the right."""
    sides = [grid([(row.prompt, [*row.sources, *row.before]) for row in rows], label_width=150),
             grid([("", row.after) for row in rows], label_width=24)]
    top = 24
    canvas = Image.new("RGB", (sum(side.width for side in sides), top + sides[0].height), "white")
    draw, font, left = ImageDraw.Draw(canvas), ImageFont.load_default(14), 0
    for side, title, indent in zip(sides, (titled_before(rows), "after, same seeds"), (150, 24), strict=True):
        draw.text((left + indent, 4), title, fill="black", font=font)
        canvas.paste(side, (left, top))
        left += side.width
    draw.line([(sides[0].width + 12, 4), (sides[0].width + 12, canvas.height - 4)], fill="#bbbbbb")
    write_atomically(file, to_bytes(canvas))
    return file


def titled_before(rows: list[BeforeAfter]) -> str:
    return "source, then before" if any(row.sources for row in rows) else "before"
