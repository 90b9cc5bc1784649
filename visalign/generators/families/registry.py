"""Which pipelines can be trained, by their class: those with hints, and any other whose call makes images or videos.

A hint says what cannot be observed, and why; a pipeline without one is learnt from its own signature.
"""

import inspect
import re
from collections.abc import Iterator, MutableMapping
from typing import Any, get_args

from torch import nn

from visalign.errors import UserError
from visalign.generators.base import Generator
from visalign.generators.families.cogvideox import CogVideoXGenerator
from visalign.generators.families.flux import FluxGenerator, FluxKontextGenerator
from visalign.generators.families.hints import HINTS, STAND_INS
from visalign.generators.families.hunyuan import HunyuanVideoGenerator
from visalign.generators.families.ltx import LTXGenerator
from visalign.generators.families.sd3 import SD3Generator
from visalign.generators.families.unet import SDGenerator, SDXLGenerator
from visalign.generators.families.wan import WanGenerator, WanImageGenerator
from visalign.generators.video import VideoGenerator
from visalign.media.source_images import SourceCount

_WRITTEN: dict[str, type[Generator]] = {family.pipeline_class: family for family in (
    SD3Generator, FluxGenerator, FluxKontextGenerator, SDXLGenerator, SDGenerator, WanGenerator, WanImageGenerator,
    LTXGenerator, HunyuanVideoGenerator, CogVideoXGenerator)}

_OTHER_USES = {
    r"Audio|Music|Spectrogram|Speech|AceStep|Dance": "it makes sound, which is not supported",
    r"Gemma|LLaDA": "it writes text, which is not supported",
    r"Modular": "it is a modular pipeline, whose call cannot be watched; give the checkpoint's standard pipeline",
    r"Control|Adapter|GLIGEN|VACE|Transfer": "it needs control images, boxes or videos, which are not supported",
    r"Inpaint|Fill|PaintBy|RePaint": "it fills in masked parts of a given image, which is not supported",
    r"Upscale|SuperRes|Upsample|SRPipeline|Refine": "it enlarges or refines a given sample, which is not supported",
    r"Img2Img|VideoToVideo|I2I|Depth2|CycleDiff|Pix2PixZero|LEdits|LucyEdit":
        "it varies a given sample; train the family's pipeline that starts from noise",
    r"InstructPix2Pix": "it guides by an image and by words with three predictions a step, which is not supported",
    r"Blip|ConsisID|WanAnimate|InContext|HDR|SanaWM|PIA":
        "it needs references or motions beside a prompt and its image, which are not supported",
    r"Layered|LDM3D|UniDiffuser|VersatileDiffusion": "it makes more than one image or video, which is not supported",
    r"Framepack|Helios|Forcing|FAR|MultiPrompt": "it makes a video piece by piece, each at a noise level of its own, "
                                                 "which is not supported",
    r"Prior|Decoder|Cascade|Combined|Wuerstchen|UnCLIP|Kandinsky(V22)?Pipeline":
        "it is a stage of a cascade, which is not supported",
    r"Onnx|PAG|Panorama|Paradigms|AttendAndExcite|SAG|DiffEdit|Semantic|ModelEditing|VideoZero":
        "it alters how another family samples; train that family's plain pipeline"}
"""Parts of class names, as regular expressions, of pipelines that are no generators from text, and what to say."""


def family_of(name: str) -> type[Generator]:
    """The family of a pipeline class of the installed diffusers. Raises UserError, with the reason, for others."""
    if name in FAMILIES:
        return FAMILIES[name]
    return made(name, {})


