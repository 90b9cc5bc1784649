"""How all judges ask: the cache first, then the model; and comparing in both orders."""

import json
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from PIL import Image

from visalign.errors import UserError
from visalign.media.samples import Sample
from visalign.rewards.base import RewardModel, Scores
from visalign.rewards.pairwise import Failure, matches, win_rates
from visalign.rewards.sizes import of_transformers
from visalign.rewards.vlm.questions import Asker, Question, Reply
from visalign.rewards.web.address import check_variable, clean_url
from visalign.storage.sqlite_cache import SqliteCache
from visalign.validation.ranges import AnswerTokens, Few, Retries, Seconds, Temperature, Together


@dataclass
class AskingJudge(RewardModel):
    """Base of judges that ask a model in words.

    url: of an OpenAI-compatible endpoint, up to and including `/v1`; or source: a transformers model's folder or hub
    id. model: the endpoint's name of the model. key_env: the environment variable that holds the API key; keys are
    read from nowhere else. timeout: seconds for one whole reply. retries: after the first try. concurrency: questions
    in flight. logprobs: ask for the choices' probabilities; turn it off for endpoints without them.
    cache: an SQLite file that processes may share; null for none. frames: of a video, each sent as an image.
    """

    url: str | None = None
    source: str | None = None
    model: str = "default"
    key_env: str = "OPENAI_API_KEY"
    timeout: Seconds = 120.0
    retries: Retries = 4
    concurrency: Together = 8
    max_tokens: AnswerTokens = 1024
    temperature: Temperature = 0.0
    logprobs: bool = True
    cache: str | None = "~/.cache/visalign/answers.sqlite"
    frames: Together = 8

    modalities = frozenset({"image", "video"})
    needs_prompt = True

    def __post_init__(self):
        super().__post_init__()
        if bool(self.url) == bool(self.source):
            raise ValueError("set exactly one of url (an endpoint) and source (a local model)")
        if self.url:
            self.url = clean_url(self.url)
        check_variable("key_env", self.key_env, "key")
        if not self.model.strip():
            raise ValueError("model is empty; give the name that the server knows the model by")
        if self.source and self.temperature:
            raise ValueError("temperature is for endpoints; a local model answers with its likeliest words")

    def check(self) -> None:
        self.answers  # noqa: B018  opening the file is the check
        if self.source:
            from visalign.rewards.hub_clip import check_hub_or_folder

            check_hub_or_folder(self.source, "config.json", self.name)
        else:
            self.asker.check(self.name)

    def to(self, device: str) -> None:
        super().to(device)
        if self.source and "asker" in self.__dict__:
            self.asker.to(device)

    def held_bytes(self) -> int | None:
        return 0 if self.url else of_transformers("AutoModelForImageTextToText", self.source, None)

    @cached_property
    def asker(self) -> Asker:
        if self.url:
            from visalign.rewards.vlm.http import HttpAsker

            return HttpAsker(url=self.url, model=self.model, key_env=self.key_env, timeout=self.timeout,
                             retries=self.retries, concurrency=self.concurrency, max_tokens=self.max_tokens,
                             temperature=self.temperature, logprobs=self.logprobs)
        from visalign.rewards.vlm.local import LocalAsker

        return LocalAsker(self.source, self.device, self.max_tokens)

    @cached_property
    def answers(self) -> SqliteCache | None:
        return SqliteCache(self.cache) if self.cache else None

    def ask(self, questions: list[Question], usable: Callable[[Reply], object]) -> list[Reply | Failure]:
        """One outcome per question; answers for which `usable` does not raise ValueError are kept in the cache."""
        about = {"judge": type(self).__name__, "model": self.model, "source": self.url or contents_of(self.source),
                 "max_tokens": self.max_tokens, "temperature": self.temperature, "logprobs": self.logprobs}
        keys = [question.key(about) for question in questions]
        known = self.answers.get(keys) if self.answers else {}
        outcomes: list[Reply | Failure | None] = [stored(known.get(key)) for key in keys]
        open_places = [i for i, outcome in enumerate(outcomes) if outcome is None]

        def keep(j: int, answer: Reply) -> None:
            try:
                usable(answer)
            except ValueError:
                return
            if self.answers:
                self.answers.put(keys[open_places[j]], json.dumps(asdict(answer)))

        if open_places:
            fresh = self.asker.ask([questions[i] for i in open_places], keep)
            for i, outcome in zip(open_places, fresh, strict=True):
                outcomes[i] = outcome
        return outcomes

    def images(self, sample: Sample) -> tuple[Image.Image, ...]:
        return tuple(sample.frames(self.frames))

    def read_noted(self, questions: list[Question],
                   read: Callable[[Reply], Any]) -> list[tuple[Any | Failure, str | None]]:
        """What `read` makes of each answer, and a note on how it was asked (or None).

        A Failure where there is no answer, or where `read` raised ValueError.
        """
        found: list[tuple[Any | Failure, str | None]] = []
        for outcome in self.ask(questions, read):
            note = None
            if isinstance(outcome, Reply):
                note = outcome.note
                try:
                    outcome = read(outcome)
                except ValueError as error:
                    outcome = Failure(str(error))
            found.append((outcome, note))
        return found


