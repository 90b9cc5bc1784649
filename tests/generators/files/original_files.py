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
             "positional_embedding": own["embeddings.position_embedding.weight"]}
    if "text_projection.weight" in own:
        found["text_projection"] = own["text_projection.weight"].T.contiguous()
    found |= {f"ln_final.{end}": own[f"final_layer_norm.{end}"] for end in ("weight", "bias")}
    for layer in range(encoder.config.num_hidden_layers):
        old, new = f"encoder.layers.{layer}.", f"transformer.resblocks.{layer}."
        for end in ("weight", "bias"):
            found[f"{new}attn.in_proj_{end}"] = torch.cat([own[f"{old}self_attn.{part}_proj.{end}"] for part in "qkv"])
            for theirs, ours in (("attn.out_proj", "self_attn.out_proj"), ("ln_1", "layer_norm1"),
                                 ("ln_2", "layer_norm2"), ("mlp.c_fc", "mlp.fc1"), ("mlp.c_proj", "mlp.fc2")):
                found[f"{new}{theirs}.{end}"] = own[f"{old}{ours}.{end}"]
    return {prefix + name: tensor for name, tensor in found.items()}


_SD3 = {"pos_embed.pos_embed": "pos_embed", "pos_embed.proj": "x_embedder.proj", "proj_out": "final_layer.linear",
        "time_text_embed.timestep_embedder.linear_1": "t_embedder.mlp.0",
        "time_text_embed.timestep_embedder.linear_2": "t_embedder.mlp.2",
        "time_text_embed.text_embedder.linear_1": "y_embedder.mlp.0",
        "time_text_embed.text_embedder.linear_2": "y_embedder.mlp.2",
        "norm_out.linear": "final_layer.adaLN_modulation.1"}
_SD3_BLOCK = {"attn.norm_q": "x_block.attn.ln_q", "attn.norm_k": "x_block.attn.ln_k",
              "attn.norm_added_q": "context_block.attn.ln_q", "attn.norm_added_k": "context_block.attn.ln_k",
              "attn.to_out.0": "x_block.attn.proj", "attn.to_add_out": "context_block.attn.proj",
              "attn2.norm_q": "x_block.attn2.ln_q", "attn2.norm_k": "x_block.attn2.ln_k",
              "attn2.to_out.0": "x_block.attn2.proj", "norm1.linear": "x_block.adaLN_modulation.1",
              "norm1_context.linear": "context_block.adaLN_modulation.1", "ff.net.0.proj": "x_block.mlp.fc1",
              "ff.net.2": "x_block.mlp.fc2", "ff_context.net.0.proj": "context_block.mlp.fc1",
              "ff_context.net.2": "context_block.mlp.fc2"}
_FLUX = {"x_embedder": "img_in", "context_embedder": "txt_in", "proj_out": "final_layer.linear",
         "norm_out.linear": "final_layer.adaLN_modulation.1"}
_FLUX_ENTRIES = {"timestep_embedder": "time_in", "guidance_embedder": "guidance_in", "text_embedder": "vector_in"}
_FLUX |= {f"time_text_embed.{name}.linear_{number}": f"{other}.{place}_layer"
          for name, other in _FLUX_ENTRIES.items() for number, place in ((1, "in"), (2, "out"))}
_FLUX_BLOCK = {"norm1.linear": "img_mod.lin", "norm1_context.linear": "txt_mod.lin", "ff.net.0.proj": "img_mlp.0",
               "ff.net.2": "img_mlp.2", "ff_context.net.0.proj": "txt_mlp.0", "ff_context.net.2": "txt_mlp.2",
               "attn.to_out.0": "img_attn.proj", "attn.to_add_out": "txt_attn.proj"}
_FLUX_SINGLE = {"norm.linear": "modulation.lin", "proj_out": "linear2"}
_FLUX_NORMS = {"attn.norm_q": "img_attn.norm.query_norm", "attn.norm_k": "img_attn.norm.key_norm",
               "attn.norm_added_q": "txt_attn.norm.query_norm", "attn.norm_added_k": "txt_attn.norm.key_norm"}
