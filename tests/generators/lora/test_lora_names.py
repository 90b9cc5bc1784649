"""Names in LoRA files: every known way of writing one finds its layer, any other ends in a sentence."""

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from visalign.errors import UserError
from visalign.generators.lora.files import LoraFile
from visalign.generators.lora.matching import match_lora

LAYERS = ("transformer_blocks.0.attn.to_q", "transformer_blocks.1.attn.to_out.0", "proj_out")
ENDINGS = (("lora_A.weight", "lora_B.weight"), ("lora_A.default.weight", "lora_B.default.weight"),
           ("lora_down.weight", "lora_up.weight"), ("lora.down.weight", "lora.up.weight"))
WORDS = st.sampled_from(["transformer", "lora_unet", "lora_te1", "text_encoder", "blocks", "0", "attn", "to_q", "alpha",
                         "lora_A", "lora_B", "lora_down", "lora_up", "weight", "hada_w1_a", "diff", "", "∆"])
NAMES = st.lists(WORDS, min_size=1, max_size=8).map(".".join) | st.text(max_size=40)


def network() -> nn.Module:
    root = nn.Module()
    for name in LAYERS:
        node = root
        *parents, last = name.split(".")
        for parent in parents:
            if not hasattr(node, parent):
                node.add_module(parent, nn.Module())
            node = getattr(node, parent)
        node.add_module(last, nn.Linear(4, 6))
    return root


class Unconverted:
    """A pipeline whose own conversion knows nothing."""

    @staticmethod
    def lora_state_dict(tensors, **options):
        raise ValueError("unknown names")


def fitted(tensors):
    return match_lora(LoraFile(Path("l.safetensors"), tensors, {}), {"transformer": network()}, Unconverted,
                      "transformer")


@settings(deadline=None, max_examples=100)
@given(layer=st.sampled_from(LAYERS), ends=st.sampled_from(ENDINGS), alpha=st.none() | st.floats(0.25, 64),
       prefix=st.sampled_from(["", "transformer.", "base_model.model.", "diffusion_model.", "lora_unet_",
                               "lora_transformer_"]), rank=st.integers(1, 3))
def test_every_way_of_writing_a_name_finds_its_layer_at_its_strength(layer, ends, alpha, prefix, rank):
    stem = prefix + (layer.replace(".", "_") if prefix.startswith("lora_") else layer)
    tensors = {f"{stem}.{ends[0]}": torch.ones(rank, 4), f"{stem}.{ends[1]}": torch.ones(6, rank)}
    if alpha is not None:
        tensors[f"{stem}.alpha"] = torch.tensor(alpha)
    found = fitted(tensors)["transformer"]
    assert found.keys() == {layer}
    # every product of ones sums over the rank: alpha / rank x rank = alpha, or the rank without one
    torch.testing.assert_close(found[layer].up @ found[layer].down, torch.full((6, 4), float(alpha or rank)))


@settings(deadline=None, max_examples=200)
@given(st.dictionaries(NAMES, st.lists(st.integers(0, 5), max_size=4).map(torch.zeros), min_size=1, max_size=6))
def test_other_names_end_in_a_sentence(tensors):
    with pytest.raises(UserError, match="lora l.safetensors"):
        fitted(tensors)
