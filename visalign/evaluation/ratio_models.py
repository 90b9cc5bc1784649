"""The two generators of a density ratio: found by what a user names, checked against each other, and loaded, as one
network wherever they differ by LoRAs alone.
"""

import contextlib
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from visalign.config import LanguageSettings, ModelSettings, OfflineConfig, OnlineConfig
from visalign.config.load import changed_model, model_of
from visalign.errors import UserError
from visalign.evaluation.source_words import SourceWords, parse_source
from visalign.evaluation.sources import (
    SampleSource,
    checkpoint_source,
    model_source,
    run_config,
    run_source,
    source_of,
)
from visalign.generators import load_generator, locate_model
from visalign.generators.base import Generator
from visalign.generators.files.embedded import EMBEDDED_LORAS, EMBEDDED_MODELS
from visalign.generators.files.sketching import check_adapter
from visalign.generators.lora.adapters import HELD, START, adapters_of, switch_adapters, tuner_layers
from visalign.generators.lora.files import LORA_FILES
from visalign.generators.lora.layers import one_kind
from visalign.processes import Diffusion
from visalign.storage.language_models import ADAPTER

OF_THE_SOURCES = ("source", "base", "tuning", "lora", "loras", "reference", "user_features")
"""Settings of a model that a run, or the sources themselves, say."""


@dataclass(frozen=True)
class RatioModels:
    """weak: None for what a checkpoint's own policy was compared with. model: the settings that both are loaded with.
    run: what made `strong`, where that is a run's."""

    strong: SampleSource
    weak: SampleSource | None
    model: ModelSettings
    run: OfflineConfig | OnlineConfig | None = None

    @cached_property
    def family(self) -> type[Generator]:
        return locate_model(self.model).family

    @property
    def modalities(self) -> frozenset[str]:
        return frozenset({self.family.modality})

    @property
    def needs_sources(self) -> bool:
        return self.family.sources is not None


def makes_media(source: str | None) -> bool:
    """Whether this names a generator of images or videos, or a LoRA of one, as far as can be seen without the hub."""
    if not isinstance(source, str) or not source.strip():
        return False
    try:
        words = parse_source(source)
    except UserError:
        return True  # no language model is named so either
    path = words.path
    if words.lora or words.negative or words.source in EMBEDDED_MODELS or run_behind(path):
        return not (run_behind(path) and isinstance(run_config(run_behind(path)), LanguageSettings))
    if path.is_file():
        return path.suffix.lower() == ".safetensors"
    if (path / "model_index.json").is_file():
        return True
    return any((path / name).is_file() for name in LORA_FILES) and not (path / ADAPTER).is_file()


def run_behind(path: Path) -> Path | None:
    """The run whose folder, export, exported pipeline or checkpoint this is."""
    inside = {"export": 1, "pipeline": 2}.get(path.name, 0)
    if (path / "state.json").is_file() and (path / "trainable.safetensors").is_file():
        inside = 2
    folder = [path, *path.absolute().parents][inside]
    return folder if (folder / "config.yaml").is_file() and (folder / "checkpoints").is_dir() else None


def ratio_models(strong: str, weak: str | None, changes: dict[str, Any], where: str) -> RatioModels:
    """The models that `strong` and `weak` name, with `changes` of their settings. Nothing is loaded.

    Raises UserError starting with `where` when one is missing or no model, or when they are of different families.
    """
    odd = next((name for name in changes if name in OF_THE_SOURCES), None)
    if odd:
        raise UserError(f"{where}: model.{odd} is said by strong and weak; leave it out")
    words = parse_source(strong)
    if words.negative:
        raise UserError(f"{where}: strong {strong} is guided away from a negative adapter, and its errors are taken "
                        "without guidance; leave the adapter out")
    run = run_behind(words.path) if words.lora is None else None
    found = _of_run(words.path, run, changes, where) if run else _of_no_run(words, weak, changes, where)
    if weak is None:
        return found
    given = _weak(weak, found.model, where)
    families = [locate_model(_settings_of(each)).family.pipeline_class for each in (found.strong, given)]
    if families[0] != families[1]:
        raise UserError(f"{where}: strong {strong} is a {families[0]} and weak {weak} a {families[1]}; errors of "
                        "different families do not compare, so name two models of one")
    return RatioModels(found.strong, given, found.model, found.run)


def _of_run(path: Path, run: Path, changes: dict[str, Any], where: str) -> RatioModels:
    """A run, and the model that its policy was compared with while it learnt."""
    config = run_config(run)
    if isinstance(config, LanguageSettings):
        raise UserError(f"{where}: strong {path} is a language model's run, which scores texts, with `weak` beside it")
    if config.model.tuning == "user":
        raise UserError(f"{where}: strong {path} learnt who prefers what, so without a user it is its base; name a run "
                        "with model.tuning lora or full")
    model = changed_model(config.model, changes, where)
    if (path / "state.json").is_file():
        return RatioModels(checkpoint_source("strong", path, model), None, model, config)
    before = model if model.reference == "start" else model.without_loras()
    return RatioModels(run_source("strong", run, model=model), model_source("weak", before), model, config)