def made(name: str, hints: dict[str, Any]) -> type[Generator]:
    """A family from a pipeline's signature and hints. Raises UserError for what is no generator from text."""
    import diffusers

    kind = getattr(diffusers, name, None)
    if kind is None:
        raise UserError(f"there is no {name} in diffusers {diffusers.__version__}; a newer version may have it")
    for pattern, reason in _OTHER_USES.items():
        if re.search(pattern, name):
            raise UserError(f"{name}: {reason}")
    call, parts = (inspect.signature(method).parameters for method in (kind.__call__, kind.__init__))
    for needed, where in (("prompt", call), ("scheduler", parts), ("vae", parts)):
        if needed not in where:
            raise UserError(f"{name}: it has no {needed}, so it is no generator from text through latents")
    denoiser = next((each for each in ("transformer", "unet") if each in parts), None)
    if denoiser is None:
        raise UserError(f"{name}: it has neither a transformer nor a U-Net")
    image, starts_with_it = call.get("image"), re.search(r"ToVideo|VideoToWorld|(?<!T)I2V|Edit", name)
    if image is not None and (image.default is inspect.Parameter.empty or starts_with_it):
        hints = {"sources": SourceCount("an edit" if "Edit" in name else "image to video")} | hints
    is_video = bool({"num_frames", "frames", "video_length"} & call.keys())
    scale = _number(call, "true_cfg_scale") or _number(call, "guidance_scale") or 1.0
    about = {"pipeline_class": name, "denoiser_name": denoiser, "denoiser_class": _class_of(parts[denoiser].annotation),
             "process_kind": _process_kind(parts["scheduler"].annotation), "default_guidance_scale": float(scale),
             "default_steps": _number(call, "num_inference_steps") or 50,
             "unneeded": {part: _stand_in(parts, part) for part in kind._optional_components
                          if part in ("safety_checker", "image_encoder", "feature_extractor")}}
    return type(name.removesuffix("Pipeline") + "Generator", (VideoGenerator if is_video else Generator,),
                about | _as_methods(hints) | {"__module__": __name__})


def _as_methods(hints: dict[str, Any]) -> dict[str, Any]:
    return {name: staticmethod(value) if inspect.isfunction(value) else value for name, value in hints.items()}


def _stand_in(parts: dict, name: str) -> Any:
    asked = str(parts[name].annotation) if name in parts else ""
    return next((other for kind, other in STAND_INS.items() if kind in asked), None)


def _number(parameters: dict, name: str) -> Any:
    default = parameters[name].default if name in parameters else None
    return None if default is inspect.Parameter.empty else default


def _class_of(annotation: Any) -> str:
    """The network's class in an annotation, which may allow for others or None."""
    kinds = [each for each in get_args(annotation) or (annotation,)
             if isinstance(each, type) and issubclass(each, nn.Module)]
    return kinds[0].__name__ if kinds else ""


def _process_kind(annotation: Any) -> str:
    """Where a pipeline takes any scheduler it is of the years in which all new ones are flows."""
    return "flow" if re.search(r"Flow|UniPCMultistep|SchedulerMixin|Helios", str(annotation)) else "diffusion"


def editing(family: type[Generator]) -> type[Generator]:
    """The same family where each prompt has a source image. Raises UserError where its call takes none."""
    import diffusers

    if family.sources is not None:
        return family
    call = inspect.signature(getattr(diffusers, family.pipeline_class).__call__).parameters
    if "image" not in call:
        raise UserError(f"model.edit: {family.pipeline_class} takes no source image")
    return type(family.__name__, (family,), {"sources": SourceCount("an edit"), "__module__": __name__})


class Families(MutableMapping[str, type[Generator]]):
    """Families by pipeline class. One that has hints alone is made when it is asked for, since that imports its
    pipeline: all of them would take seconds of every command."""

    def __init__(self, written: dict[str, type[Generator]], hints: dict[str, dict[str, Any]]):
        self._made, self._hints = dict(written), hints

    def __getitem__(self, name: str) -> type[Generator]:
        if name not in self._made:
            self._made[name] = made(name, self._hints[name])
        return self._made[name]

    def __setitem__(self, name: str, family: type[Generator]) -> None:
        self._made[name] = family

    def __delitem__(self, name: str) -> None:
        del self._made[name]

    def __contains__(self, name: object) -> bool:
        return name in self._made or name in self._hints

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys((*self._made, *self._hints)))

    def __len__(self) -> int:
        return len(self._made.keys() | self._hints.keys())


FAMILIES = Families(_WRITTEN, HINTS)
