"""Prompt sets: a text file, one prompt a line, or the captions of the embedded emoji set."""

from pathlib import Path

from visalign.errors import UserError

EMOJI = Path(__file__).resolve().parents[1] / "assets" / "emoji" / "emoji.parquet"


def emoji_captions(split: str) -> list[str]:
    """Distinct captions of the embedded set with `split` train or held_out, in a fixed mixed order."""
    import hashlib

    import pyarrow.parquet as pq

    rows = pq.read_table(EMOJI, columns=["captions"]).column("captions").to_pylist()
    texts = {caption["text"] for row in rows for caption in row if caption["split"] == split}
    return sorted(texts, key=lambda text: hashlib.sha256(f"order {text}".encode()).hexdigest())


def read_prompts(source: str, limit: int | None = None) -> list[str]:
    """Prompts of a text file, or `emoji:train` / `emoji:held_out`.

    Raises UserError when the file is missing or empty.
    """
    if source.startswith("emoji:"):
        split = source.removeprefix("emoji:")
        if split not in ("train", "held_out"):
            raise UserError(f"prompts {source}: the embedded set has the splits train and held_out")
        prompts = emoji_captions(split)
    else:
        try:
            lines = Path(source).expanduser().read_text().splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"prompts {source}: cannot be read ({error})") from None
        prompts = [line.strip() for line in lines if line.strip()]
    if not prompts:
        raise UserError(f"prompts {source}: the file holds no prompt; one a line is expected")
    return prompts[:limit]
