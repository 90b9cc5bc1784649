"""A language model that rewrites prompts, and the gate that a rewrite must pass: else the user's own prompt is used."""

import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import torch
from pydantic import ValidationError

from visalign.config.adapter import GateSettings, RewriteSettings, SavedRewriting
from visalign.errors import UserError
from visalign.generators.base import Generator
from visalign.generators.prompt_length import limits, unread_tokens
from visalign.language.sampling import Answerer, sample_answers
from visalign.media.answers import holds_control_tokens
from visalign.media.words import words_in
from visalign.rewards.text.embedding import Relevance
from visalign.storage.files import write_atomically
from visalign.storage.language_models import load_language_model
from visalign.storage.text_files import read_text

REWRITE_FILE = "rewrite.json"
_TAGGED = re.compile(r"<PROMPT>(.*?)</PROMPT>", re.DOTALL)
_TAG = re.compile(r"[<>{}\[\]|`]")
_QUOTES = "\"\u201c\u201d\u201e\u00ab\u00bb"


class Rewritten(NamedTuple):
    """The user's prompt, what the generator is given, what the model wrote, and why that was not used (None: it was).
    """

    prompt: str
    used: str
    written: str
    refused: str | None


def tagged_rewrites(text: str) -> list[str]:
    """What stands in <PROMPT>...</PROMPT>, each on one line."""
    return [" ".join(found.split()) for found in _TAGGED.findall(text)]


def as_rewrite(text: str) -> str:
    """An answer as a rewrite: what stands in its only <PROMPT>...</PROMPT>, else all of it; on one line, without quotes
    around the whole."""
    tagged = tagged_rewrites(text)
    plain = tagged[0] if len(tagged) == 1 else " ".join(text.split())
    inner = plain.strip(_QUOTES).strip() if plain[:1] in _QUOTES and plain[-1:] in _QUOTES else plain
    return plain if any(mark in inner for mark in _QUOTES) else inner


