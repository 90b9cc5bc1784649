"""What can be measured: a folder of generations or a manifest, a run, a checkpoint of one, a pipeline, or MODEL+LORA.

Generations are used as they are. The others are sampled on the same prompts and seeds. Of a language model's run the
answers are used that it gave at its held-out measurements, which are of the same prompts and seeds by themselves;
language/answer_sources.py has language models that are asked.
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
from visalign.generators import load_generator, locate_model
from visalign.generators.base import Generator
from visalign.generators.files.sketching import check_adapter
from visalign.generators.lora.files import find_lora
from visalign.media.kinds import is_image_name, is_video_name
from visalign.media.source_images import content_of, put_into
from visalign.sampling.folder import write_generations
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
    determines its samples. step: of a run's checkpoint. texts: whether existing generations are texts. model, adapter:
    what `load` loads, where that is a model with or without a LoRA, so that several sources may share one model in
    memory. asking: what prompts are put into for its generator, as `identity` says, too."""

    name: str
    source: str
    load: Callable[[str], Generator] | None
    identity: dict
    step: int | None = None
    texts: bool = False
    model: ModelSettings | None = None
    adapter: Path | None = None
    asking: str | None = None

    @property
    def sampled(self) -> bool:
        """Whether it is a model, of which a plan says how it is sampled."""
        return self.load is not None

    def check_prompts(self, prompts: list[str], where: str) -> None:
        """Raise UserError for a prompt that its model cannot take, where that is known before it is loaded."""
        if self.model:
            locate_model(self.model).family.check_prompts(prompts, where)

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
    """Recognise `source`: see above, or MODEL+LORA. Raises UserError when it cannot be measured.

    like: the model of a run it is compared with; a pipeline is loaded with the same settings.
    """
    path = Path(source).expanduser()
    if (path / "state.json").is_file() and (path / "trainable.safetensors").is_file():
        return checkpoint_source(name, path)
    if (path / "config.yaml").is_file() and (path / "checkpoints").is_dir():
        return language_sources(path, name)[-1] if is_language_run(path) else run_source(name, path)
    if (path.is_dir() and not (path / "model_index.json").is_file()) or is_table(path) or (
            path.is_file() and (is_image_name(path) or is_video_name(path))):
        texts = isinstance(find_generations(source)[0], TextEntry)
        return SampleSource(name, source, None, {"source": str(path.resolve())}, texts=texts)
    wanted, plus, lora = (source, "", "") if path.exists() else source.partition("+")
    model = _like(wanted, like.without_loras()) if like else model_of(wanted)
    locate_model(model)
    adapter = Path(lora).expanduser() if plus else None
    if adapter:
        check_adapter(model, adapter)
    return replace(model_source(name, model, adapter), source=source)


def _like(source: str, model: ModelSettings) -> ModelSettings:
    """A model loaded as another one is; the very same file or folder has the same base and parts as well."""
    same = Path(source).expanduser().resolve() == Path(model.source).expanduser().resolve()
    return model.model_copy(update={"source": source} | ({} if same else _WHOLE))


def model_source(name: str, model: ModelSettings, adapter: Path | None = None) -> SampleSource:
    """A model, or one with a LoRA file or folder."""
    def load(device: str) -> Generator:
        generator = load_generator(model, device)
        if adapter:
            generator.load_adapter(adapter)
        return generator

    identity = {"model": model.model_dump(mode="json")}
    if adapter:
        identity |= {"adapter": str(adapter.resolve()), "written": find_lora(adapter).stat().st_mtime_ns}
    return SampleSource(name, model.source, load, identity, model=model, adapter=adapter)


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


def run_source(name: str, run: Path) -> SampleSource:
    """A finished run's export, which holds the LoRAs that the run began with."""
    config, export = run_config(run), run / "export"
    model = config.model.without_loras()
    if not export.is_dir():
        raise UserError(f"run {run}: has not finished, so it has no export; name one of its checkpoints, or use "
                        "--checkpoints all")
    if config.model.tuning == "full":
        whole = model.model_copy(update=_WHOLE | {"source": str(export / "pipeline")})
        return _asked(model_source(name, whole), config)
    return _asked(replace(model_source(name, model, export), source=str(run)), config)


def checkpoint_source(name: str, folder: Path) -> SampleSource:
    """One checkpoint, its moving average where the run kept one."""
    config, step = run_config(folder.parents[1]), step_of(folder)

    def load(device: str) -> Generator:
        generator = load_generator(config.model, device)
        generator.make_trainable(config.model.tuning, reference=config.model.reference,
                                 **dict(config.model.lora) | {"dropout": 0.0})
        load_policy(generator.trainable_parameters(), folder)
        generator.denoiser.eval()
        return generator

    stamp = (folder / "trainable.safetensors").stat().st_mtime_ns
    identity = {"checkpoint": str(folder.resolve()), "weights": stamp}
    return _asked(SampleSource(name, str(folder), load, identity, step), config)


def checkpoint_sources(run: Path) -> list[SampleSource]:
    """Every checkpoint of a run, oldest first. Raises UserError when there is none."""
    folders = sorted(p for p in (run / "checkpoints").glob("step-*") if (p / "state.json").exists())
    if not folders:
        raise UserError(f"run {run}: has no checkpoint")
    return [checkpoint_source(f"step {int(folder.name.removeprefix('step-'))}", folder) for folder in folders]
