"""Small pipelines with random weights, of the real classes: images.py, videos.py and what they share."""

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import Any

import numpy as np
from PIL import Image

from tests.tiny.parts import Guard

IMAGE = Image.linear_gradient("L").convert("RGB").resize((16, 16))


def source_image(width: int, height: int) -> Image.Image:
    """No two of its pixels are the same."""
    across, down = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return Image.fromarray(np.stack([across, down, 255 - across], axis=-1).astype(np.uint8))


WAN = {"height": 16, "width": 16, "num_frames": 5, "max_sequence_length": 16}
CALLS: dict[str, dict] = {
    "sd15": {"height": 16, "width": 24},
    "sdxl": {"height": 16, "width": 24},
    "sd3": {"height": 16, "width": 16, "max_sequence_length": 16},
    "flux": {"height": 16, "width": 24, "max_sequence_length": 16},
    "z_image": {"height": 16, "width": 24, "max_sequence_length": 32},
    "qwen_image": {"height": 16, "width": 24, "negative_prompt": " "},
    "qwen_image_edit": {"height": 16, "width": 24, "negative_prompt": " ", "image": source_image(48, 32)},
    "qwen_image_edit_plus": {"height": 16, "width": 24, "negative_prompt": " ", "image": source_image(32, 32)},
    "flux2_klein": {"height": 16, "width": 24, "max_sequence_length": 32},
    "flux2_dev": {"height": 16, "width": 24, "max_sequence_length": 96},
    "flux_kontext": {"height": 16, "width": 24, "max_sequence_length": 16, "image": source_image(24, 16),
                     "max_area": 16 * 24, "_auto_resize": False},
    "krea2": {"height": 16, "width": 24, "max_sequence_length": 32},
    "chroma": {"height": 16, "width": 24, "max_sequence_length": 16},
    "qwen_image21": {"height": 64, "width": 96, "negative_prompt": " ", "use_kv_cache": False},
    "sana": {"height": 32, "width": 64, "max_sequence_length": 16, "use_resolution_binning": False,
             "complex_human_instruction": None},
    "lumina2": {"height": 64, "width": 96, "max_sequence_length": 48},
    "aura_flow": {"height": 16, "width": 24, "max_sequence_length": 16},
    "cogview4": {"height": 16, "width": 32},
    "kandinsky5_image": {"height": 32, "width": 48},
    "hidream": {"height": 16, "width": 64, "max_sequence_length": 16},
    "pixart_sigma": {"height": 16, "width": 24, "max_sequence_length": 16, "use_resolution_binning": False,
                     "clean_caption": False},
    "wan": WAN,
    "wan_image": {"image": IMAGE, **WAN},
    "ltx": {"height": 32, "width": 64, "num_frames": 9, "max_sequence_length": 16},
    "hunyuan": {"height": 16, "width": 16, "num_frames": 5, "max_sequence_length": 16},
    "cogvideox": {"height": 32, "width": 32, "num_frames": 9, "max_sequence_length": 8},
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
    "mochi": {"height": 32, "width": 32, "num_frames": 7, "max_sequence_length": 16},
    "allegro": {"height": 32, "width": 32, "num_frames": 8, "max_sequence_length": 16, "clean_caption": False},
    "latte": {"height": 16, "width": 16, "video_length": 2, "clean_caption": False},
    "skyreels2": WAN,
    "skyreels2_forcing": WAN,
    "easyanimate": {"height": 32, "width": 32, "num_frames": 5, "negative_prompt": ""},
    "pixart_alpha": {"height": 16, "width": 16, "max_sequence_length": 16, "clean_caption": False,
                     "use_resolution_binning": False},
    "cogview3": {"height": 16, "width": 16, "max_sequence_length": 16},
    "lumina": {"height": 64, "width": 64, "max_sequence_length": 16, "clean_caption": False},
    "bria": {"height": 16, "width": 16, "max_sequence_length": 16},
    "longcat": {"height": 16, "width": 16, "enable_prompt_rewrite": False},
    "hunyuan_image": {"height": 16, "width": 16},
    "hunyuan_dit": {"height": 16, "width": 16, "use_resolution_binning": False},
    "omnigen": {"height": 64, "width": 64},
    "cosmos1": {"height": 16, "width": 16, "num_frames": 9, "max_sequence_length": 16},
    "cosmos2_image": {"height": 16, "width": 16, "max_sequence_length": 16},
    "ovis": {"height": 16, "width": 16, "max_sequence_length": 32},
    "ernie": {"height": 16, "width": 16},
    "nucleus": {"height": 16, "width": 16},
    "ideogram4": {"height": 16, "width": 16, "max_sequence_length": 64, "guidance_scale": 4.0,
                  "guidance_schedule": None},
    "bria_fibo": {"height": 64, "width": 64, "max_sequence_length": 32, "negative_prompt": "a face"},
    "anyflow": {**WAN, "guidance_scale": 4.0},
    "motif_video": WAN,
    "helios": {**WAN, "num_latent_frames_per_chunk": 3},
    "animatediff": {"height": 16, "width": 16, "num_frames": 2},
    "latent_consistency": {"height": 16, "width": 16},
    "pixels_if": {"height": 16, "width": 16, "clean_caption": False},
    "kandinsky3": {"height": 16, "width": 16},
    "text_to_video_sd": {"height": 16, "width": 16, "num_frames": 2},
    "prx": {"height": 16, "width": 16, "use_resolution_binning": False},
    "kandinsky6": {"height": 16, "width": 16, "num_frames": 5, "max_sequence_length": 32},
    "sana_sprint": {"height": 32, "width": 64, "max_sequence_length": 16, "use_resolution_binning": False,
                    "complex_human_instruction": None, "intermediate_timesteps": None},
    "prx_pixel": {"height": 16, "width": 16, "use_resolution_binning": False},
    "bria_fibo2": {"height": 16, "width": 16},
    "dreamlite": {"height": 16, "width": 16, "max_sequence_length": 32},
    "hunyuan15_image": {"image": IMAGE, "num_frames": 5},
    "amused": {"height": 16, "width": 16},
    "sd15_inpaint": {"height": 16, "width": 16, "image": IMAGE, "mask_image": IMAGE},
    "sd15_control": {"height": 16, "width": 16, "image": IMAGE},
    "anyflow_far": {**WAN, "guidance_scale": 4.0},
    "cosmos2_video": {"image": IMAGE, "height": 16, "width": 16, "num_frames": 5, "max_sequence_length": 16},
    "stable_audio": {"audio_end_in_s": 2.0},
    "cascade_prior": {"height": 128, "width": 128},
}
"""By NAME of `build_NAME`: what the pipeline's call needs beside prompt, steps and generator to be quick."""

