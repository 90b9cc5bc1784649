"""What can be measured: a folder of generations or a manifest, a run, a checkpoint of one, a pipeline, or MODEL+LORA.

Generations are used as they are. The others are sampled on the same prompts and seeds, guided away from a negative
adapter where the source ends with one (source_words.py). Of a language model's run the answers are used that it gave at
its held-out measurements, which are of the same prompts and seeds by themselves; language/answer_sources.py has
language models that are asked.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from visalign.config import LanguageSettings, ModelSettings, OfflineConfig, OnlineConfig
from visalign.config.language_answers import AskedSettings
from visalign.config.load import model_of, parse_config
from visalign.data.generations import Entry, find_generations
from visalign.data.sources import is_table
from visalign.data.text_generations import TextEntry
from visalign.errors import UserError
from visalign.evaluation.source_words import SourceWords, parse_source
from visalign.generators import load_generator, locate_model
from visalign.generators.base import Generator
from visalign.generators.files.sketching import check_adapter
from visalign.generators.lora.files import find_lora
from visalign.generators.users import USER_FILES
from visalign.media.kinds import is_image_name, is_video_name
from visalign.media.source_images import content_of, put_into
from visalign.sampling.folder import Negative, write_generations
from visalign.sampling.users import USERS_FILE, load_for_user, of_its_users
from visalign.storage.checkpoint_files import load_policy, step_of
from visalign.storage.files import written
from visalign.storage.old_names import read_run_settings


@dataclass(frozen=True)
class SamplingPlan:
    """How models are sampled: the same prompts and seeds for all."""

    prompts: list[str]
    seeds: int
    steps: int
    guidance_scale: float
    seed: int = 0
    device: str = "auto"

    def settings(self) -> dict:
        """What determines the samples beside the model."""
        return {"prompts": list(map(content_of, self.prompts)), "samples": self.seeds, "steps": self.steps,
                "guidance_scale": self.guidance_scale, "seed": self.seed}

    def about(self) -> dict:
        """The same in words."""
        return {"steps": self.steps, "guidance scale": self.guidance_scale, "first seed": self.seed}


@dataclass(frozen=True)
class AnswerPlan:
    """How language models are asked, the same for all. seeds: answers to each prompt."""

    prompts: list[str]
    seeds: int
    answers: AskedSettings
    seed: int = 0
    device: str = "auto"

    def settings(self) -> dict:
        """What determines the answers beside the model."""
        return {"prompts": self.prompts, "samples": self.seeds, "seed": self.seed,
                **self.answers.model_dump(mode="json", exclude={"batch_size"})}

    def about(self) -> dict:
        """The same in words."""
        return {"tokens at most": self.answers.max_tokens, "temperature": self.answers.temperature,
                "first seed": self.seed}


@dataclass(frozen=True)
class SampleSource:
    """One side of a comparison. load(device): loads its generator; None for existing generations. identity: what
    determines its samples. step: of a run's checkpoint. texts: whether existing generations are texts. model, adapter,
    negative: what `load` loads, where that is a model with or without a LoRA and a negative adapter, so that several
    sources may share one model in memory. asking: what prompts are put into for its generator, as `identity` says,
    too."""

    name: str
    source: str
    load: Callable[[str], Generator] | None
    identity: dict
    step: int | None = None
    texts: bool = False
    model: ModelSettings | None = None
    adapter: Path | None = None
    asking: str | None = None
    negative: Negative | None = None

    @property
    def sampled(self) -> bool:
        """Whether it is a model, of which a plan says how it is sampled."""
        return self.load is not None

    def check_prompts(self, prompts: list[str], where: str) -> None:
        """Raise UserError for a prompt that its model cannot take, where that is known before it is loaded."""
        if self.model:
            locate_model(self.model).family.check_prompts(prompts, where)

    def check_scale(self, guidance_scale: float) -> None:
        """Raise UserError where it has a negative adapter and this guidance scale no branch for one."""
        if self.negative:
            try:
                self.negative.check_scale(guidance_scale)
            except UserError as error:
                raise UserError(f"{self.name}: {error}") from None

    def away_from(self, negative: Negative | None) -> "SampleSource":
        """The same model and LoRA, guided away from another negative adapter, or as usual. Raises UserError for one
        that does not fit, and where this is no model."""
        if self.model is None:
            raise UserError(f"{self.name} is a folder or a checkpoint, which takes no negative adapter; leave it out.")
        own = model_source(self.name, self.model, self.adapter, negative)
        asked = {"asking": self.asking} if self.asking else {}
        return replace(own, source=self.source, asking=self.asking, identity=own.identity | asked)

    def given(self, prompts: list[str]) -> list[str]:
        """Prompts as its generator is given them."""
        return [put_into(self.asking, prompt) for prompt in prompts]

    def entries(self, plan: SamplingPlan | None, folder: Path) -> list[Entry]:
        """Its generations; missing ones are sampled into `folder`, continuing what is there."""
        if self.load is None:
            return find_generations(self.source)
        if not (folder / "samples.jsonl").is_file() or not holds_plan(folder, self.identity, plan):
            write_generations(functools.partial(self.load, plan.device), plan.prompts, folder, self.identity,
                              samples=plan.seeds, steps=plan.steps, guidance_scale=plan.guidance_scale, seed=plan.seed,
                              asking=self.asking)
        return find_generations(folder)


_WHOLE = {"base": None, "parts": {}, "without": (), "prediction": "auto"}
"""Settings of a model that has everything in one place."""


def holds_plan(folder: Path, identity: dict, plan) -> bool:
    """Whether a finished folder holds this plan. Raises UserError when it holds another one."""
    if written(folder / "settings.json") == identity | plan.settings():
        return True
    raise UserError(f"output {folder}: holds samples of other settings; choose another folder with --out, or delete it")


def source_of(name: str, source: str, like: ModelSettings | None = None) -> SampleSource:
    """Recognise `source` (`parse_source`): see above. Raises UserError when it cannot be measured.

    like: the model of a run it is compared with; a pipeline is loaded with the same settings.
    """
    words = parse_source(source)
    path = words.path
    if (path / "state.json").is_file() and (path / "trainable.safetensors").is_file():
        return _without_negative(words, "a checkpoint", checkpoint_source(name, path))
    if (path / "config.yaml").is_file() and (path / "checkpoints").is_dir():
        if is_language_run(path):
            return _without_negative(words, "a language model's run", language_sources(path, name)[-1])
        return replace(run_source(name, path, words.negative), source=source)
    if (path.is_dir() and not (path / "model_index.json").is_file()) or is_table(path) or (
            path.is_file() and (is_image_name(path) or is_video_name(path))):
        texts = isinstance(find_generations(words.source)[0], TextEntry)
        return _without_negative(words, "generations that are there", SampleSource(
            name, source, None, {"source": str(path.resolve())}, texts=texts))
    model = _like(words.source, like.without_loras()) if like else model_of(words.source)
    locate_model(model)
    if words.lora:
        check_adapter(model, words.lora)
    return replace(model_source(name, model, words.lora, words.negative), source=source)


def _without_negative(words: SourceWords, kind: str, found: SampleSource) -> SampleSource:
    """Raise UserError where a source of this kind is given a negative adapter."""
    if words.negative:
        raise UserError(f"{words.text}: {words.source} is {kind}; a negative adapter is for an image or video model "
                        "that is sampled: a pipeline, MODEL+LORA or a finished run")
    return found


def _like(source: str, model: ModelSettings) -> ModelSettings:
    """A model loaded as another one is; the very same file or folder has the same base and parts as well."""
    same = Path(source).expanduser().resolve() == Path(model.source).expanduser().resolve()
    return model.model_copy(update={"source": source} | ({} if same else _WHOLE))


def model_source(name: str, model: ModelSettings, adapter: Path | None = None,
                 negative: Negative | None = None) -> SampleSource:
    """A model, or one with a LoRA file or folder. negative: what it is guided away from; UserError where that does not
    fit."""
    if negative:
        negative.check_fit(model, adapter)

    def load(device: str) -> Generator:
        generator = load_generator(model, device)
        if adapter:
            generator.load_adapter(adapter)
        if negative:
            generator.load_negative_adapter(negative.lora, negative.less)
        return generator

    identity = {"model": model.model_dump(mode="json")}
    if adapter:
        identity |= {"adapter": str(adapter.resolve()), "written": find_lora(adapter).stat().st_mtime_ns}
    if negative:
        identity |= negative.identity()
    return SampleSource(name, model.source, load, identity, model=model, adapter=adapter, negative=negative)


def is_language_run(folder: Path) -> bool:
    """Whether the run is a language model's. Raises UserError as `run_config` does."""
    return isinstance(run_config(folder), LanguageSettings)