@dataclass
class ComparingJudge(AskingJudge):
    """Base of judges that say which of two is better; every pair is asked in both orders.

    As a reward it gives each sample its mean probability of winning against the other samples of its prompt in the
    same call (at most `opponents` of them): answers that change with the order count as ties.
    """

    opponents: Few = 7

    dimensions = ("win_rate",)
    needs_group = True
    score_range = (0.0, 1.0)

    @abstractmethod
    def question(self, first: Sample, second: Sample) -> Question:
        ...

    @abstractmethod
    def read(self, answer: Reply) -> float:
        """Probability that the first is better. Raises ValueError for an answer that does not say."""

    def questions(self, pairs: list[tuple[Sample, Sample]]) -> list[Question]:
        """Of each pair, in the one order and in the other."""
        return [self.question(*order) for pair in pairs for order in (pair, pair[::-1])]

    def compare(self, pairs: list[tuple[Sample, Sample]]) -> list[float | Failure]:
        """Probability that the first of each pair is better, averaged over both orders."""
        return [outcome for outcome, _ in self.compare_noted(pairs)]

    def compare_noted(self, pairs: list[tuple[Sample, Sample]]) -> list[tuple[float | Failure, str | None]]:
        """As `compare`, with a note on how it was asked, or None."""
        read = self.read_noted(self.questions(pairs), self.read)
        return [(both_orders(there, back), noted or noted_back)
                for (there, noted), (back, noted_back) in zip(read[::2], read[1::2], strict=True)]

    def score_batch(self, samples: list[Sample]) -> Scores:
        met = matches(samples, self.opponents)
        noted = self.compare_noted([(samples[i], samples[j]) for i, j in met])
        return win_rates(len(samples), met, [outcome for outcome, _ in noted], [note for _, note in noted])


def contents_of(source: str) -> list:
    """Identifies a local model by its folder and its content, so that another model in it is another judge."""
    folder = Path(source).expanduser()
    files = sorted(file for file in folder.iterdir() if file.is_file()) if folder.is_dir() else []
    return [str(folder.resolve()) if files else source,
            *([file.name, file.stat().st_size, file.stat().st_mtime_ns] for file in files)]


def stored(text: str | None) -> Reply | None:
    """An answer as the cache keeps it; None where there is none, or one that an older visalign wrote."""
    try:
        return Reply(**json.loads(text)) if text else None
    except (ValueError, TypeError):
        return None


def both_orders(there: float | Failure, back: float | Failure) -> float | Failure:
    """Probability that the first is better from its probability in first and the other's in first place.

    A judge that names another winner when the order is swapped prefers a position, not a sample: that is a tie.
    """
    for outcome in (there, back):
        if isinstance(outcome, Failure):
            return outcome
    again = 1 - back
    return (there + again) / 2 if (there - 0.5) * (again - 0.5) > 0 else 0.5


def check_template(text: str, where: str, words: tuple[str, ...]) -> str:
    """The template, when it holds every word. Raises UserError naming the first that is missing."""
    for word in words:
        if word not in text:
            raise UserError(f"{where}: the template has no {word}")
    return text
