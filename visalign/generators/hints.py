"""What cannot be observed of a pipeline, by its class; every other convention is learnt by watching it.

An entry without hints is a family that is proved as it is: tests run on a small pipeline of it.
"""

from typing import Any

from visalign.generators.shape import Shape
from visalign.media.source_images import SourceCount

HINTS: dict[str, dict[str, Any]] = {
    "ZImagePipeline": {
        "default_guidance_scale": 5.0,  # its call's scale is 1 less, and its authors' 4 is not the call's default
    },
    "QwenImagePipeline": {
        "blank_prompt": " ",  # it is guided only where a negative prompt is given, and was trained with this one
    },
    "QwenImageEditPipeline": {"blank_prompt": " ", "sources": SourceCount("an edit")},
    "QwenImageEditPlusPipeline": {"blank_prompt": " ", "sources": SourceCount("an edit", most=3)},
    "Flux2KleinPipeline": {},
    "Flux2Pipeline": {},
    "Krea2Pipeline": {
        "default_guidance_scale": 5.5,  # its call's scale is 1 less
    },
    "ChromaPipeline": {},
    "SanaPipeline": {
        "process_kind": "flow",  # its scheduler's class solves flows and diffusions alike
    },
    "SanaVideoPipeline": {
        "process_kind": "flow",  # its scheduler's class solves flows and diffusions alike
        "made_for": Shape(fps=16.0),  # its call has no frame rate
    },
    "Lumina2Pipeline": {},
    "AuraFlowPipeline": {},
    "CogView4Pipeline": {},
    "Kandinsky5T2IPipeline": {},
    "HiDreamImagePipeline": {},
    "PixArtSigmaPipeline": {},
    "HunyuanVideo15Pipeline": {
        "default_guidance_scale": 6.0,  # its scale is its guider's
        "made_for": Shape(480, 848, fps=24.0),  # its call has neither a size nor a frame rate
    },
    "LTX2Pipeline": {
        # Of its four passes a step the one that leads away from the negative prompt is kept: the others are for
        # sampling alone, and could not be followed in training.
        "call_options": {"stg_scale": 0.0, "modality_scale": 1.0, "guidance_rescale": 0.0,
                         "audio_guidance_scale": None, "audio_stg_scale": 0.0, "audio_modality_scale": 1.0,
                         "audio_guidance_rescale": 0.0},
        # The video's own layers: sound is sampled along, and not trained.
        "lora_targets": ("attn1.to_q", "attn1.to_k", "attn1.to_v", "attn1.to_out.0",
                         "attn2.to_q", "attn2.to_k", "attn2.to_v", "attn2.to_out.0"),
        "made_for": Shape(frames=121),  # its call leaves the length to the model
    },
    "Kandinsky5T2VPipeline": {"made_for": Shape(fps=24.0)},  # its call has no frame rate
    "Cosmos2_5_PredictBasePipeline": {
        "default_guidance_scale": 8.0,  # its call's scale is 1 less
        "made_for": Shape(fps=16.0),  # its call has no frame rate
    },
}
