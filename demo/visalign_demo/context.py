"""What every tab shares: models, their worker thread, votes, rewards, and limits on what one client may ask for."""

import contextlib
import hashlib
import ipaddress
import logging
import random
import tempfile
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import gradio as gr
from starlette.datastructures import Headers

from visalign.data.generations import find_generations
from visalign.data.prompts import read_prompts
from visalign.errors import UserError
from visalign.evaluation.held_out import load_features
from visalign.evaluation.sources import SampleSource
from visalign.generators import locate_model
from visalign.generators.files.embedded import EMBEDDED_PROMPTS
from visalign.generators.files.locating import sampling_for
from visalign.generators.hardware.devices import pick_device
from visalign.jobs.evaluate import sources_of
from visalign.language.answer_sources import AnswerSource
from visalign.reports import render_page as render_page
from visalign.rewards import FeatureExtractor, Reward
from visalign.rewards.joint.persons import Persons
from visalign.rewards.registry import build_reward, check_reward, load_rewards
from visalign.votes import VoteDatabase
from visalign.votes.asking import Questioner
from visalign_demo.claims import Claims, client_in
from visalign_demo.media_store import MediaStore
from visalign_demo.model_worker import Job, ModelWorker
from visalign_demo.pair_queue import PairPlan, PairQueue
from visalign_demo.source_choice import SourceChoice

_log = logging.getLogger("visalign.demo")
HERE = Path(__file__).parent
TEXT_REWARDS = ("brevity", "repetition")
"""What votes on answers are compared with where nothing is said: how far people, too, like them short."""
VOTES_A_MINUTE, CALLS_A_MINUTE = 6000, 600
"""Calls of one endpoint from one address, which several people may share; costly endpoints have limits of their own."""
UPLOAD_ROOM = 4 * 2**30
"""Bytes that all uploads together may take; the oldest are deleted first."""


@dataclass(frozen=True)
class DemoSettings:
    """models: {name: source}; model_settings: `key=value` of all of them. folder: votes and their media. runs: where
    run folders lie. pairs: matchups generated ahead of voting. rollouts: folders of `visalign votes draw` to vote on.
    anchors: share of ballots that are anchors. ask_by: the reward by which every other pair is one that tells most of
    the voter. steps, guidance_scale, prompts: None means a run's. keep: models held in
    memory at once. allowed_hosts: names by which this server may be reached beside its own. trusted_proxies: addresses
    and networks whose X-Forwarded headers are believed. root_path: where a proxy shows it, such as /demo."""

    models: dict[str, str]
    model_settings: tuple[str, ...] = ()
    folder: Path = Path("demo-votes")
    runs: Path = Path("runs")
    host: str = "127.0.0.1"
    port: int = 7860
    user: str | None = None
    password: str | None = None
    prompts: str | None = None
    steps: int | None = None
    guidance_scale: float | None = None
    rewards: tuple[str, ...] = ("tiny-reward", "tiny-clip")
    features: str = "tiny-clip"
    pairs: int = 60
    rollouts: tuple[Path, ...] = ()
    anchors: float = 0.0
    ask_by: str | None = None
    allow_train: bool = False
    device: str = "auto"
    upload_megabytes: int = 64
    keep: int = 2
    allowed_hosts: tuple[str, ...] = ()
    trusted_proxies: tuple[str, ...] = ()
    root_path: str = ""

    @property
    def root(self) -> str:
        return self.root_path.rstrip("/")


