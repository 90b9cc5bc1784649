"""Single files as the models' authors and user interfaces write them (the latent diffusion layout), from a pipeline."""

import re

import torch
from torch import Tensor

_RESNET = {"norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1", "norm2": "out_layers.0",
           "conv2": "out_layers.3", "conv_shortcut": "skip_connection"}
_ENDS = {"time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2",
         "conv_in": "input_blocks.0.0", "conv_norm_out": "out.0", "conv_out": "out.2",
         "add_embedding.linear_1": "label_emb.0.0", "add_embedding.linear_2": "label_emb.0.2"}


def unet_tensors(unet) -> dict[str, Tensor]:
    """`model.diffusion_model.` ..."""
    step, found = unet.config.layers_per_block + 1, {}
    with_attention = {int(n) for name in unet.state_dict() for n in re.findall(r"^up_blocks\.(\d+)\.att", name)}

    def place(match) -> str:
        side, block, kind, number = match[1], int(match[2]), match[3], int(match[4])
        if side == "down":
            at = 1 + block * step + (number if kind != "downsamplers" else step - 1)
            return f"input_blocks.{at}." + {"resnets": "0", "attentions": "1", "downsamplers": "0.op"}[kind]
        at = block * step + (number if kind != "upsamplers" else step - 1)
        last = f"{2 if block in with_attention else 1}.conv"
        return f"output_blocks.{at}." + {"resnets": "0", "attentions": "1", "upsamplers": last}[kind]

    for name, tensor in unet.state_dict().items():
        stem, _, end = name.rpartition(".")
        new = _ENDS.get(stem, stem)
        new = re.sub(r"^(down|up)_blocks\.(\d+)\.(\w+)\.(\d+)(\.conv$)?", place, new)
        new = re.sub(r"^mid_block\.(resnets|attentions)\.(\d)",
                     lambda m: f"middle_block.{1 if m[1] == 'attentions' else 2 * int(m[2])}", new)
        if ".attentions." not in name:
            new = re.sub(r"\.(\w+)$", lambda m: "." + _RESNET.get(m[1], m[1]), new)
        found[f"model.diffusion_model.{new}.{end}"] = tensor
    return found


def vae_tensors(vae) -> dict[str, Tensor]:
    """`first_stage_model.` ..."""
    count, found = len(vae.config.up_block_types), {}
    for name, tensor in vae.state_dict().items():
        new = re.sub(r"down_blocks\.(\d+)\.resnets", r"down.\1.block", name)
        new = re.sub(r"up_blocks\.(\d+)\.", lambda m: f"up.{count - 1 - int(m[1])}.", new)
        new = new.replace(".resnets.", ".block.")
        new = re.sub(r"down_blocks\.(\d+)\.", r"down.\1.", new)
        new = re.sub(r"mid_block\.block\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", new)
        new = new.replace("mid_block.attentions.0", "mid.attn_1").replace("samplers.0.conv", "sample.conv")
        new = new.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
        if "attn_1" in new:
            for old, word in (("group_norm", "norm"), ("to_q", "q"), ("to_k", "k"), ("to_v", "v"),
                              ("to_out.0", "proj_out")):
                new = new.replace(old, word)
            tensor = tensor[..., None, None] if tensor.ndim == 2 else tensor
        found[f"first_stage_model.{new}"] = tensor
    return found


def clip_tensors(encoder, prefix: str) -> dict[str, Tensor]:
    """CLIP-L under the names of transformers before 5.6."""
    return {f"{prefix}text_model.{name.removeprefix('text_model.')}": tensor
            for name, tensor in encoder.state_dict().items()}


def open_clip_tensors(encoder, prefix: str) -> dict[str, Tensor]:
    """CLIP-G as open_clip names it."""
    own = {name.removeprefix("text_model."): tensor for name, tensor in encoder.state_dict().items()}
    found = {"token_embedding.weight": own["embeddings.token_embedding.weight"],
             "positional_embedding": own["embeddings.position_embedding.weight"],
             "text_projection": own["text_projection.weight"].T.contiguous()}
    found |= {f"ln_final.{end}": own[f"final_layer_norm.{end}"] for end in ("weight", "bias")}
    for layer in range(encoder.config.num_hidden_layers):
        old, new = f"encoder.layers.{layer}.", f"transformer.resblocks.{layer}."
        for end in ("weight", "bias"):
            found[f"{new}attn.in_proj_{end}"] = torch.cat([own[f"{old}self_attn.{part}_proj.{end}"] for part in "qkv"])
            for theirs, ours in (("attn.out_proj", "self_attn.out_proj"), ("ln_1", "layer_norm1"),
                                 ("ln_2", "layer_norm2"), ("mlp.c_fc", "mlp.fc1"), ("mlp.c_proj", "mlp.fc2")):
                found[f"{new}{theirs}.{end}"] = own[f"{old}{ours}.{end}"]
    return {prefix + name: tensor for name, tensor in found.items()}