def is_run_of_language(source: str) -> bool:
    """Whether this is the folder of a language model's run."""
    path = Path(source).expanduser()
    return (path / "config.yaml").is_file() and (path / "checkpoints").is_dir() and is_language_run(path)


def language_sources(run: Path, name: str | None = None) -> list[SampleSource]:
    """The answers of every held-out measurement of a language model's run: `base`, then the steps, or all by a name.

    Raises UserError before the first measurement.
    """
    folders = sorted(folder for folder in (run / "samples").glob("step-*") if (folder / "samples.jsonl").is_file())
    if not folders:
        raise UserError(f"run {run}: has measured no held-out answers yet")
    def measured(folder: Path) -> str:
        _, step, *returned = folder.name.split("-")
        return f"step {int(step)}{' after the return' if returned else ''}" if int(step) else "base"

    return [SampleSource(name or measured(folder), str(folder), None, {"source": str(folder.resolve())}, texts=True)
            for folder in folders]


def run_config(folder: Path) -> OfflineConfig | OnlineConfig | LanguageSettings:
    """The settings a run was made with. Raises UserError naming a file that is missing or not a recipe."""
    return parse_config(read_run_settings(folder), str(folder / "config.yaml"))


def base_source(name: str, run: Path) -> SampleSource:
    """The untrained model of a run, asked as the run's."""
    config = run_config(run)
    return _asked(model_source(name, config.model), config)


