"""Models side by side on the same seeds, with their rewards; and walls of many seeds with their diversity."""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import gradio as gr
import torch

from visalign.errors import UserError
from visalign.evaluation.sources import SampleSource
from visalign.evaluators.diversity import per_prompt
from visalign.evaluators.motion import motion_diversity
from visalign.media.samples import Media, Sample
from visalign.media.source_images import prompt_group, sample_of
from visalign.rewards import Reward
from visalign_demo.context import Demo, client_of, number_within, render_fragment, sentence_of, whole_in
from visalign_demo.media_store import shows_video
from visalign_demo.model_worker import Job, Step
from visalign_demo.pair_queue import entries_by_prompt

MOST_SEEDS, WALL, LONGEST_PROMPT = 4, 16, 2000
MOST_SEED = 2**53 - 1
"""The largest whole number that browsers send exactly."""
AS_NAMED, NONE, OF = "", "none", "of "
"""Choices of a negative adapter: each model's own, none, and with a source's name behind it that source's."""
CLIENT_REQUESTS = 30
"""Generations that one client may ask for in a minute."""


@dataclass
class Shown:
    """One medium on the page. scores: {reward and dimension: value}."""

    name: str
    seed: int
    medium: str
    video: bool
    scores: dict[str, float] = field(default_factory=dict)
    best: set[str] = field(default_factory=set)


@dataclass(frozen=True)
class CompareRequest:
    """What a user wants to see. wall: many seeds and their diversity, instead of a few with their rewards. source: the
    key of an edit's source images, '' for none (source_choice.py). negative: which negative adapter all models get;
    AS_NAMED: each its own."""

    prompt: str
    models: list[str]
    first_seed: int
    seeds: int
    steps: int
    guidance_scale: float
    strength: float
    rewards: list[str]
    wall: bool = False
    source: str = ""
    negative: str = AS_NAMED

    def checked(self, known: dict[str, SampleSource]) -> "CompareRequest":
        """The request with its numbers converted. Raises UserError for what cannot be generated."""
        if not self.prompt.strip():
            raise UserError("Write a prompt, or use a random one.")
        if len(self.prompt) > LONGEST_PROMPT:
            raise UserError(f"The prompt has {len(self.prompt)} characters; at most {LONGEST_PROMPT} are allowed.")
        if not self.models:
            raise UserError("Choose at least one model.")
        unknown = next((name for name in self.models if name not in known), None)
        if unknown:
            raise UserError(f"There is no model '{unknown}' here.")
        first = whole_in(self.first_seed, "The first seed", 0, MOST_SEED)
        scale = number_within(self.guidance_scale, "The guidance scale", 0, 100)
        try:
            seeds, steps = whole_in(self.seeds, "seeds", 1, WALL), whole_in(self.steps, "steps", 1, 200)
            strength = number_within(self.strength, "strength", 0, 1.5)
        except UserError:
            raise UserError(f"Allowed are 1 to {WALL} seeds, 1 to 200 steps, and a LoRA strength from 0 to "
                            "1.5.") from None
        if not isinstance(self.negative, str) or self.negative not in negative_choices(known):
            raise UserError(f"There is no negative adapter '{str(self.negative)[:40]}' here; choose one of the list.")
        led = next((name for name in self.models if scale <= 1 and self._leads_away(known[name])), None)
        if led:
            raise UserError(f"{led} is to be guided away from a negative adapter, for which there is no branch at "
                            f"guidance scale {scale:g}; choose a scale above 1.")
        return replace(self, first_seed=first, seeds=seeds, steps=steps, guidance_scale=scale, strength=strength)

    def _leads_away(self, source: SampleSource) -> bool:
        return source.negative is not None if self.negative == AS_NAMED else self.negative != NONE

    def as_shown(self, source: SampleSource, known: dict[str, SampleSource]) -> SampleSource:
        """A source with the negative adapter that was chosen. Raises UserError where it can have none."""
        if self.negative == AS_NAMED or source.model is None and self.negative == NONE:
            return source
        if source.model is None or self.negative == NONE:
            return source.away_from(None)
        other = known[self.negative.removeprefix(OF)]
        less = other.negative.less if source.adapter else 0.0
        try:
            return source.away_from(replace(other.negative, less=less))
        except UserError:  # its sentence has paths, which are none of a visitor's business
            raise UserError(f"The negative adapter of {other.name} does not fit {source.name}; choose another, or "
                            "none.") from None


