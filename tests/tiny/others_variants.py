"""Small pipelines of classes that take the components of another: from an image, with perturbed attention, faster."""

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from tests.tiny.images import build_sd3, build_sd15, build_sdxl
from tests.tiny.images_flux import build_flux2_klein
from tests.tiny.images_more import build_pixart_sigma, build_sana
from tests.tiny.others_images import build_hunyuan_dit
from tests.tiny.parts import flow_euler, lively
from tests.tiny.videos import build_cogvideox, build_ltx
from tests.tiny.videos_large import build_hunyuan15, build_ltx2
from tests.tiny.videos_more import build_kandinsky5_video, build_sana_video


def _recast(folder: Path, build: Callable[[Path], Path], kind: str, **changes: Any) -> Path:
    """The pipeline that `build` makes, as another class, given by its name, with other options or components."""
    import diffusers

    with TemporaryDirectory() as first:
        getattr(diffusers, kind).from_pretrained(build(Path(first)), **changes).save_pretrained(folder)
    return folder


def build_ltx_image(folder: Path) -> Path:
    return _recast(folder, build_ltx, "LTXImageToVideoPipeline")


def build_ltx2_image(folder: Path) -> Path:
    return _recast(folder, build_ltx2, "LTX2ImageToVideoPipeline")


def build_kandinsky5_video_image(folder: Path) -> Path:
    return _recast(folder, build_kandinsky5_video, "Kandinsky5I2VPipeline")


def build_sana_video_image(folder: Path) -> Path:
    return _recast(folder, build_sana_video, "SanaImageToVideoPipeline", scheduler=flow_euler(shift=8.0))


def build_hunyuan15_image(folder: Path) -> Path:
    from transformers import SiglipImageProcessor, SiglipVisionConfig, SiglipVisionModel

    torch.manual_seed(95)
    eyes = SiglipVisionModel(SiglipVisionConfig(hidden_size=16, intermediate_size=16, num_hidden_layers=2,
                                                num_attention_heads=2, image_size=16, patch_size=8))
    return _recast(folder, build_hunyuan15, "HunyuanVideo15ImageToVideoPipeline", image_encoder=eyes,
                   feature_extractor=SiglipImageProcessor(size={"height": 16, "width": 16}))


def build_sana_sprint(folder: Path) -> Path:
    """One or two steps; its times are angles, and the scale of guidance is an input."""
    from diffusers import SanaTransformer2DModel, SCMScheduler

    torch.manual_seed(96)
    transformer = lively(SanaTransformer2DModel(
        in_channels=4, out_channels=4, num_layers=2, num_attention_heads=2, attention_head_dim=8,
        num_cross_attention_heads=2, cross_attention_head_dim=8, cross_attention_dim=16, caption_channels=32,
        sample_size=8, patch_size=1, qk_norm="rms_norm_across_heads", guidance_embeds=True))
    return _recast(folder, build_sana, "SanaSprintPipeline", transformer=transformer, scheduler=SCMScheduler())


def build_cogvideox_image(folder: Path) -> Path:
    """The image's latents stand in further channels of the first frame."""
    from diffusers import CogVideoXTransformer3DModel

    with TemporaryDirectory() as first:
        sizes = CogVideoXTransformer3DModel.load_config(build_cogvideox(Path(first)), subfolder="transformer")
    torch.manual_seed(97)
    transformer = lively(CogVideoXTransformer3DModel.from_config(sizes | {"in_channels": 8}))
    return _recast(folder, build_cogvideox, "CogVideoXImageToVideoPipeline", transformer=transformer)


def build_flux2_klein_kv(folder: Path) -> Path:
    return _recast(folder, build_flux2_klein, "Flux2KleinKVPipeline")


def build_sd15_pag(folder: Path) -> Path:
    return _recast(folder, build_sd15, "StableDiffusionPAGPipeline")


def build_sdxl_pag(folder: Path) -> Path:
    return _recast(folder, build_sdxl, "StableDiffusionXLPAGPipeline")


def build_sd3_pag(folder: Path) -> Path:
    return _recast(folder, build_sd3, "StableDiffusion3PAGPipeline", pag_applied_layers="blocks.1")


def build_sana_pag(folder: Path) -> Path:
    return _recast(folder, build_sana, "SanaPAGPipeline", pag_applied_layers="transformer_blocks.0")


def build_pixart_sigma_pag(folder: Path) -> Path:
    return _recast(folder, build_pixart_sigma, "PixArtSigmaPAGPipeline", pag_applied_layers="blocks.1")


def build_hunyuan_dit_pag(folder: Path) -> Path:
    return _recast(folder, build_hunyuan_dit, "HunyuanDiTPAGPipeline", pag_applied_layers="blocks.1")


def build_sd15_inpaint(folder: Path) -> Path:
    """To be refused: it wants an image and a mask."""
    return _recast(folder, build_sd15, "StableDiffusionInpaintPipeline")


def build_sd15_control(folder: Path) -> Path:
    """To be refused: it wants an image of edges or the like."""
    from diffusers import ControlNetModel, UNet2DConditionModel

    with TemporaryDirectory() as first:
        network = UNet2DConditionModel.from_pretrained(build_sd15(Path(first)), subfolder="unet")
    return _recast(folder, build_sd15, "StableDiffusionControlNetPipeline",
                   controlnet=ControlNetModel.from_unet(network, conditioning_embedding_out_channels=(8, 8)))