def _asked(source: SampleSource, config: OfflineConfig | OnlineConfig) -> SampleSource:
    """With the highest goal in its prompts, where the run learnt to be asked for one."""
    if not config.goals:
        return source
    asking = config.goals.highest
    return replace(source, asking=asking, identity=source.identity | {"asking": asking})


def run_source(name: str, run: Path, negative: Negative | None = None,
               model: ModelSettings | None = None) -> SampleSource:
    """A finished run's export, which holds the LoRAs that the run began with, guided away from a negative adapter.
    model: its model with other settings than it was trained with."""
    config, export = run_config(run), run / "export"
    model = (model or config.model).without_loras()
    if not export.is_dir():
        raise UserError(f"run {run}: has not finished, so it has no export; name one of its checkpoints, or use "
                        "--checkpoints all")
    if config.model.tuning == "full":
        whole = model.model_copy(update=_WHOLE | {"source": str(export / "pipeline")})
        return _asked(model_source(name, whole, negative=negative), config)
    if config.model.tuning == "user":
        if negative:
            raise UserError(f"run {run}: learnt who prefers what, and an adapter of users takes no negative adapter "
                            "beside it; leave it out")
        return _asked(_users_source(name, run, model), config)
    return _asked(model_source(name, model, export, negative), config)


def _users_source(name: str, run: Path, model: ModelSettings) -> SampleSource:
    """A finished run's adapter of users, sampled for those it learnt from, in turn."""
    def load(device: str) -> Generator:
        return of_its_users(load_for_user(model, run, None, device), run)

    stamps = [file.stat().st_mtime_ns for file in (run / "export" / USER_FILES[0], run / USERS_FILE)]
    return SampleSource(name, str(run), load, {"model": model.model_dump(mode="json"), "users in turn": stamps})


def checkpoint_source(name: str, folder: Path, model: ModelSettings | None = None) -> SampleSource:
    """One checkpoint, its moving average where the run kept one; `reference` of what it loads is what the run's policy
    was compared with. model: the run's model with other settings than it was trained with."""
    config, step = run_config(folder.parents[1]), step_of(folder)
    model = model or config.model

    def load(device: str) -> Generator:
        generator = load_generator(model, device)
        generator.make_trainable(model.tuning, reference=model.reference, user_features=model.user_features,
                                 **dict(model.lora) | {"dropout": 0.0})
        load_policy(generator.trainable_parameters(), folder)
        generator.denoiser.eval()
        return of_its_users(generator, folder.parents[1]) if config.model.tuning == "user" else generator

    stamp = (folder / "trainable.safetensors").stat().st_mtime_ns
    identity = {"checkpoint": str(folder.resolve()), "weights": stamp}
    return _asked(SampleSource(name, str(folder), load, identity, step), config)


def checkpoint_sources(run: Path) -> list[SampleSource]:
    """Every checkpoint of a run, oldest first. Raises UserError when there is none."""
    folders = sorted(p for p in (run / "checkpoints").glob("step-*") if (p / "state.json").exists())
    if not folders:
        raise UserError(f"run {run}: has no checkpoint")
    return [checkpoint_source(f"step {int(folder.name.removeprefix('step-'))}", folder) for folder in folders]
