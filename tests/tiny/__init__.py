"""Small pipelines with random weights, of the real classes: images.py, videos.py and what they share."""

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules

from PIL import Image

from tests.tiny.parts import Guard

IMAGE = Image.linear_gradient("L").convert("RGB").resize((16, 16))

WAN = {"height": 16, "width": 16, "num_frames": 5, "max_sequence_length": 16}
CALLS: dict[str, dict] = {
    "hunyuan15": {"height": 16, "width": 16, "num_frames": 5},
    "ltx2": {"height": 32, "width": 64, "num_frames": 5, "max_sequence_length": 16,  # guided by words only
             "stg_scale": 0.0, "modality_scale": 1.0, "guidance_rescale": 0.0, "audio_guidance_scale": 4.0,
             "audio_stg_scale": 0.0, "audio_modality_scale": 1.0, "audio_guidance_rescale": 0.0},
    "sana_video": {"height": 32, "width": 32, "frames": 5, "max_sequence_length": 16, "use_resolution_binning": False,
                   "complex_human_instruction": None},
    "wan22": WAN,
    "wan22_image": {"image": IMAGE, **WAN},
    "wan22_small": WAN,
    "wan22_small_image": {"image": IMAGE, **WAN},
    "kandinsky5_video": {"height": 16, "width": 16, "num_frames": 5, "max_sequence_length": 32},
    "cosmos25": {"height": 16, "width": 16, "num_frames": 5, "max_sequence_length": 128},
}
"""By NAME of `build_NAME`: what the pipeline's call needs beside prompt, steps and generator to be quick."""

LOADS: dict[str, dict] = {"cosmos25": {"safety_checker": Guard()}}
"""By NAME: what `from_pretrained` needs beside the folder."""


def builders() -> dict[str, Callable[[Path], Path]]:
    """Every `build_NAME` of this package, by NAME."""
    modules = [import_module(f"{__name__}.{module.name}") for module in iter_modules(__path__)]
    return {name.removeprefix("build_"): build for module in modules for name, build in vars(module).items()
            if name.startswith("build_")}
