"""Pairs of a vision-language model: conversations with images as a model's processor renders them, batch by batch.

Two sides of a pair may differ by more than their answers. With `masked` a share of the rejected side's images is
hidden, and the answer is the same: the model learns that it needs the images (CoPO of OPA-DPO, arXiv 2501.09695).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from visalign.data.text_pairs import TextPair
from visalign.errors import UserError
from visalign.language.chat import TokenRow, check_controls
from visalign.media.conversations import Message, turn_end, with_system
from visalign.media.image_files import decode_image, read_image
from visalign.media.source_images import with_sources
from visalign.sampling.seeds import stable_seed
from visalign.storage.files import write_atomically
from visalign.storage.language_models import LanguageModel

BLOCKS = 16
"""Images are hidden in this many blocks a side."""
PAIRS_COUNTED = 64
"""Pairs, evenly over the set, whose tokens are counted before training."""


def vision_rows(model: LanguageModel, pairs: Sequence[TextPair], system: str | None, folder: Path,
                max_length: int) -> list[TokenRow]:
    """Pairs as rows that `VisionCollator` takes; images that lie inside a table are written into `folder`.

    Raises UserError for a pair without an image, and for one that is longer than `max_length` among those counted.
    """
    rows = []
    for number, pair in enumerate(pairs):
        if not pair.images:
            raise UserError(f"{pair.where}: has no image; with model.vision every row names one (column image or "
                            "images)")
        if pair.prefix or pair.unfinished:
            raise UserError(f"{pair.where}: has a 'prefix' or 'unfinished'; parts of answers are learnt of text alone")
        check_controls(model.tokenizer, pair)
        files = [_file_of(image, folder, f"{number:06d}-{i}", pair.where) for i, image in enumerate(pair.images)]
        row: TokenRow = {"messages": with_system(pair.messages, system), "chosen": pair.chosen, "files": files,
                         "row": number, "strength": pair.strength, "chance": pair.chance, "where": pair.where,
                         "prompt": with_sources(pair.prompt, files)}
        if pair.rejected is not None:
            row["rejected"] = pair.rejected
        rows.append(row | pair.numbers)
    collate = VisionCollator(model.processor, (), max_length)
    for row in rows[::max(1, len(rows) // PAIRS_COUNTED)]:
        collate([row])
    return rows


def _file_of(image: Any, folder: Path, name: str, where: str) -> str:
    """The path of an image, which is opened. Raises UserError naming the row when that fails."""
    if isinstance(image, str):
        read_image(Path(image), where)
        return image
    content = image if isinstance(image, bytes) else image.read()
    decode_image(content, where)
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / f"{name}.png", content)
    return str(folder / f"{name}.png")


def hidden(image: Image.Image, share: float, seed: int) -> Image.Image:
    """The image with this share of its blocks black."""
    if not share:
        return image
    places = np.random.default_rng(seed).permutation(BLOCKS * BLOCKS)[:round(share * BLOCKS * BLOCKS)]
    kept = np.full(BLOCKS * BLOCKS, 255, dtype=np.uint8)
    kept[places] = 0
    mask = Image.fromarray(kept.reshape(BLOCKS, BLOCKS)).resize(image.size, Image.Resampling.NEAREST)
    return Image.composite(image, Image.new("RGB", image.size), mask)


def with_parts(messages: Sequence[Message], images: int) -> list[dict]:
    """A conversation as processors take it, the images before the first words of the user."""
    parted, left = [], images
    for message in messages:
        parts: list[dict] = [{"type": "text", "text": message["content"]}]
        if message["role"] == "user" and left:
            parts, left = [{"type": "image"}] * left + parts, 0
        parted.append({"role": message["role"], "content": parts})
    return parted


def rendered(processor: Any, messages: Sequence[Message], images: int, answer: str | None = None) -> str:
    """The text of a conversation in the processor's template, up to where an answer begins or with one."""
    talk = with_parts(messages, images)
    if answer is None:
        return processor.apply_chat_template(talk, tokenize=False, add_generation_prompt=True)
    return processor.apply_chat_template([*talk, {"role": "assistant", "content": [{"type": "text", "text": answer}]}],
                                         tokenize=False)


def processed(processor: Any, texts: list[str], images: list[list[Image.Image]], side: str) -> dict[str, Tensor]:
    """Tokens and images of a batch, padded on a side."""
    return dict(processor(text=texts, images=images, padding=True, padding_side=side, return_tensors="pt",
                          add_special_tokens=False))


class VisionCollator:
    """As `PairCollator`, of rows with images: chosen sides, then rejected ones, padded on the right.

    Raises UserError for a row that is longer than `max_length` tokens, its images' included.
    """

    def __init__(self, processor: Any, columns: Sequence[str], max_length: int):
        self.processor, self.columns, self.max_length = processor, tuple(columns), max_length

    def __call__(self, rows: list[TokenRow]) -> dict[str, Tensor]:
        sides = ["chosen"] + ["rejected"] * ("rejected" in rows[0])
        prompts, wholes, images = [], [], []
        for side in sides:
            for row in rows:
                share = row.get("masked") or 0.0 if side == "rejected" else 0.0
                shown = [hidden(read_image(Path(file), row["where"]), share, stable_seed(row["row"], i))
                         for i, file in enumerate(row["files"])]
                prompts.append(rendered(self.processor, row["messages"], len(shown)))
                wholes.append(rendered(self.processor, row["messages"], len(shown), row[side]))
                images.append(shown)
        batch = processed(self.processor, wholes, images, "right")
        before = processed(self.processor, prompts, images, "right")["attention_mask"].sum(1)
        lengths = batch["attention_mask"].sum(1)
        if lengths.max() > self.max_length:
            row = rows[int(lengths.argmax()) % len(rows)]
            raise UserError(f"train.max_length {self.max_length}: {row['where']} has {int(lengths.max())} tokens with "
                            "its images; nothing is ever cut, so raise it or use smaller images")
        batch["completion_mask"] = self._answers(batch, before)
        return batch | {name: torch.tensor([row[name] for row in rows], dtype=torch.float64)
                        for name in self.columns if name in rows[0]}

    def _answers(self, batch: dict[str, Tensor], before: Tensor) -> Tensor:
        """Which tokens are the answer's: from where the prompt ends to the last token that ends a turn."""
        places = torch.arange(batch["input_ids"].shape[1])[None]
        ends = (batch["input_ids"] == turn_end(self.processor)) & batch["attention_mask"].bool()
        ends &= places >= before[:, None]
        last = torch.where(ends.any(1), places.shape[1] - 1 - ends.flip(1).int().argmax(1),
                           batch["attention_mask"].sum(1) - 1)
        return ((places >= before[:, None]) & (places <= last[:, None])).long()
