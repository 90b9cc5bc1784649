"""Renders of rewrites and their scores, on disk: nothing is rendered or scored twice, nor after a kill.

    renders/         one file each, lossless
    renders.jsonl    key, rewrite, seed, file; the key is of the generator to the last weight, how it is sampled, the
                     rewrite and the seed
    scores.jsonl     key of the render, the user's prompt, which rewards saw, and their values (null: no score)

Lines are appended a whole batch at a time. What misses is drawn in the same batches after a kill as without one, since
other samples in a batch may change the last digits of one.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from visalign.config.adapter import AdaptedGenerator
from visalign.errors import UserError
from visalign.generators.base import Generator
from visalign.media.samples import Media, Sample
from visalign.media.video_files import media_file, read_media
from visalign.parallel.sharing import doing
from visalign.sampling.fingerprint import fingerprint, of_pipeline, words
from visalign.sampling.seeds import stable_seed
from visalign.storage.files import write_atomically
from visalign.storage.text_files import read_text
from visalign.trainers.online.scoring import AsyncScorer, RewardSet

_EVERY_FRAME = 10_000


class Wanted(NamedTuple):
    """A render: what the user wrote, what the generator is given, and the seed."""

    prompt: str
    rewrite: str
    seed: int


def render_seeds(seed: int, prompt: str, count: int) -> list[int]:
    """Seeds of a user's prompt: all rewrites of it are rendered with these."""
    return [stable_seed(seed, prompt, k) for k in range(count)]


def render_identity(generator: Generator, steps: int, guidance_scale: float) -> str:
    """A hash of all that a render depends on beside prompt and seed."""
    pipeline = generator.pipeline
    networks = {name: fingerprint(part) for name, part in sorted(pipeline.components.items())
                if isinstance(part, torch.nn.Module)}
    tokenizers = {name: words(part) for name, part in sorted(pipeline.components.items())
                  if part is not None and name.startswith("tokenizer")}
    given = (networks, tokenizers, of_pipeline(pipeline), str(generator.shape), generator.prompt_tokens,
             str(generator.compute_dtype), sorted(generator.call.extra.items()), steps, guidance_scale)
    return hashlib.sha256(repr(given).encode()).hexdigest()


@dataclass
class RenderStore:
    """Renders of one generator and their scores by `rewards`, in a run's folder. made: renders of this session."""

    folder: Path
    generator: Generator
    settings: AdaptedGenerator
    rewards: RewardSet
    made: int = 0

    def __post_init__(self):
        (self.folder / "renders").mkdir(parents=True, exist_ok=True)
        self._identity = render_identity(self.generator, self.settings.steps, self.settings.guidance_scale)
        self._files = {row["key"]: row["file"] for row in read_lines_of(self.folder / "renders.jsonl")}
        self._scorer = AsyncScorer(self.rewards)
        self._scores = {(row["key"], row["prompt"]): row["values"]
                        for row in read_lines_of(self.folder / "scores.jsonl")}

    @property
    def kept(self) -> int:
        """Renders that there are, of all sessions."""
        return len(self._files)

    def key(self, wanted: Wanted) -> str:
        return hashlib.sha256(repr((self._identity, wanted.rewrite, wanted.seed)).encode()).hexdigest()[:40]

    def render(self, wanted: Sequence[Wanted], label: str) -> None:
        """Draw what is not there yet, a batch at a time."""
        by_key = {self.key(each): each for each in wanted}
        missing = [(key, each) for key, each in by_key.items() if key not in self._files]
        size = self.settings.batch_size
        with tqdm(total=len(missing), desc=label, unit="render", delay=2) as progress:
            for start in range(0, len(missing), size):
                part = missing[start:start + size]
                drawn = self.generator.sample([each.rewrite for _, each in part], [each.seed for _, each in part],
                                              steps=self.settings.steps, guidance_scale=self.settings.guidance_scale,
                                              batch_size=size)
                self._keep(part, [media for batch in drawn for media in batch])
                progress.update(len(part))
                doing()

    def _keep(self, part: list[tuple[str, Wanted]], drawn: list[Media]) -> None:
        rows = []
        for (key, each), media in zip(part, drawn, strict=True):
            suffix, content = media_file(media, lossless=True)
            file = f"renders/{len(self._files) + len(rows):06d}{suffix}"
            write_atomically(self.folder / file, content)
            rows.append({"key": key, "rewrite": each.rewrite, "seed": each.seed, "file": file})
        append_lines(self.folder / "renders.jsonl", rows)
        self._files |= {row["key"]: row["file"] for row in rows}
        self.made += len(rows)

    def media(self, wanted: Wanted) -> Media:
        """A render that is there."""
        file = self.folder / self._files[self.key(wanted)]
        return read_media(file, f"run {file}", _EVERY_FRAME)

    def sample(self, wanted: Wanted) -> Sample:
        """What rewards see: the render, with what the user asked for; an easier rewrite would else win."""
        return Sample(wanted.prompt, self.media(wanted), wanted.seed, {"source_prompt": wanted.rewrite})

    def score(self, wanted: Sequence[Wanted], label: str) -> Tensor:
        """Scores float64 [n, D], larger is better, NaN where a reward has none; renders what is missing first."""
        self.render(wanted, label)
        names = [(self.key(each), each.prompt) for each in wanted]
        missing = list({name: each for name, each in zip(names, wanted, strict=True) if name not in self._scores
                        }.items())
        failed, why, allowed = 0, "", self.rewards.settings.max_failures
        for start in range(0, len(missing), self.settings.batch_size):
            part = missing[start:start + self.settings.batch_size]
            batch = self._scorer.result(self._scorer.submit([self.sample(each) for _, each in part]))
            failed, why = failed + int(batch.failed.sum()), why or next(iter(batch.reasons.values()), "")
            if failed > allowed * len(missing):
                raise UserError(f"reward.max_failures {allowed:g}: {failed} of {len(missing)} renders have no score "
                                f"({why})")
            rows = [{"key": key, "prompt": prompt, "values": [v if v == v else None for v in own]}
                    for ((key, prompt), _), own in zip(part, batch.values.double().tolist(), strict=True)]
            append_lines(self.folder / "scores.jsonl", rows)
            self._scores |= {(row["key"], row["prompt"]): row["values"] for row in rows}
            doing()
        found = [[float("nan") if v is None else v for v in self._scores[name]] for name in names]
        return torch.tensor(found, dtype=torch.float64).view(len(names), len(self.rewards.names))


def append_lines(file: Path, rows: list[dict]) -> None:
    """Append rows of JSON at once. Raises UserError when the disk is full."""
    try:
        with file.open("a", encoding="utf-8", errors="backslashreplace") as out:
            out.write("".join(json.dumps(row) + "\n" for row in rows))
    except OSError as error:
        raise UserError(f"run {file}: cannot be written ({error.strerror}); continue with --resume") from None


def write_lines(file: Path, rows: list[dict]) -> None:
    """Rows of JSON, atomically: the file is whole or not there."""
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(file, "".join(json.dumps(row) + "\n" for row in rows).encode())


def read_lines_of(file: Path) -> list[dict]:
    """Rows of JSON; [] where there is no file. A last line that was being written is cut off. Raises UserError."""
    if not file.is_file():
        return []
    whole, newline, rest = read_text(file, f"run {file}").rpartition("\n")
    if rest:
        write_atomically(file, (whole + newline).encode())
    try:
        return [json.loads(line) for line in whole.splitlines()]
    except ValueError:
        raise UserError(f"run {file}: is damaged; delete it and continue with --resume") from None
