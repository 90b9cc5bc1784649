"""`visalign data check`: what is in a preference set, and what is wrong with it."""

import hashlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from visalign.config import DataSettings
from visalign.config.fitting import recipes_for
from visalign.data.bucket_counts import bucket_lines
from visalign.data.preference_pair import PAIR_FRAMES
from visalign.data.preferences import RowCounts, read_pairs
from visalign.data.thumbs import LABEL
from visalign.errors import UserError
from visalign.media.buckets import Buckets
from visalign.media.samples import Media, frames_of
from visalign.media.source_images import content_of, words_of
from visalign.media.video_files import save_sheet

SHEET_ROWS, SHOWN = 12, 20
CLIP_TOKENS = 75
"""Tokens without those that mark beginning and end."""


@dataclass
class Summary:
    """Counts of one preference set.

    broken: a sentence for each row that cannot be used; contradictory: one for each that reverses an earlier pair;
    problem: why the set as it is cannot be trained on; edits: pairs and captioned media with source images; wordings:
    how many pairs and captioned media have how many prompts each; buckets: lines about the sizes at which its images
    would be learnt; labels: of single samples with a label, how many are good (True), bad (False), or neither (None).
    """

    source: str
    pairs: int = 0
    captioned: int = 0
    edits: int = 0
    ties: int = 0
    prompts: set[str] = field(default_factory=set)
    duplicates: int = 0
    same_image: int = 0
    long_prompts: int = 0
    sizes: Counter = field(default_factory=Counter)
    wordings: Counter = field(default_factory=Counter)
    contradictory: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    problem: str | None = None
    sheet: Path | None = None
    buckets: list[str] = field(default_factory=list)
    labels: Counter = field(default_factory=Counter)

    def text(self) -> str:
        common = ", ".join(f"{w}x{h} ({n})" for (w, h), n in self.sizes.most_common(4))
        alone = f"{self.captioned} images or videos with captions, for objective sft; " if self.captioned else ""
        alone = alone.replace("captions, for objective sft", "captions") if self.labels else alone
        lines = [f"{self.source}: {alone}{self.pairs} pairs of {len(self.prompts)} prompts, {self.ties} ties dropped",
                 f"sizes: {common or 'none'}",
                 *self.buckets,
                 *self._thumbs(),
                 *self._captions(),
                 *[f"with source images: {self.edits}; a prompt is its words and those images"] * bool(self.edits),
                 f"duplicate pairs: {self.duplicates}; pairs whose two images are the same: {self.same_image}",
                 f"prompts that CLIP encoders truncate (more than {CLIP_TOKENS} tokens): {self.long_prompts}",
                 *_listed("contradictory pairs", self.contradictory), *_listed("broken rows", self.broken)]
        if self.problem:
            lines.append(self.problem)
        if self.sheet:
            lines.append(f"contact sheet ({'source, ' * bool(self.edits)}chosen left, rejected right): {self.sheet}")
        return "\n".join(lines)

    def _thumbs(self) -> list[str]:
        if not self.labels:
            return []
        good, bad, neither = (self.labels[kind] for kind in (True, False, None))
        use = "for objective diffusion_kto" if good and bad else f"for {recipes_for('images')}" if good else \
            "which nothing learns from without good ones"
        without = f", {neither} whose label is neither" if neither else ""
        return [f"thumbs (column {LABEL}): {good} good, {bad} bad{without}"
                + (f", {use}" if good or bad else "; they are learnt from as captioned images")]

    def _captions(self) -> list[str]:
        if max(self.wordings, default=1) == 1:
            return []
        made, media = sum(many * count for many, count in self.wordings.items()), self.wordings.total()
        return [f"captions: {made} for {media} pairs or media, {made / media:.1f} each, at most "
                f"{max(self.wordings)}; each visit draws one"]


def _listed(what: str, sentences: list[str]) -> list[str]:
    more = [f"  ... and {len(sentences) - SHOWN} more"] if len(sentences) > SHOWN else []
    return [f"{what}: {len(sentences)}", *(f"  {sentence}" for sentence in sentences[:SHOWN]), *more]


def check_pairs(settings: DataSettings, sheet: Path | None = None, buckets: Buckets | None = None) -> Summary:
    """Read every row of one source, decode every image and video.

    Raises UserError only when the source itself cannot be read.
    """
    summary, counts = Summary(str(settings.path)), RowCounts()
    sizes: Counter = Counter()
    earlier: dict[tuple, tuple[str, str]] = {}
    shown: list[tuple[str, list[Media]]] = []

    def note(error: UserError) -> None:
        summary.broken.append(str(error))

    try:
        for pair in read_pairs(settings, counts, on_bad_row=note, compared=False):
            try:
                media, sources = pair.media(), pair.source_images()
            except UserError as error:
                note(error)
                continue
            asked = content_of(pair.asked)
            summary.prompts.add(asked)
            summary.edits += bool(sources)
            summary.wordings[1 + len(pair.captions)] += 1
            summary.sizes.update(frames_of(each, 1)[0].size for each in media)
            if buckets and isinstance(media[0], Image.Image):
                sizes[buckets.size_for(media[0].size[::-1])] += pair.repeats
            if len(shown) < SHEET_ROWS:
                shown.append((pair.prompt, [*sources, *media]))
            if len(media) == 1:
                summary.captioned += 1
                continue
            first, second = map(pair_digest, media)
            summary.pairs += 1
            summary.same_image += first == second
            preferred, there = earlier.setdefault((asked, *sorted((first, second))), (first, pair.where))
            summary.duplicates += preferred == first and there != pair.where
            if preferred != first:
                summary.contradictory.append(f"{pair.where} prefers the opposite of {there}")
    except UserError as error:
        if not summary.broken and not counts.ties:
            raise
        summary.problem = str(error)
    if summary.pairs and summary.pairs == summary.same_image:
        summary.problem = "chosen and rejected are the same image in all pairs, so there is nothing to learn"
    summary.buckets = bucket_lines(sizes, buckets) if sizes else []
    summary.ties, summary.labels = counts.ties, counts.labels
    summary.long_prompts = count_long(set(map(words_of, summary.prompts)))
    if sheet and shown:
        save_sheet(shown, sheet, cell=128)
        summary.sheet = sheet
    return summary


def count_long(prompts: Iterable[str]) -> int:
    """How many prompts have more tokens, by CLIP's tokenizer, than its text encoders read."""
    candidates = [prompt for prompt in prompts if len(prompt.encode()) > CLIP_TOKENS]  # a token has at least one byte
    if not candidates:
        return 0
    from open_clip.tokenizer import SimpleTokenizer

    tokenizer = SimpleTokenizer()
    return sum(len(tokenizer.encode(prompt)) > CLIP_TOKENS for prompt in candidates)


def pair_digest(media: Media) -> str:
    digest = hashlib.sha256()
    for frame in frames_of(media, PAIR_FRAMES):
        digest.update(frame.tobytes())
    return digest.hexdigest()