_FLUX_SINGLE_NORMS = {"attn.norm_q": "norm.query_norm", "attn.norm_k": "norm.key_norm"}


def _swapped(tensor: Tensor) -> Tensor:
    return torch.cat(tensor.chunk(2)[::-1])


def _joined(own: dict[str, Tensor], stem: str, parts: tuple[str, ...]) -> dict[str, Tensor]:
    """Weight and bias of several layers in one."""
    return {end: torch.cat([own[f"{stem}{part}.{end}"] for part in parts]) for end in ("weight", "bias")}


def sd3_tensors(transformer) -> dict[str, Tensor]:
    """`model.diffusion_model.joint_blocks.` ..."""
    own, found = transformer.state_dict(), {}
    last = transformer.config.num_layers - 1
    for name, tensor in own.items():
        stem, _, end = name.rpartition(".")
        block = re.fullmatch(r"transformer_blocks\.(\d+)\.(.+)", stem)
        if name in _SD3:
            found[_SD3[name]] = tensor
        elif block and block[2] in _SD3_BLOCK:
            swap = block[2] == "norm1_context.linear" and int(block[1]) == last
            found[f"joint_blocks.{block[1]}.{_SD3_BLOCK[block[2]]}.{end}"] = _swapped(tensor) if swap else tensor
        elif not block:
            found[f"{_SD3.get(stem, stem)}.{end}"] = _swapped(tensor) if stem == "norm_out.linear" else tensor
    for number in range(last + 1):
        stem = f"transformer_blocks.{number}."
        for mine, parts, other in (("attn", ("to_q", "to_k", "to_v"), "x_block.attn"),
                                   ("attn", ("add_q_proj", "add_k_proj", "add_v_proj"), "context_block.attn"),
                                   ("attn2", ("to_q", "to_k", "to_v"), "x_block.attn2")):
            if f"{stem}{mine}.{parts[0]}.weight" in own:
                found |= {f"joint_blocks.{number}.{other}.qkv.{end}": tensor
                          for end, tensor in _joined(own, f"{stem}{mine}.", parts).items()}
    return {f"model.diffusion_model.{name}": tensor for name, tensor in found.items()}


def flux_tensors(transformer) -> dict[str, Tensor]:
    """`model.diffusion_model.double_blocks.` ..."""
    own, found = transformer.state_dict(), {}
    kinds = {"transformer_blocks": ("double_blocks", _FLUX_BLOCK, _FLUX_NORMS),
             "single_transformer_blocks": ("single_blocks", _FLUX_SINGLE, _FLUX_SINGLE_NORMS)}
    for name, tensor in own.items():
        stem, _, end = name.rpartition(".")
        block = re.fullmatch(r"(\w*transformer_blocks)\.(\d+)\.(.+)", stem)
        if not block:
            found[f"{_FLUX[stem]}.{end}"] = _swapped(tensor) if stem == "norm_out.linear" else tensor
            continue
        place, layers, norms = kinds[block[1]]
        if block[3] in layers:
            found[f"{place}.{block[2]}.{layers[block[3]]}.{end}"] = tensor
        elif block[3] in norms:
            found[f"{place}.{block[2]}.{norms[block[3]]}.scale"] = tensor
    sides = ("img", ("to_q", "to_k", "to_v")), ("txt", ("add_q_proj", "add_k_proj", "add_v_proj"))
    joined = [(f"transformer_blocks.{number}.attn.", parts, f"double_blocks.{number}.{side}_attn.qkv")
              for number in range(transformer.config.num_layers) for side, parts in sides]
    joined += [(f"single_transformer_blocks.{number}.", ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp"),
                f"single_blocks.{number}.linear1") for number in range(transformer.config.num_single_layers)]
    for stem, parts, other in joined:
        found |= {f"{other}.{end}": tensor for end, tensor in _joined(own, stem, parts).items()}
    return {f"model.diffusion_model.{name}": tensor for name, tensor in found.items()}
