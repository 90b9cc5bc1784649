"""A whole Stable Diffusion 1.x or XL model as one file, under the names that its authors' code gave the weights.

User interfaces (A1111, Forge, ComfyUI, InvokeAI) take such a file as a checkpoint, and diffusers reads it back with
`from_single_file`. The names follow from the architecture: numbered input and output blocks in place of resolutions.
"""

import re
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from visalign.errors import UserError
from visalign.generators.files.single_file import DENOISER, PREDICTION_MARKS
from visalign.storage.weights import check_finite, write_tensors

_IN_RESNET = {"norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1", "norm2": "out_layers.0",
              "conv2": "out_layers.3", "conv_shortcut": "skip_connection"}
_OUTER = {"time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2",
          "add_embedding.linear_1": "label_emb.0.0", "add_embedding.linear_2": "label_emb.0.2",
          "conv_in": "input_blocks.0.0", "conv_norm_out": "out.0", "conv_out": "out.2"}
_MIDDLE = {"resnets.0": "0", "attentions.0": "1", "resnets.1": "2"}
_IN_VAE = {"mid_block.resnets.0": "mid.block_1", "mid_block.resnets.1": "mid.block_2",
           "mid_block.attentions.0": "mid.attn_1", "group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v",
           "to_out.0": "proj_out", "conv_shortcut": "nin_shortcut", "conv_norm_out": "norm_out"}
_IN_OPEN_CLIP = {"layer_norm1": "ln_1", "layer_norm2": "ln_2", "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj",
                 "self_attn.out_proj": "attn.out_proj"}
_OPEN_CLIP = {"embeddings.token_embedding.weight": "token_embedding.weight",
              "embeddings.position_embedding.weight": "positional_embedding",
              "final_layer_norm.weight": "ln_final.weight", "final_layer_norm.bias": "ln_final.bias"}
_BLOCK = re.compile(r"(down|up)_blocks\.(\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.+)")
_CLIP = {"StableDiffusionPipeline": {"text_encoder": "cond_stage_model.transformer.text_model."},
         "StableDiffusionXLPipeline": {"text_encoder": "conditioner.embedders.0.transformer.text_model.",
                                       "text_encoder_2": "conditioner.embedders.1.model."}}
"""Where a file of either kind holds the text encoders."""
ARCHITECTURES = {"StableDiffusionPipeline": "stable-diffusion-v1",
                 "StableDiffusionXLPipeline": "stable-diffusion-xl-v1-base"}
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def one_file_holds(pipeline) -> bool:
    """Whether such files exist for this pipeline: not for SD2, whose text encoder has lost its last layer."""
    first = pipeline.components.get("text_encoder")
    return type(pipeline).__name__ in ARCHITECTURES and first is not None and (
        "text_encoder_2" in pipeline.components or first.config.hidden_act == "quick_gelu")


def write_single_file(pipeline, path: Path, precision: str, title: str) -> None:
    """Write the pipeline's denoiser, VAE and text encoders in `precision` (a key of DTYPES).

    Raises UserError for a weight that is not finite in it.
    """
    dtype, metadata = DTYPES[precision], _metadata(pipeline.scheduler, type(pipeline).__name__, title)
    tensors = {name: tensor.detach().to(dtype) for name, tensor in tensors_of(pipeline)}
    check_finite(tensors.items(), f"output.single_file {precision}")
    write_tensors(path, tensors | _marks(pipeline.scheduler), metadata)


def tensors_of(pipeline) -> Iterator[tuple[str, Tensor]]:
    """(name in the file, weight) of every network."""
    unet, vae = pipeline.unet, pipeline.vae
    attending = {number for number, block in enumerate(unet.up_blocks) if hasattr(block, "attentions")}
    for name, tensor in unet.state_dict().items():
        yield DENOISER + denoiser_name(name, unet.config.layers_per_block, attending), tensor
    for name, tensor in vae.state_dict().items():
        new = vae_name(name, len(vae.config.up_block_types))
        if ".attn_1." in new and new.endswith("weight") and tensor.ndim == 2:  # a convolution of 1 x 1 there
            tensor = tensor[:, :, None, None]
        yield f"first_stage_model.{new}", tensor
    for part, prefix in _CLIP[type(pipeline).__name__].items():
        encoder = pipeline.components[part]
        convert = _open_clip if prefix.endswith(".model.") else _clip
        for name, tensor in convert(encoder):
            yield prefix + name, tensor


