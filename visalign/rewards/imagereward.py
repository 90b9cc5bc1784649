"""ImageReward (Xu et al. 2023): BLIP encodes prompt and image together, an MLP scores its first token.

The published checkpoint (`ImageReward.pt`, `med_config.json`) names its weights as the original BLIP code does; they
are renamed for the BLIP classes of transformers, so that none of that code is needed. One difference: the original
BLIP starts a text with the tokenizer's [CLS], and so does this one.
"""

import json
import re
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from visalign.errors import UserError
from visalign.media.samples import Sample, middle
from visalign.rewards.base import RewardModel, Scores
from visalign.rewards.hub_clip import check_hub_or_folder, load_weights, published_file, published_weights
from visalign.rewards.sizes import file_here
from visalign.storage.pretrained import check_tokenizer

MEAN, STD = 0.16717362830052426, 1.0333394966054072
"""Of ImageReward's raw scores on its authors' validation images."""
PROMPT_TOKENS = 35
PIXEL_MEAN, PIXEL_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)

_VISION = [("visual_encoder.", "vision."), ("blocks.", "encoder.layers."),
           ("patch_embed.proj", "embeddings.patch_embedding"),
           ("vision.cls_token", "vision.embeddings.class_embedding"),
           ("vision.pos_embed", "vision.embeddings.position_embedding"), (".attn.proj.", ".self_attn.projection."),
           (".attn.qkv.", ".self_attn.qkv."), (".norm1.", ".layer_norm1."), (".norm2.", ".layer_norm2."),
           ("vision.norm.", "vision.post_layernorm.")]


def renamed(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights of the original checkpoint under the names of `Blip`; heads that the score does not use are left out."""
    found = {}
    for key, value in weights.items():
        key = key.removeprefix("blip.")
        if key.startswith("visual_encoder."):
            for old, new in _VISION:
                key = key.replace(old, new)
            found[key] = value
        elif key.startswith("text_encoder.") and not re.search(r"position_ids$|text_encoder\.(cls|pooler)\.", key):
            found["text." + key.removeprefix("text_encoder.").removeprefix("bert.")] = value
        elif key.startswith("mlp."):
            found[key] = value
    return found


class Blip(nn.Module):
    """Vision encoder, text encoder with cross-attention, and the scoring MLP, sized by the weights they are given."""

    def __init__(self, med_config: dict, weights: dict[str, Tensor]):
        super().__init__()
        from transformers import BlipTextConfig, BlipVisionConfig
        from transformers.models.blip.modeling_blip import BlipVisionModel
        from transformers.models.blip.modeling_blip_text import BlipTextModel

        patch = weights["vision.embeddings.patch_embedding.weight"].shape
        positions = weights["vision.embeddings.position_embedding"].shape[1] - 1
        layers = 1 + max(int(key.split(".")[3]) for key in weights if key.startswith("vision.encoder.layers."))
        mlp_size = weights["vision.encoder.layers.0.mlp.fc1.weight"].shape[0]
        self.side = round(positions**0.5) * patch[2]
        # the original ViT has heads of 64 channels in both published sizes
        self.vision = BlipVisionModel(BlipVisionConfig(
            hidden_size=patch[0], intermediate_size=mlp_size, num_hidden_layers=layers,
            num_attention_heads=max(1, patch[0] // 64), image_size=self.side, patch_size=patch[2], hidden_act="gelu",
            layer_norm_eps=1e-6))
        self.text = BlipTextModel(BlipTextConfig(
            vocab_size=weights["text.embeddings.word_embeddings.weight"].shape[0],
            hidden_size=med_config["hidden_size"], encoder_hidden_size=patch[0],
            intermediate_size=med_config["intermediate_size"], num_hidden_layers=med_config["num_hidden_layers"],
            num_attention_heads=med_config["num_attention_heads"], hidden_act=med_config.get("hidden_act", "gelu"),
            max_position_embeddings=med_config["max_position_embeddings"],
            layer_norm_eps=med_config.get("layer_norm_eps", 1e-12), is_decoder=True), add_pooling_layer=False)
        places = sorted({int(key.split(".")[2]) for key in weights if key.startswith("mlp.layers.")})
        stack: list[nn.Module] = [nn.Identity()] * (places[-1] + 1)
        for place in places:
            stack[place] = nn.Linear(*reversed(weights[f"mlp.layers.{place}.weight"].shape))
        self.mlp = nn.ModuleDict({"layers": nn.Sequential(*stack)})

    def forward(self, pixels: Tensor, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Raw scores [B, 1]."""
        seen = self.vision(pixel_values=pixels).last_hidden_state
        read = self.text(input_ids=input_ids, attention_mask=attention_mask, encoder_hidden_states=seen,
                         encoder_attention_mask=torch.ones(seen.shape[:2], dtype=torch.long, device=seen.device),
                         is_decoder=False).last_hidden_state
        return self.mlp["layers"](read[:, 0].float())


@dataclass
class ImageReward(RewardModel):
    """ImageReward v1.0 by BLIP and an MLP, standardised with its authors' mean and std: about -2 to 2.

    source: hub id or folder with `ImageReward.pt` and `med_config.json`. tokenizer: a BERT tokenizer's hub id or
    folder (None: the source).
    """

    source: str = "THUDM/ImageReward"
    tokenizer: str | None = "bert-base-uncased"

    dimensions = ("preference",)
    needs_prompt = True

    def check(self) -> None:
        check_hub_or_folder(self.source, "ImageReward.pt", self.name)
        check_tokenizer(self.tokenizer or self.source, f"reward {self.name}")

    def held_bytes(self) -> int | None:
        file = file_here(self.source, "ImageReward.pt")
        return file.stat().st_size if file else None  # it is published in single precision

    def load(self) -> Blip:
        from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Normalize, Resize, ToTensor
        from transformers import BertTokenizerFast

        path = published_file(self.source, "ImageReward.pt", self.name)
        weights = renamed(published_weights(path, self.name))
        try:
            config = json.loads(published_file(self.source, "med_config.json", self.name).read_text())
            blip = Blip(config, weights)
        except (KeyError, ValueError) as error:
            raise UserError(f"reward {self.name}: {self.source} is not in ImageReward's layout ({error})") from None
        load_weights(blip, weights, path, self.name)
        self.tokens = BertTokenizerFast.from_pretrained(self.tokenizer or self.source)
        self.preprocess = Compose([Resize(blip.side, interpolation=InterpolationMode.BICUBIC), CenterCrop(blip.side),
                                   ToTensor(), Normalize(PIXEL_MEAN, PIXEL_STD)])
        return blip.eval()

    def score_batch(self, samples: list[Sample]) -> Scores:
        network, prompts = self.network, [sample.prompt for sample in samples]
        pixels = torch.stack([self.preprocess(middle(sample.image)) for sample in samples]).to(self.device)
        tokens = self.tokens(prompts, padding="max_length", truncation=True, max_length=PROMPT_TOKENS,
                             return_tensors="pt").to(self.device)
        cut = {i: f"prompt cut to the model's {PROMPT_TOKENS} tokens"
               for i, ids in enumerate(self.tokens(prompts).input_ids) if len(ids) > PROMPT_TOKENS}
        return Scores((network(pixels, tokens.input_ids, tokens.attention_mask) - MEAN) / STD, cut)