@dataclass
class Gate:
    """settings, and the generator whose tokenizers say what it reads of a rewrite (None: not asked)."""

    settings: GateSettings
    generator: Generator | None
    device: str = "cpu"
    _known: dict = field(default_factory=dict)

    def __post_init__(self):
        self.encoder = Relevance(self.settings.encoder, name="gate.encoder", device=self.device)
        self.encoder.check()

    def similarities(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        """Cosine of each prompt and its rewrite."""
        new = list(dict.fromkeys(text for pair in pairs for text in pair if text not in self._known))
        if new:
            with torch.no_grad():
                self._known |= dict(zip(new, self.encoder.embed(new)[0], strict=True))
        return [float(self._known[a] @ self._known[b]) for a, b in pairs]

    def refusals(self, pairs: Sequence[tuple[str, str]]) -> list[str | None]:
        """Why each rewrite of (prompt, rewrite) must not be used, or None. An unchanged prompt always passes."""
        found = [None if prompt == rewrite else self._of_form(prompt, rewrite) for prompt, rewrite in pairs]
        open_ = [i for i, (prompt, rewrite) in enumerate(pairs) if found[i] is None and prompt != rewrite]
        for i, reason in zip(open_, self._unread([pairs[i][1] for i in open_]), strict=True):
            found[i] = reason
        open_ = [i for i in open_ if found[i] is None]
        for i, cosine in zip(open_, self.similarities([pairs[i] for i in open_]), strict=True):
            if cosine < self.settings.similarity:
                found[i] = "another meaning"
        return found

    def _of_form(self, prompt: str, rewrite: str) -> str | None:
        if not rewrite.strip():
            return "empty"
        if len(words_in(rewrite)) > self.settings.max_words:
            return "too many words"
        if holds_control_tokens(rewrite) or any(mark not in prompt for mark in _TAG.findall(rewrite)):
            return "tags"
        return "quotes" if any(mark in rewrite and mark not in prompt for mark in _QUOTES) else None

    def _unread(self, rewrites: list[str]) -> list[str | None]:
        """Whether the generator would cut a rewrite."""
        if self.generator is None or not rewrites or not limits(self.generator):
            return [None] * len(rewrites)
        cut = zip(*unread_tokens(self.generator, rewrites).values(), strict=True)
        decide = max if self.settings.read_by == "every" else min
        return ["more tokens than the generator reads" if decide(over) else None for over in cut]


@dataclass(frozen=True)
class Rewriter:
    """answerer: the model with the system's text; settings: how it is asked; gate: what its answers must pass."""

    answerer: Answerer
    settings: RewriteSettings
    gate: Gate

    def rewrite(self, prompts: Sequence[str], label: str = "rewriting", seed: int = 0) -> list[Rewritten]:
        """A rewrite of each prompt, the prompt itself where its rewrite does not pass the gate."""
        asked = [prompt for prompt in dict.fromkeys(prompts) if not holds_control_tokens(prompt)]
        answers = sample_answers(self.answerer, asked, 1, self.settings, seed=seed, label=label) if asked else []
        written = {prompt: as_rewrite(str(answer.answer)) for prompt, answer in zip(asked, answers, strict=True)}
        reasons = dict(zip(asked, self.gate.refusals([(prompt, written[prompt]) for prompt in asked]), strict=True))
        return [Rewritten(prompt, prompt, "", "control tokens in the prompt") if prompt not in written else
                Rewritten(prompt, prompt if reasons[prompt] else written[prompt], written[prompt], reasons[prompt])
                for prompt in prompts]


def fallbacks(rewritten: Sequence[Rewritten]) -> dict[str, int]:
    """How many fell back to the user's prompt, by reason."""
    return dict(Counter(each.refused for each in rewritten if each.refused).most_common())


def fallbacks_in_words(rewritten: Sequence[Rewritten]) -> str:
    reasons = fallbacks(rewritten)
    told = ", ".join(f"{reason} {count}" for reason, count in reasons.items())
    return f"{sum(reasons.values())} of {len(rewritten)} rewrites fell back to the user's prompt" + (
        f" ({told})" if told else "")


def save_rewriting(saved: SavedRewriting, folder: Path) -> None:
    write_atomically(folder / REWRITE_FILE, (saved.model_dump_json(indent=1) + "\n").encode())


def find_rewriter(source: Path) -> tuple[Path, SavedRewriting]:
    """The folder of an exported rewriter and its settings; source: it, or the run. Raises UserError."""
    source = source.expanduser()
    folder = next((each for each in (source, source / "export") if (each / REWRITE_FILE).is_file()), None)
    if folder is None:
        unfinished = source / "config.yaml"
        raise UserError(f"--rewrite {source}: holds no {REWRITE_FILE}, " + (
            "so its run is not finished; continue it with `visalign lm adapt ... --resume`" if unfinished.is_file() else
            "which a run of `visalign lm adapt` leaves in its folder export"))
    where = f"--rewrite {folder / REWRITE_FILE}"
    try:
        return folder, SavedRewriting.model_validate(json.loads(read_text(folder / REWRITE_FILE, where)))
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(f"{where}: {'.'.join(map(str, first['loc']))} is not what a run writes ({first['msg']})"
                        ) from None
    except (ValueError, RecursionError):
        raise UserError(f"{where}: is not JSON") from None


def load_rewriter(source: Path, generator: Generator | None, device: str = "cpu") -> Rewriter:
    """An exported rewriter. Raises UserError."""
    folder, saved = find_rewriter(source)
    return rewriter_of(str(folder), saved.rewrite, Gate(saved.gate, generator, device), device)


def rewriter_of(source: str, settings: RewriteSettings, gate: Gate, device: str,
                where: str = "--rewrite") -> Rewriter:
    """Any language model as a rewriter, such as one that was not trained for it."""
    model = load_language_model(source, where=where)
    model.model.to(device)
    return Rewriter(Answerer(model.model, model.tokenizer, settings.system), settings, gate)