def denoiser_name(name: str, layers: int, attending: set[int]) -> str:
    """The name of a U-Net's weight with `layers` residual blocks at each resolution on its way down.

    attending: the numbers of the up blocks with attention, whose upsampler comes after it.
    """
    for ours, theirs in _OUTER.items():
        if name.startswith(f"{ours}."):
            return theirs + name.removeprefix(ours)
    if name.startswith("mid_block."):
        kind, number, rest = name.removeprefix("mid_block.").split(".", 2)
        return f"middle_block.{_MIDDLE[f'{kind}.{number}']}.{_in_resnet(rest) if kind == 'resnets' else rest}"
    found = _BLOCK.fullmatch(name)
    if found is None:
        raise UserError(f"output.single_file: the weight {name} has no name in files of this kind; set it to none")
    way, block, kind, number, rest = found[1], int(found[2]), found[3], int(found[4]), found[5]
    first = block * (layers + 1) + (way == "down")
    stem = f"{'input' if way == 'down' else 'output'}_blocks"
    if kind == "downsamplers":
        return f"{stem}.{first + layers}.0.op.{rest.removeprefix('conv.')}"
    if kind == "upsamplers":
        return f"{stem}.{first + layers}.{1 + (block in attending)}.{rest}"
    return f"{stem}.{first + number}.{'01'[kind == 'attentions']}.{_in_resnet(rest) if kind == 'resnets' else rest}"


def _in_resnet(rest: str) -> str:
    layer, _, side = rest.partition(".")
    return f"{_IN_RESNET[layer]}.{side}"


def vae_name(name: str, levels: int) -> str:
    """The name of a weight of an AutoencoderKL with `levels` resolutions."""
    for ours, theirs in _IN_VAE.items():
        name = name.replace(f".{ours}.", f".{theirs}.")
    name = re.sub(r"down_blocks\.(\d+)\.", r"down.\1.", name)
    name = re.sub(r"up_blocks\.(\d+)\.", lambda found: f"up.{levels - 1 - int(found[1])}.", name)
    return name.replace(".resnets.", ".block.").replace("samplers.0.", "sample.")


def _clip(encoder: nn.Module) -> Iterator[tuple[str, Tensor]]:
    for name, tensor in encoder.state_dict().items():
        yield name.removeprefix("text_model."), tensor


def _open_clip(encoder: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """As open_clip names them: query, key and value in one matrix, the projection transposed."""
    named = dict(_clip(encoder))
    for name, tensor in named.items():
        layer = re.fullmatch(r"encoder\.layers\.(\d+)\.(.+)\.(weight|bias)", name)
        if name == "text_projection.weight":
            yield "text_projection", tensor.T
        elif layer is None:
            yield _OPEN_CLIP[name], tensor
        elif layer[2] == "self_attn.q_proj":
            three = [named[name.replace("q_proj", f"{side}_proj")] for side in "qkv"]
            yield f"transformer.resblocks.{layer[1]}.attn.in_proj_{layer[3]}", torch.cat(three)
        elif layer[2] in _IN_OPEN_CLIP:
            yield f"transformer.resblocks.{layer[1]}.{_IN_OPEN_CLIP[layer[2]]}.{layer[3]}", tensor


def _marks(scheduler) -> dict[str, Tensor]:
    """Empty tensors that say how it predicts, where that is not epsilon."""
    velocity, zero_signal = PREDICTION_MARKS
    config = scheduler.config
    return ({velocity: torch.empty(0)} if config.get("prediction_type") == "v_prediction" else {}) | (
        {zero_signal: torch.empty(0)} if config.get("rescale_betas_zero_snr") else {})


def _metadata(scheduler, pipeline_class: str, title: str) -> dict[str, str]:
    """The header by Stability's model specification 1.0."""
    velocity = scheduler.config.get("prediction_type") == "v_prediction"
    return {"format": "pt", "modelspec.sai_model_spec": "1.0.0", "modelspec.title": title,
            "modelspec.architecture": ARCHITECTURES[pipeline_class],
            "modelspec.implementation": "https://github.com/Stability-AI/generative-models",
            "modelspec.prediction_type": "v" if velocity else "epsilon"}