@dataclass
class Demo:
    """Everything behind the page. Building one checks what can be checked without loading a model."""

    settings: DemoSettings
    limits: "RequestLimits" = field(init=False)

    def __post_init__(self):
        settings = self.settings
        found, config = sources_of(settings.models, settings.model_settings)
        self.sources: dict[str, SampleSource] = {source.name: source for source in found}
        self.modality = upload_modality(found)
        if self.modality == "text":
            config, self.settings = None, (settings := for_texts(settings))
        for spec in settings.rewards:
            check_reward(spec)
        if self.modality != "text":  # nothing here embeds answers
            load_features(settings.features, setting="features")
        self.prompts = self._prompts(found, config)
        if not self.prompts:
            raise UserError("demo: no generation here has a prompt; give --prompts FILE with one a line")
        for source in found:
            source.check_prompts(self.prompts, f"demo: {source.name}: prompt")
        self.steps, self.guidance_scale = self._sampling(found, config)
        for source in found:
            source.check_scale(self.guidance_scale)
        persons = self._persons()
        self.book = VoteDatabase(settings.folder)
        self.questioner = Questioner(persons, self.book) if persons else None
        self.model_worker = ModelWorker(settings.device, settings.keep)
        self.limits = RequestLimits(time.monotonic)
        self.running: dict[str, Job] = {}
        self.page: gr.Blocks | None = None
        self._scratch = tempfile.TemporaryDirectory(prefix="visalign-demo-")
        self.scratch = Path(self._scratch.name)
        self.media_store = MediaStore(self.scratch / "shown", self.book.media)
        self.edits = SourceChoice(self.prompts, self.media_store)
        self.claims = Claims(self.scratch / "uploads", UPLOAD_ROOM)
        self.pool = PairQueue(self.model_worker, self.book, self.recipe(), settings.pairs, settings.rollouts,
                              settings.anchors, self.questioner)

    def _persons(self) -> Persons | None:
        """Who knows what voters may be. Raises UserError for a reward that knows no users, and for texts."""
        if self.settings.ask_by is None:
            return None
        if self.modality == "text":
            raise UserError(f"demo: --ask-by {self.settings.ask_by}: rewards that know users read images and videos, "
                            "and these models' generations are texts; leave it out")
        reward = build_reward(self.settings.ask_by, self.reward_device)
        reward.check()
        return Persons(reward, f"demo: --ask-by {self.settings.ask_by}")

    def _prompts(self, sources: list[SampleSource], config) -> list[str]:
        chosen = self.settings.prompts or (config.eval.prompts if config else None)
        stored = [source for source in sources if source.load is None]
        if chosen is None and stored:
            return list({entry.group: entry.asked for entry in find_generations(stored[0].source)
                         if entry.prompt}.values())
        own = [EMBEDDED_PROMPTS[source.model.source] for source in sources
               if source.model and source.model.source in EMBEDDED_PROMPTS]
        return list(dict.fromkeys(read_prompts(chosen or (f"{own[0]}:held_out" if own else "families:all"))))

    def _sampling(self, sources: list[SampleSource], config) -> tuple[int, float]:
        """As the command says, else as the run was measured, else as the first model was made for."""
        settings, known = self.settings, config.eval if config else None
        steps = settings.steps or (known.steps if known else None)
        scale = settings.guidance_scale if settings.guidance_scale is not None else \
            known.guidance_scale if known else None
        model = config.model if config else next((source.model for source in sources if source.model), None)
        if model is None:  # stored generations alone: what a training started here is measured with
            return steps or 28, 4.5 if scale is None else scale
        sampling = sampling_for(model, steps, scale)
        return sampling.steps, sampling.guidance_scale

    def recipe(self) -> PairPlan:
        """How matchups are made for voting."""
        return PairPlan(list(self.sources.values()), self.prompts, self.steps, self.guidance_scale)

    @cached_property
    def rewards(self) -> list[Reward]:
        return load_rewards(list(self.settings.rewards), self.reward_device)

    @cached_property
    def features(self) -> FeatureExtractor:
        extractor = load_features(self.settings.features, setting="features")
        extractor.to(self.reward_device)
        return extractor

    @property
    def reward_device(self) -> str:
        return str(pick_device(self.settings.device))

    def admit(self, address: str, name: str) -> None:
        """Count a call of an endpoint. Raises UserError when one address calls it too often."""
        most = VOTES_A_MINUTE if name.startswith(("vote_", "look", "ballot")) else CALLS_A_MINUTE
        self.limits.check(network_of(address), f"call {name}", most)

    def forget(self, session: str) -> None:
        """A page was closed: what it waited for is no longer needed."""
        if (job := self.running.pop(session, None)) is not None:
            job.cancel()

    def random_prompt(self, but: str) -> str:
        """A prompt other than `but`, where there is one."""
        return random.choice([prompt for prompt in self.prompts if prompt != but] or self.prompts)

    def media_url(self, name: str) -> str:
        return f"{self.settings.root}/media/{name}"


