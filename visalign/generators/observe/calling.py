"""The arguments of a pipeline's call, by what its signature has."""

import contextlib
import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from PIL import Image

from visalign.errors import UserError
from visalign.generators.observe.guidance import GuidanceRule
from visalign.generators.shape import Shape
from visalign.media.samples import fit_image
from visalign.media.source_images import source_images_of, split_prompt

GUIDANCE_OPTIONS = ("true_cfg_scale", "guidance_scale")
"""By which pipelines are told a scale, in the order in which they are tried; others have a `guider`."""
GUIDER = "guider"
EXAMPLE = "a"
LONGER = "a cat and two trees"
"""The prompts with which conventions are observed; those that need a source image get a grey one."""
_NEGATIVE, _IMAGE = "negative_prompt", "image"


@functools.lru_cache
def _computing_on(kind: type, device: torch.device) -> type:
    """The pipeline's class, which need not walk through all layers at each call to find where it computes."""
    return type(kind.__name__, (kind,), {"_execution_device": device, "__module__": kind.__module__})


@contextlib.contextmanager
def _known_device(pipeline, device: torch.device | None) -> Iterator[None]:
    kind = type(pipeline)
    pipeline.__class__ = kind if device is None else _computing_on(kind, device)
    try:
        yield
    finally:
        pipeline.__class__ = kind


@contextlib.contextmanager
def _as_it_is(pipeline, shape: Shape) -> Iterator[None]:
    yield


@dataclass
class PipelineCall:
    """Calls one pipeline at one shape.

    extra: arguments from the family's hints and the user's model.call, which override all others. blank: the negative
    prompt of those who give none, None to give none. guided_at_all: False to go on without guidance, whatever the
    pipeline has. at_size: within it the pipeline works at a shape that it does not take as arguments. guidance, off:
    the rule, and options without it, once they are known. takes_sources: whether a prompt has source images; they are
    cropped to the shape. device: where all parts of the pipeline are, None where some come and go.
    """

    pipeline: Any
    shape: Shape
    prompt_tokens: int | None
    takes_sources: bool
    extra: Mapping[str, Any] = field(default_factory=dict)
    blank: str | None = None
    guided_at_all: bool = True
    at_size: Callable[[Any, Shape], contextlib.AbstractContextManager] = _as_it_is
    guidance: GuidanceRule | None = None
    off: Mapping[str, float] = field(default_factory=dict)
    device: torch.device | None = None

    def __post_init__(self):
        self.parameters = inspect.signature(type(self.pipeline).__call__).parameters
        unknown = [name for name in self.extra if name not in self.parameters]
        if unknown:
            raise UserError(f"model.call.{unknown[0]}: {type(self.pipeline).__name__} takes no such argument")
        given = {"self", "prompt", "generator", *self.shaped(), *self.extra}
        for name, parameter in self.parameters.items():
            if parameter.default is inspect.Parameter.empty and name not in given and \
                    parameter.kind is not inspect.Parameter.VAR_KEYWORD and not (name == _IMAGE and self.takes_sources):
                raise UserError(f"model.call: {type(self.pipeline).__name__} needs the argument '{name}', which is not "
                                f"known here; give it as model.call: {{{name}: ...}}")

    def __call__(self, **options: Any) -> None:
        """Run the pipeline with these arguments at the shape."""
        with self.at_size(self.pipeline, self.shape), _known_device(self.pipeline, self.device):
            self.pipeline(**options)

    def shaped(self) -> dict[str, Any]:
        """Size, length and the like, as far as the pipeline takes them."""
        shape = self.shape
        known = {"height": shape.height, "width": shape.width, "num_frames": shape.frames, "frames": shape.frames,
                 "video_length": shape.frames, "decode_chunk_size": shape.frames, "frame_rate": shape.fps,
                 "fps": shape.fps, "max_sequence_length": self.prompt_tokens,
                 "use_resolution_binning": False, "max_area": (shape.height or 0) * (shape.width or 0),
                 "_auto_resize": False}
        return {name: value for name, value in known.items() if name in self.parameters and value is not None}

    def options(self, prompts: list[str], *, steps: int, seeds: list[int], scale: float | None = None,
                negative: str | None = None) -> dict[str, Any]:
        """Keyword arguments for these prompts, with `guidance` at the house's scale; None is without guidance."""
        words = [split_prompt(prompt)[0] for prompt in prompts]
        options = {"prompt": words, "num_inference_steps": steps,
                   "generator": [torch.Generator("cpu").manual_seed(seed) for seed in seeds]} | self.shaped()
        if self.takes_sources:
            images = self._sources(prompts[0])
            options[_IMAGE] = images[0] if len(images) == 1 else images
        if scale is not None:
            options |= self.told(self.off if self.guidance is None else
                                 self.guided(self.guidance, scale, len(prompts), negative))
        return options | dict(self.extra)

    def _sources(self, prompt: str) -> list[Image.Image]:
        height, width = self.shape.size
        grey = prompt in (EXAMPLE, LONGER)
        images = [Image.new("RGB", (width, height), "grey")] if grey else source_images_of(prompt)
        return [fit_image(image, width, height) for image in images]

    @property
    def takes_negative(self) -> bool:
        return _NEGATIVE in self.parameters

    def guidance_names(self) -> list[str]:
        """The options by which this pipeline may be told a scale.

        true_cfg_scale counts where it is on by default or the only one; elsewhere it adds a second guidance to a
        distilled one.
        """
        names = [name for name in GUIDANCE_OPTIONS if name in self.parameters and
                 (name != GUIDANCE_OPTIONS[0] or self.parameters[name].default > 1 or
                  GUIDANCE_OPTIONS[1] not in self.parameters)]
        return [*names, GUIDER] if hasattr(self.pipeline, GUIDER) else names

    def told(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Those of these options that are arguments; the pipeline's guider is told otherwise."""
        if GUIDER in options:
            self.pipeline.guider = self.pipeline.guider.new(guidance_scale=options[GUIDER])
        return {name: value for name, value in options.items() if name != GUIDER}

    def words(self, count: int, negative: str | None) -> dict:
        """The negative prompt for each of `count` samples, where there is one and the pipeline takes it."""
        return {_NEGATIVE: [negative] * count} if negative is not None and _NEGATIVE in self.parameters else {}

    def guided(self, rule: GuidanceRule, scale: float, count: int, negative: str | None) -> dict[str, Any]:
        """The options that set the house's scale and, where it is on, a negative prompt for each sample."""
        negative = self.blank if negative is None else negative
        words = {} if scale == 1 and not rule.embedded else self.words(count, negative)
        return words | {rule.option: rule.given(scale)}