def _of_no_run(words: SourceWords, weak: str | None, changes: dict[str, Any], where: str) -> RatioModels:
    """A model, or one with a LoRA; a LoRA alone is for the model that `weak` names."""
    path, is_lora = words.path, _is_lora(words)
    if not path.exists() and words.source not in EMBEDDED_MODELS and (weak is None or words.source.count("/") != 1):
        raise UserError(f"{where}: strong {words.text} is neither a run, a LoRA nor a model that is here")
    if weak is None and words.lora is None:
        what = "a LoRA, which does not say what it is for" if is_lora else "a model, which does not say what it was"
        raise UserError(f"{where}: strong {words.text} is {what}; name its base as `weak`")
    base = _settings_of(_weak(weak, changed_model(ModelSettings(source="base"), changes, where), where)) \
        if is_lora else changed_model(model_of(words.source), changes, where)
    lora = path if is_lora else words.lora
    if lora:
        check_adapter(base, lora)
    return RatioModels(model_source("strong", base, lora), model_source("weak", base), base)


def _is_lora(words: SourceWords) -> bool:
    """Whether this is a LoRA's file or folder and no model."""
    path = words.path
    if words.lora or words.source in EMBEDDED_LORAS or (path / "model_index.json").is_file():
        return False
    return path.name in LORA_FILES or any((path / name).is_file() for name in LORA_FILES)


def _weak(weak: str, like: ModelSettings, where: str) -> SampleSource:
    """The source of the weak model, loaded as the strong one is. Raises UserError where it is no model."""
    words = parse_source(weak)
    if not words.path.exists() and words.source not in EMBEDDED_MODELS and words.source.count("/") != 1:
        raise UserError(f"{where}: weak {weak} is no model: there is no such folder")
    try:
        found = source_of("weak", weak, like)
    except UserError as error:
        raise UserError(f"{where}: weak {weak} is no model: {error}") from None
    if not found.sampled or found.negative:
        raise UserError(f"{where}: weak {weak} is no model, or one with a negative adapter; name the model that "
                        "`strong` was aligned from")
    return found


def _settings_of(source: SampleSource) -> ModelSettings:
    return source.model or run_config(Path(source.source).parents[1]).model


@dataclass(frozen=True)
class RatioSide:
    """One of two loaded models. on: within it `generator` predicts as this model."""

    generator: Generator
    on: Callable[[], contextlib.AbstractContextManager]


def load_ratio(models: RatioModels, device: str, where: str) -> tuple[RatioSide, RatioSide]:
    """The strong and the weak model. Raises UserError starting with `where` when their latents or processes differ."""
    strong, weak = models.strong, models.weak
    if weak is None:
        generator = strong.load(device)
        return RatioSide(generator, contextlib.nullcontext), RatioSide(generator, generator.reference)
    if in_one_network(strong, weak):
        return _in_one(strong, weak, device)
    both = strong.load(device), weak.load(device)
    check_errors_compare(*both, where)
    return RatioSide(both[0], contextlib.nullcontext), RatioSide(both[1], contextlib.nullcontext)


def in_one_network(strong: SampleSource, weak: SampleSource) -> bool:
    """Whether both are one model with or without LoRAs that can lie in it side by side: of the network alone, whose
    texts are encoded once for both, and, of several, plain ones."""
    if strong.model is None or weak.model is None or \
            strong.model.without_loras().model_dump() != weak.model.without_loras().model_dump():
        return False
    adapters = [check_adapter(each.model.without_loras(), each.adapter) for each in (strong, weak) if each.adapter]
    below = any(_has_loras(each.model) for each in (strong, weak))
    if any(part.startswith("text_encoder") for found in adapters for part in found):
        return False
    kinds = {one_kind((layer for layers in found.values() for layer in layers.values()), "lora") for found in adapters}
    return len(adapters) + below < 2 or kinds <= {"lora"}


def _has_loras(model: ModelSettings) -> bool:
    return bool(model.loras or model.lora.start)


def _in_one(strong: SampleSource, weak: SampleSource, device: str) -> tuple[RatioSide, RatioSide]:
    """Both in one network, whose adapters are switched."""
    generator = load_generator(max((strong.model, weak.model), key=_has_loras), device)
    networks = list(generator.networks().values())
    names = []
    for source in (strong, weak):
        before = {name for network in networks for name in adapters_of(network)}
        if source.adapter:
            generator.load_adapter(source.adapter)
            names.append({name for network in networks for name in adapters_of(network)} - before)
        else:
            names.append({HELD, START} if _has_loras(source.model) else set())
    layers = [layer for network in networks for _, layer in tuner_layers(network)]

    @contextlib.contextmanager
    def active(own: Collection[str]) -> Iterator[None]:
        switch_adapters(layers, own)
        yield

    return tuple(RatioSide(generator, lambda own=own: active(own)) for own in names)


def check_errors_compare(strong: Generator, weak: Generator, where: str) -> None:
    """Raise UserError unless both have latents of one shape and noise them alike."""
    shapes = [each.latent_shape() for each in (strong, weak)]
    if shapes[0] != shapes[1]:
        raise UserError(f"{where}: strong works on latents of {shapes[0]} and weak on {shapes[1]}, whose errors do not "
                        "compare; load both at one size")
    kinds = [(each.process.kind, each.process.prediction_type) for each in (strong, weak)]
    if kinds[0] != kinds[1]:
        raise UserError(f"{where}: strong predicts {kinds[0][1]} ({kinds[0][0]}) and weak {kinds[1][1]} "
                        f"({kinds[1][0]}), whose errors do not compare; name two models of one process")
    if isinstance(strong.process, Diffusion) and not torch.equal(strong.process.alphas_cumprod,
                                                                 weak.process.alphas_cumprod):
        raise UserError(f"{where}: strong and weak noise images by different schedules, so their errors do not "
                        "compare; name the model that `strong` was aligned from")