def negative_choices(known: dict[str, SampleSource]) -> dict[str, str]:
    """{value: words} of the negative adapters that the command named; AS_NAMED alone where it named none."""
    given = [f"{OF}{name}" for name, source in known.items() if source.negative]
    others = [NONE, *given] if given else []
    return {AS_NAMED: "each model's own"} | {value: negative_words(value) for value in others}


def negative_words(value: str) -> str:
    """What the page says of a choice; nothing where each model has its own."""
    return f"that of {value.removeprefix(OF)}" if value.startswith(OF) else value


def make(demo: Demo, request: CompareRequest, job: Job) -> None:
    """Sample and score, on the worker's thread; reports every step, and the state after every model and the rewards."""
    asked = demo.edits.asked(request.prompt, request.source)
    sources = [demo.media_url(file) for file in demo.edits.media(asked)]
    columns: dict[str, list[Shown]] = {}
    measured: dict[str, dict[str, float]] = {}
    media: dict[str, list[Media]] = {}
    seeds = list(range(request.first_seed, request.first_seed + request.seeds))
    for name in request.models:
        source = request.as_shown(demo.sources[name], demo.sources)
        media[name] = media_of(demo, job, source, asked, request, seeds)
        files = [demo.media_store.put(each) for each in media[name]]
        columns[name] = [Shown(name, seed, demo.media_url(file), shows_video(file))
                         for seed, file in zip(seeds, files, strict=False)]
        if request.wall and len(media[name]) > 1:
            job.tell(Step("features", 0, 1))
            measured[name] = diversity_of(demo, request.prompt, media[name])
        job.tell(CompareView(request, dict(columns), dict(measured), sources))
    rewards = [] if request.wall else [reward for reward in demo.rewards if reward.name in (request.rewards or ())]
    for number, reward in enumerate(rewards):
        job.tell(Step(reward.name, number, len(rewards)))
        for name, shown in columns.items():
            add_scores(reward, [sample_of(asked, request.prompt, each) for each in media[name]], shown)
    for row in zip(*columns.values(), strict=False):
        mark_best(row, {f"{reward.name} {dimension}": reward.higher_is_better for reward in rewards
                    for dimension in reward.dimensions})
    job.tell(CompareView(request, columns, measured, sources))


def media_of(demo: Demo, job: Job, source: SampleSource, asked: str, request: CompareRequest,
             seeds: list[int]) -> list[Media]:
    """Sampled; of a folder, those it has. Raises UserError when a folder has none for the prompt."""
    if source.load is not None:
        return demo.model_worker.sample(job, source, asked, seeds, steps=request.steps,
                                        strength=request.strength, guidance_scale=request.guidance_scale)
    entries = entries_by_prompt(source).get(prompt_group(asked), [])
    if not entries:
        raise UserError(f"{source.name} is a folder without media for this prompt; use a random prompt.")
    return [entry.sample().media for entry in entries[:len(seeds)]]


def add_scores(reward: Reward, samples: list[Sample], shown: list[Shown]) -> None:
    values = reward.score(samples).values
    for card, row in zip(shown, values.tolist(), strict=True):
        for dimension, value in zip(reward.dimensions, row, strict=True):
            if value == value:
                card.scores[f"{reward.name} {dimension}"] = value


