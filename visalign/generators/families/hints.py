"""What cannot be observed of a pipeline, by its class; every other convention is learnt by watching it.

An entry without hints is a family that is proved as it is: tests run on a small pipeline of it.
"""

import contextlib
import math
import sys
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from visalign.generators.families.ltx import LTXGenerator
from visalign.generators.shape import Shape
from visalign.media.source_images import SourceCount

AtSize = Callable[[Any, Shape], contextlib.AbstractContextManager]


def _attribute(name: str, value: Callable[[Any, Any, Shape], Any], of_module: bool = False) -> AtSize:
    """Sets something that a pipeline, or the module of its class, fixes for one size.

    value: of (pipeline, value before, shape).
    """
    @contextlib.contextmanager
    def at_size(pipeline, shape: Shape) -> Iterator[None]:
        owner = sys.modules[type(pipeline).__module__] if of_module else pipeline
        before = getattr(owner, name)
        setattr(owner, name, value(pipeline, before, shape))
        try:
            yield
        finally:
            setattr(owner, name, before)

    return at_size


def _area(shape: Shape) -> int:
    height, width = shape.size
    return max(height * width, 64 * 64)  # the least that its sides of 32 pixels can have


# Editors scale a source image to a megapixel, whatever size is asked for, and a small recipe would pay for it.
_SOURCE_AT_SIZE = _attribute("calculate_dimensions", lambda pipeline, before, shape: lambda area, ratio: before(
    _area(shape), ratio), of_module=True)
_PLUS_SOURCE_AT_SIZE = _attribute("VAE_IMAGE_SIZE", lambda pipeline, before, shape: _area(shape), of_module=True)
_AREA_IN_LATENTS = _attribute("default_sample_size", lambda pipeline, before, shape: (
    math.sqrt(math.prod(shape.size)) + 1e-3) / pipeline.vae_scale_factor)


class PassAll(nn.Module):
    """In place of Cosmos's safety checker, without which its pipelines do not run.

    It is of a further package and of further networks, and blurs faces and refuses prompts, which no reward may see.
    """

    dtype, device = torch.float32, torch.device("cpu")

    def check_text_safety(self, prompt: str) -> bool:
        return True

    def check_video_safety(self, frames: Any) -> Any:
        return frames


STAND_INS = {"CosmosSafetyChecker": PassAll()}
"""For parts without which a pipeline does not run, by the class that it asks for."""

_COMFYUI = "diffusion_model."
"""Before diffusers' layer names, in ComfyUI and what reads its files."""

HINTS: dict[str, dict[str, Any]] = {
    "ZImagePipeline": {
        "default_guidance_scale": 5.0,  # its call's scale is 1 less, and its authors' 4 is not the call's default
        "made_for": Shape(1024, 1024),  # its call leaves the size to its code
        "interface_prefix": _COMFYUI,
    },
    "QwenImagePipeline": {
        "blank_prompt": " ",  # it is guided only where a negative prompt is given, and was trained with this one
        "interface_prefix": _COMFYUI,
    },
    "QwenImageEditPipeline": {"blank_prompt": " ", "sources": SourceCount("an edit"), "at_size": _SOURCE_AT_SIZE,
                              "interface_prefix": _COMFYUI},
    "QwenImageEditPlusPipeline": {"blank_prompt": " ", "sources": SourceCount("an edit"),
                                  "at_size": _PLUS_SOURCE_AT_SIZE, "interface_prefix": _COMFYUI},
    "QwenImage21Pipeline": {
        "blank_prompt": " ",  # as Qwen-Image
        "call_options": {"use_kv_cache": False},  # what it keeps between steps would hide the prompt from all but one
    },
    "Flux2KleinPipeline": {},
    "Flux2Pipeline": {},
    "Krea2Pipeline": {
        "default_guidance_scale": 5.5,  # its call's scale is 1 less
    },
    "ChromaPipeline": {
        "recomputes_wrongly": True,  # diffusers' checkpointing leaves the mask of its single blocks out
    },
    "SanaPipeline": {
        "process_kind": "flow",  # its scheduler's class solves flows and diffusions alike
    },
    "SanaVideoPipeline": {
        "process_kind": "flow",  # its scheduler's class solves flows and diffusions alike
        "made_for": Shape(fps=16.0),  # its call has no frame rate
    },
    "Lumina2Pipeline": {},
    "AuraFlowPipeline": {},
    "CogView4Pipeline": {"told_fit": {"original_size": slice(0, 2), "crop_coords": slice(2, 4),
                                     "target_size": slice(4, 6)}},
    "Kandinsky5T2IPipeline": {  # it takes the nearest of its seven sizes
        "at_size": _attribute("resolutions", lambda pipeline, before, shape: [shape.size[::-1]]),
    },
    "HiDreamImagePipeline": {
        "at_size": _AREA_IN_LATENTS,  # it scales every size to one area
        "interface_prefix": _COMFYUI,
        # Its experts alone: the network itself gives its output in another order in that mode.
        "trained_in_training_mode": ("MOEFeedForwardSwiGLU",),
        # attention alone, as the published recipes train it: an expert may see no token of a sample
        "lora_targets": ("attn1.to_q", "attn1.to_k", "attn1.to_v", "attn1.to_out",
                         "attn1.to_q_t", "attn1.to_k_t", "attn1.to_v_t", "attn1.to_out_t"),
    },
    "PixArtSigmaPipeline": {},
    "HunyuanVideo15Pipeline": {
        "default_guidance_scale": 6.0,  # its scale is its guider's
        "made_for": Shape(480, 848, fps=24.0),  # its call has neither a size nor a frame rate
        "vae_batch": 1,  # its VAE's attention masks one video's frames only
    },
    "LTX2Pipeline": {
        # Of its four passes a step the one that leads away from the negative prompt is kept: the others are for
        # sampling alone, and could not be followed in training.
        "call_options": {"stg_scale": 0.0, "modality_scale": 1.0, "guidance_rescale": 0.0,
                         "audio_guidance_scale": None, "audio_stg_scale": 0.0, "audio_modality_scale": 1.0,
                         "audio_guidance_rescale": 0.0},
        "interface_name": LTXGenerator.interface_name,
        # The video's own layers: sound is sampled along, and not trained.
        "lora_targets": ("attn1.to_q", "attn1.to_k", "attn1.to_v", "attn1.to_out.0",
                         "attn2.to_q", "attn2.to_k", "attn2.to_v", "attn2.to_out.0"),
        "made_for": Shape(frames=121),  # its call leaves the length to the model
    },
    "Kandinsky5T2VPipeline": {"made_for": Shape(fps=24.0)},  # its call has no frame rate
    "MochiPipeline": {
        "made_for": Shape(fps=30.0),  # its call has no frame rate
        "rises": True,  # trained with noise levels from noise to data, which elsewhere would be a mistake
    },
    "AllegroPipeline": {
        "made_for": Shape(720, 1280, 88, 15.0),  # its call leaves size and length to the network, and has no frame rate
        "needs_tiling": True,  # its VAE has no other way
    },
    "EasyAnimatePipeline": {
        "blank_prompt": "",  # its call fails without a negative prompt
        "made_for": Shape(fps=8.0),  # its call has no frame rate
    },
    "Cosmos2_5_PredictBasePipeline": {
        "default_guidance_scale": 8.0,  # its call's scale is 1 less
        "made_for": Shape(fps=16.0),  # its call has no frame rate
    },
}