def for_texts(settings: DemoSettings) -> DemoSettings:
    """The settings, with rewards of texts where the defaults are of images. Raises UserError for drawn images."""
    if settings.rollouts:
        raise UserError("demo: --drawn names samples of an image or video model, and the models' generations are texts")
    default = DemoSettings.rewards == tuple(settings.rewards)
    return replace(settings, rewards=TEXT_REWARDS) if default else settings


def upload_modality(sources: list[SampleSource]) -> str:
    """`image`, `video` or `text`, which all must share. Raises UserError when they do not."""
    found = {}
    for source in sources:
        if isinstance(source, AnswerSource):
            raise UserError(f"demo: {source.name} is a language model; the demo shows answers that are there, so make "
                            f"them with `visalign lm generate {source.source} PROMPTS --out answers` and name that "
                            "folder")
        if source.load is None:
            entries = find_generations(source.source)
            found[source.name] = next((entry for entry in entries if not entry.problem), entries[0]).modality()
        elif source.model is not None:
            found[source.name] = locate_model(source.model).family.modality
    if len(set(found.values())) > 1:
        listed = ", ".join(f"{name} makes {kind}s" for name, kind in found.items())
        kinds = " and ".join(f"{kind}s" for kind in sorted(set(found.values())))
        raise UserError(f"demo: {kinds} cannot be compared with each other ({listed})")
    return next(iter(found.values()), "image")


def render_fragment(template: str, **values) -> str:
    """A template of this package; every text is escaped."""
    return render_page(template, HERE / "templates", **values).decode()


def number_within(value: object, name: str, low: float, high: float) -> float:
    """A number from a request. Raises UserError for anything else, including NaN."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise UserError(f"{name} must be a number from {low:g} to {high:g}, not {str(value)[:40]!r}.")
    return float(value)


def whole_in(value: object, name: str, low: int, high: int) -> int:
    """A whole number from a request. Raises UserError for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high or value != int(value):
        raise UserError(f"{name} must be a whole number from {low} to {high}, not {str(value)[:40]!r}.")
    return int(value)


MOST_CLIENTS, LONGEST_LIMIT = 50_000, 3600


class RequestLimits:
    """How often one client may ask for something: `most` times in `seconds`."""

    def __init__(self, clock: Callable[[], float]):
        self._clock, self._lock = clock, threading.Lock()
        self._seen: dict[tuple[str, str], deque] = defaultdict(deque)

    def check(self, client: str, what: str, most: int, seconds: float = 60) -> None:
        """Count one request. Raises UserError when there were too many."""
        now = self._clock()
        with self._lock:
            if len(self._seen) > MOST_CLIENTS:  # idle clients are forgotten
                self._seen = defaultdict(deque, {key: seen for key, seen in self._seen.items()
                                                 if seen and now - seen[-1] <= LONGEST_LIMIT})
            seen = self._seen[client, what]
            while seen and now - seen[0] > seconds:
                seen.popleft()
            if len(seen) >= most:
                raise UserError(f"too many requests ({most} in {seconds:.0f} seconds are allowed); wait a little")
            seen.append(now)


def client_of(request: gr.Request | None) -> str:
    """The address a request came from, as limits count it."""
    return network_of(request.client.host) if request is not None and request.client else "here"


def mark_of(request: gr.Request) -> str:
    """What tells a page's ballots from another's: a digest of its client, or without a cookie of its session."""
    client = client_in(Headers({"cookie": request.headers.get("cookie", "")})) or f"session {request.session_hash}"
    return hashlib.sha256(client.encode()).hexdigest()[:16]


def network_of(address: str) -> str:
    """An address, or the network of an IPv6 one, of which a single machine has 2^64."""
    with contextlib.suppress(ValueError):
        if ipaddress.ip_address(address).version == 6:
            return str(ipaddress.ip_network(f"{address.partition('%')[0]}/64", strict=False))
    return address


def sentence_of(error: Exception) -> str:
    """The sentence shown to a user."""
    if isinstance(error, UserError):
        return str(error)
    _log.exception("unexpected", exc_info=error)
    return f"Something unexpected went wrong ({type(error).__name__}); see the server's log."