def mark_best(row: tuple[Shown, ...], higher: dict[str, bool]) -> None:
    """Note which of a seed's media each reward scores best."""
    for key, up in higher.items():
        known = [card for card in row if key in card.scores]
        if len(known) > 1 and len({card.scores[key] for card in known}) > 1:
            (max if up else min)(known, key=lambda card: card.scores[key]).best.add(key)


def diversity_of(demo: Demo, prompt: str, media: list[Media]) -> dict[str, float]:
    """The diversity numbers of one prompt's media."""
    samples = [Sample(prompt, each) for each in media]
    with torch.no_grad():
        features = demo.features.sample_features(samples)[None]
        values = {name: float(value[0]) for name, value in per_prompt(features).items()}
    shown = {"Vendi score": values["vendi"], "mean distance": values["distance"]}
    motion = motion_diversity(samples)
    return shown | ({"motion distance": motion} if motion == motion else {})


@dataclass(frozen=True)
class CompareView:
    """What can be shown so far."""

    request: CompareRequest
    columns: dict[str, list[Shown]]
    measured: dict[str, dict[str, float]]
    sources: list[str] = field(default_factory=list)

    def html(self) -> str:
        template = "wall.html.j2" if self.request.wall else "compare.html.j2"
        rows = [dict(zip(self.columns, row, strict=False)) for row in zip(*self.columns.values(), strict=False)]
        return render_fragment(template, view=self, rows=rows, names=list(self.columns),
                               negative=negative_words(self.request.negative))


def progress_html(step: Step | None, begun: float, waiting: bool = False) -> str:
    """A progress bar with the current step and an estimate of the time left."""
    if step is None:
        return render_fragment("progress.html.j2", text="Waiting for a free worker" if waiting else "", share=None)
    share = step.done / max(1, step.steps)
    left = (time.monotonic() - begun) * (1 - share) / share if share > 0 else None
    rest = f", about {left:.0f} s left" if left is not None and step.done < step.steps else ""
    return render_fragment("progress.html.j2", text=f"{step.what}: {step.done} of {step.steps}{rest}", share=share)


def problem_html(sentence: str) -> str:
    return render_fragment("problem.html.j2", sentence=sentence)


def stream(demo: Demo, request: CompareRequest, session: str, client: str) -> Iterator[tuple[str, object]]:
    """(progress, images) as they come; at most one stream per session."""
    job = None
    try:
        request = request.checked(demo.sources)
        demo.limits.check(client, "generate", CLIENT_REQUESTS)
        if (earlier := demo.running.get(session)) is not None:
            earlier.cancel()
        job = demo.running[session] = demo.model_worker.submit(lambda running: make(demo, request, running))
        yield progress_html(None, 0, waiting=True), gr.skip()
        begun, what = time.monotonic(), ""
        for news in job:
            if isinstance(news, CompareView):
                yield gr.skip(), news.html()
            else:
                if news.what != what:
                    begun, what = time.monotonic(), news.what
                yield progress_html(news, begun), gr.skip()
        yield problem_html("Cancelled.") if job.cut_short else "", gr.skip()
    except Exception as error:
        yield problem_html(sentence_of(error)), gr.skip()
    finally:
        if demo.running.get(session) is job:
            demo.running.pop(session, None)


def source_choice(demo: Demo, key: str) -> list[gr.Dropdown]:
    """A list of the source images that prompts here have, beside the chosen one; [] where none has any."""
    if not demo.edits.options:
        return []

    def preview(key):
        try:
            urls = [demo.media_url(file) for file in demo.edits.media(demo.edits.asked("", key or ""))]
            return render_fragment("source.html.j2", urls=urls)
        except Exception as error:
            return problem_html(sentence_of(error))

    with gr.Row():
        source = gr.Dropdown(demo.edits.options, value=key or None, label="Source image", elem_id="source")
        shown = gr.HTML(preview(key), elem_id="source-shown")
    source.change(preview, source, shown, queue=False, show_progress="hidden", api_visibility="private")
    return [source]


