"""A vision-language model as the unified reward's backbone.

Without `layers`: one special token a dimension, read at the last layer; the tokens' embeddings are parameters of
their own, so that a frozen or LoRA-tuned model still learns what to ask. With `layers`: SoliReward's hierarchical
pooling over all tokens of those layers, padding masked.
"""

from typing import Any

import torch
from torch import Tensor, nn

from visalign.config import JointSettings
from visalign.errors import UserError
from visalign.media.samples import Sample
from visalign.rewards.joint.network import HierarchicalPool, add_backbone_lora
from visalign.storage.pretrained import check_processor, load_whole

LORA_TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj"]


class VlmBackbone(nn.Module):
    """Any transformers image-text-to-text model. `forward` gives [B, D, hidden], or [B, 1, width] with layers."""

    def __init__(self, settings: JointSettings):
        super().__init__()
        from transformers import AutoModelForImageTextToText, AutoProcessor

        self.settings = settings
        check_processor(settings.source, "model.source")
        try:
            self.processor = AutoProcessor.from_pretrained(settings.source)
        except (OSError, ValueError) as error:
            reason = " ".join(str(error).split())[:160]
            raise UserError(f"model.source {settings.source}: transformers could not load it ({reason})") from None
        model = load_whole(AutoModelForImageTextToText, settings.source, "model.source", dtype=torch.float32)
        tokens = [f"<|judge_{name}|>" for name in settings.dimensions]
        tokenizer = self.processor.tokenizer
        tokenizer.add_special_tokens({"additional_special_tokens": tokens})
        self.token_ids: list[int] = tokenizer.convert_tokens_to_ids(tokens)
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
        model.requires_grad_(settings.tuning == "full")
        if settings.tuning == "lora":
            add_backbone_lora(model, settings.lora_rank, LORA_TARGETS)
        self.model = model.base_model
        blocks = model.config.get_text_config().num_hidden_layers
        if max(settings.layers, default=0) >= blocks:
            raise UserError(f"model.layers names block {max(settings.layers)}, but {settings.source} has the blocks 0 "
                            f"to {blocks - 1}")
        self.unused_weights = (rf"\.norm\.|\.layers\.({'|'.join(map(str, range(max(settings.layers) + 1, blocks)))})\.",
                               ) if settings.layers else ()
        hidden = self.model.get_input_embeddings().weight.shape[1]
        self.features, self.prompt = settings.width if settings.layers else hidden, None
        self.pool = HierarchicalPool([hidden] * len(settings.layers), settings.width,
                                     settings.attention_heads, settings.residual) if settings.layers else None
        self.questions = nn.Parameter(torch.randn(len(tokens), hidden) * hidden**-0.5)
        self.model.get_input_embeddings().register_forward_hook(self._ask)
        self.asking = "".join(f"{name}: {token} " for name, token in zip(settings.dimensions, tokens, strict=True))

    def _ask(self, module: nn.Module, arguments: tuple[Any, ...], embedded: Tensor) -> Tensor:
        ids = arguments[0]
        for question, token in zip(self.questions, self.token_ids, strict=True):
            embedded = torch.where((ids == token)[..., None], question.to(embedded), embedded)
        return embedded

    def collate(self, samples: list[Sample]) -> dict[str, Tensor]:
        frames = [sample.frames(self.settings.frames) for sample in samples]
        texts = []
        for sample, each in zip(samples, frames, strict=True):
            what = "This image" if len(each) == 1 else f"These {len(each)} frames of a clip"
            text = f"{what} should show: {sample.prompt}\nJudge it. {self.asking}"
            texts.append(self.processor.apply_chat_template(
                [{"role": "user", "content": [*({"type": "image"} for _ in each), {"type": "text", "text": text}]}],
                tokenize=False))
        return dict(self.processor(text=texts, images=[frame for each in frames for frame in each], padding=True,
                                   return_tensors="pt"))

    def forward(self, **inputs: Tensor) -> Tensor:
        output = self.model(**inputs, output_hidden_states=self.pool is not None)
        if self.pool is not None:
            chosen = [output.hidden_states[layer + 1].float() for layer in self.settings.layers]
            return self.pool(chosen, inputs["attention_mask"] == 0)[:, None]
        hidden, ids = output.last_hidden_state, inputs["input_ids"]
        places = torch.stack([(ids == token).int().argmax(1) for token in self.token_ids], 1)
        return hidden.gather(1, places[..., None].expand(-1, -1, hidden.shape[-1]))