_OF = {"cogvideox_image": "cogvideox", "ltx_image": "ltx", "ltx2_image": "ltx2", "sana_video_image": "sana_video",
       "kandinsky5_video_image": "kandinsky5_video", "flux2_klein_kv": "flux2_klein", "sd15_pag": "sd15",
       "sdxl_pag": "sdxl", "sd3_pag": "sd3", "sana_pag": "sana", "pixart_sigma_pag": "pixart_sigma",
       "hunyuan_dit_pag": "hunyuan_dit"}  # these take what the pipelines take that they are made of
CALLS |= {name: CALLS[other] | ({"image": IMAGE} if name.endswith("_image") else {}) for name, other in _OF.items()}
CALLS["kandinsky5_video_image"]["num_frames"] = 21  # its first four latent frames take on the statistics of the next

EDIT_CALLS: dict[str, dict] = {
    "flux2_klein": {"image": source_image(64, 64)},
    "flux2_dev": {"image": source_image(64, 64)},
    "qwen_image21": {"image": source_image(64, 64).convert("RGBA"), "output_resolution": 64},
}
"""By NAME: what an edit needs beside `CALLS`, of pipelines that also make images from words alone."""


def _small_sides(area: float, ratio: float) -> tuple[int, int, None]:
    return (64, 32, None) if ratio > 1 else (32, 64, None) if ratio < 1 else (32, 32, None)


def _kept(value: Any) -> property:
    """Of a class whose instances set another."""
    return property(lambda self: value, lambda self, other: None)


_PIPELINES = "diffusers.pipelines"
_EDIT = f"{_PIPELINES}.qwenimage.pipeline_qwenimage_edit"
SMALL: dict[str, dict[str, Any]] = {
    "qwen_image_edit": {f"{_EDIT}.calculate_dimensions": _small_sides},
    "qwen_image_edit_plus": {f"{_EDIT}_plus.CONDITION_IMAGE_SIZE": 32 * 32, f"{_EDIT}_plus.VAE_IMAGE_SIZE": 32 * 32},
    "kandinsky5_image": {f"{_PIPELINES}.kandinsky5.pipeline_kandinsky_t2i.Kandinsky5T2IPipeline.resolutions":
                         _kept([(48, 32), (32, 32), (32, 48)])},
    "hidream": {f"{_PIPELINES}.hidream_image.pipeline_hidream_image.HiDreamImagePipeline.default_sample_size":
                _kept(16)},
}
"""By NAME: sizes that a pipeline fixes in its code, for `monkeypatch.setattr(path, value, raising=False)`."""

LOADS: dict[str, dict] = {name: {"safety_checker": Guard()}
                          for name in ("cosmos25", "cosmos1", "cosmos2_image", "cosmos2_video")}
"""By NAME: what `from_pretrained` needs beside the folder."""


def builders() -> dict[str, Callable[[Path], Path]]:
    """Every `build_NAME` of this package, by NAME."""
    modules = [import_module(f"{__name__}.{module.name}") for module in iter_modules(__path__)]
    return {name.removeprefix("build_"): build for module in modules for name, build in vars(module).items()
            if name.startswith("build_")}
