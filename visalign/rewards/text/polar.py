"""POLAR: how close an answer is to a reference answer, by a model trained to tell policies apart (arXiv 2507.05197).

    text    prompt \n reference <|reward|> prompt \n answer [UNUSED_TOKEN_130]
    score   the model's one output where the text ends; no unit and no zero: it compares answers to one prompt

The text is as the published client makes it (InternLM/POLAR, `RewardModelClient`). Differs from it in: texts that are
too long are not scored, where the client cuts them, and the two marks are taken out of prompt, reference and answer.
Its published example, "What is the capital of China?" with the reference "Beijing.", gives "Beijing." -0.57 and
"Shanghai." -11.03; that needs the published weights and their code, with which this has not been run.
"""

import functools
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from visalign.errors import UserError
from visalign.media.samples import Sample
from visalign.rewards.base import RewardModel, Scores
from visalign.storage.pretrained import check_tokenizer, load_whole
from visalign.storage.text_files import read_lines
from visalign.storage.weights import read_json
from visalign.validation.ranges import AnswerTokens, BatchSize

BETWEEN, END = "<|reward|>", "[UNUSED_TOKEN_130]"


@dataclass
class Polar(RewardModel):
    """How close an answer is to a reference answer, by POLAR; within a prompt only.

    source: a folder with the model and its own code, which runs only with trust_remote_code: true. references: a JSONL
    file with prompt and reference, for answers that bring none in a column `reference`; without one there is no score.
    max_tokens: longer texts are not scored.
    """

    source: str
    trust_remote_code: bool = False
    references: str | None = None
    max_tokens: AnswerTokens = 16384
    batch_size: BatchSize = field(default=8, kw_only=True)

    modalities = frozenset({"text"})
    needs_prompt = True

    def check(self) -> None:
        folder, where = Path(self.source).expanduser(), f"reward {self.name}"
        if not folder.is_dir():
            raise UserError(f"{where}: source {self.source}: there is no such folder; POLAR is loaded from a folder "
                            "alone, so that the code that runs is the code that was read")
        if not self.trust_remote_code:
            raise UserError(f"{where}: {folder} is loaded by running the Python code in it; read that code, and set "
                            "trust_remote_code: true where you trust it")
        if not (folder / "config.json").is_file():
            raise UserError(f"{where}: {folder} has no config.json, so it is no folder of transformers")
        if "AutoModel" not in (read_json(folder / "config.json", where).get("auto_map") or {}):
            raise UserError(f"{where}: {folder} brings no code of its own (auto_map with AutoModel in config.json), so "
                            "it is no POLAR model; classifiers are scored by `sequence`")
        check_tokenizer(folder, where)
        self.known_references  # noqa: B018  reading them is the check

    @functools.cached_property
    def known_references(self) -> dict[str, str]:
        """References by prompt. Raises UserError naming the file and the line that is wrong."""
        if self.references is None:
            return {}
        where, found = f"reward {self.name}: references {self.references}", dict[str, str]()
        for number, line in enumerate(read_lines(Path(self.references).expanduser(), where), 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError:
                row = None
            texts = [row.get(name) for name in ("prompt", "reference")] if isinstance(row, dict) else [None]
            if not all(isinstance(text, str) and text.strip() for text in texts):
                raise UserError(f"{where}: line {number} is no JSON object with texts as prompt and reference")
            if found.setdefault(texts[0], texts[1]) != texts[1]:
                raise UserError(f"{where}: line {number} has another reference for a prompt that came before")
        return found

    def load(self) -> nn.Module:
        from transformers import AutoModel, AutoTokenizer

        where, folder = f"reward {self.name}", str(Path(self.source).expanduser())
        self.tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
        for mark in (BETWEEN, END):
            if len(self.tokenizer(mark, add_special_tokens=False)["input_ids"]) != 1:
                raise UserError(f"{where}: the tokenizer of {folder} has no token {mark}, so it is not POLAR's")
        return load_whole(AutoModel, folder, where, trust_remote_code=True, dtype=torch.float32)

    def refusal(self, sample: Sample) -> str | None:
        return super().refusal(sample) or (None if self.reference_of(sample) else "no reference answer (a column "
                                           "reference beside the answer, or the reward's `references`)")

    def reference_of(self, sample: Sample) -> str | None:
        own = sample.known.get("reference")
        return own if isinstance(own, str) and own.strip() else self.known_references.get(sample.prompt)

    def score_batch(self, samples: list[Sample]) -> Tensor | Scores:
        network = self.network
        rows = [self.tokenizer(self.text_of(sample))["input_ids"] for sample in samples]
        remarks = {i: f"{len(row)} tokens, more than max_tokens {self.max_tokens}" for i, row in enumerate(rows)
                   if len(row) > self.max_tokens}
        values = torch.full((len(samples), 1), float("nan"))
        kept = [i for i in range(len(rows)) if i not in remarks]
        if kept:
            given = self.tokenizer.pad({"input_ids": [rows[i] for i in kept]}, return_tensors="pt").to(self.device)
            values[kept] = _one_a_row(network(**given)[0], len(kept), self.name)
        return Scores(values, remarks)

    def text_of(self, sample: Sample) -> str:
        """What the model reads of a sample with its reference."""
        prompt, reference, answer = (_without_marks(text) for text in (
            sample.prompt, self.reference_of(sample), str(sample.answer)))
        return f"{prompt}\n{reference}{BETWEEN}{prompt}\n{answer}{END}"


def _without_marks(text: str | None) -> str:
    return (text or "").replace(BETWEEN, " ").replace(END, " ")


def _one_a_row(output: Any, rows: int, name: str) -> Tensor:
    """[rows, 1] on the CPU. Raises UserError for a model that gives anything else."""
    if not isinstance(output, Tensor) or output.numel() != rows:
        raise UserError(f"reward {name}: the model gives no single number a text, so it is not POLAR")
    return output.float().cpu().view(rows, 1)