def negative_choice(demo: Demo) -> list[gr.Dropdown]:
    """A list of the negative adapters that the command named; [] where it named none."""
    choices = negative_choices(demo.sources)
    if len(choices) == 1:
        return []
    return [gr.Dropdown([(words, value) for value, words in choices.items()], value=AS_NAMED, elem_id="negative",
                        label="Negative adapter (guidance scale above 1)")]


def build_compare_tab(demo: Demo) -> None:
    """The tab."""
    names, rewards = list(demo.sources), [reward.name for reward in demo.rewards]
    with gr.Row():
        with gr.Column(scale=3):
            words, key = demo.edits.parts(demo.prompts[0])
            prompt = gr.Textbox(label="Prompt", lines=2, max_length=LONGEST_PROMPT, value=words, elem_id="prompt")
            asked = [prompt, *source_choice(demo, key)]
            gr.Examples([list(demo.edits.parts(each))[:len(asked)] for each in demo.prompts[:6]], asked,
                        label="Examples", examples_per_page=6)
            models = gr.CheckboxGroup(names, value=names, label="Models")
        with gr.Column(scale=2), gr.Accordion("Settings", open=True):
            with gr.Row():
                first = gr.Number(0, label="First seed", precision=0)
                seeds = gr.Slider(1, MOST_SEEDS, 2, step=1, label="Seeds")
            with gr.Row():
                steps = gr.Slider(1, 100, min(100, demo.steps), step=1, label="Steps")
                scale = gr.Slider(0, 20, min(20.0, demo.guidance_scale), step=0.1, label="Guidance scale")
            strength = gr.Slider(0, 1.5, 1.0, step=0.05, label="LoRA strength (0: base)")
            negative = negative_choice(demo)
            chosen = gr.CheckboxGroup(rewards, value=rewards, label="Rewards")
    with gr.Row():
        go = gr.Button("Generate", variant="primary", elem_id="generate")
        wall = gr.Button(f"Diversity wall ({WALL} seeds each)", elem_id="wall")
        dice = gr.Button("Random prompt", elem_id="random-prompt")
        stop = gr.Button("Cancel", elem_id="cancel")
    progress = gr.HTML(elem_id="compare-progress")
    shown = gr.HTML(elem_id="compare-shown")
    inputs = [prompt, models, first, seeds, steps, scale, strength, chosen, *asked[1:], *negative]
    optional = [*["source"] * len(asked[1:]), *["negative"] * len(negative)]

    def generate(request: gr.Request, prompt, models, first, seeds, steps, scale, strength, chosen, *more):
        wanted = CompareRequest(prompt or "", models or [], first, seeds, steps, scale, strength, chosen or [],
                                **{name: value or "" for name, value in zip(optional, more, strict=True)})
        yield from stream(demo, wanted, request.session_hash, client_of(request))

    def generate_wall(request: gr.Request, prompt, models, first, seeds, steps, scale, strength, chosen, *more):
        wanted = CompareRequest(prompt or "", models or [], first, WALL, steps, scale, strength, [], wall=True,
                                **{name: value or "" for name, value in zip(optional, more, strict=True)})
        yield from stream(demo, wanted, request.session_hash, client_of(request))

    def roll(prompt, source=""):
        found = demo.edits.parts(demo.random_prompt(demo.edits.known(prompt, source)))
        return found if len(asked) > 1 else found[0]

    def cancel(request: gr.Request) -> None:
        if (job := demo.running.get(request.session_hash)) is not None:
            job.cancel()

    go.click(generate, inputs, [progress, shown], show_progress="hidden", api_name="generate")
    prompt.submit(generate, inputs, [progress, shown], show_progress="hidden", api_visibility="private")
    wall.click(generate_wall, inputs, [progress, shown], show_progress="hidden", api_name="wall")
    dice.click(roll, asked, asked, queue=False, show_progress="hidden", api_visibility="private")
    stop.click(cancel, None, None, queue=False, api_name="cancel")
