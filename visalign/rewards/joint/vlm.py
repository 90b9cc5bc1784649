"""A vision-language model as the unified reward's backbone.

Without `layers`: one special token a dimension, read at the last layer; the tokens' embeddings are parameters of
their own, so that a frozen or LoRA-tuned model still learns what to ask. With `layers`: SoliReward's hierarchical
pooling over all tokens of those layers, padding masked. With `critique`: the model writes one first (critique.py).
"""

from typing import Any

import torch
from torch import Tensor, nn

from visalign.config import JointSettings
from visalign.errors import UserError
from visalign.media.samples import Sample
from visalign.objectives.base import Outcome
from visalign.rewards.joint.critique import OPEN, Critic, critique_loss, critique_places, reason_of
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
        asked = [f"<|judge_{name}|>" for name in settings.dimensions]
        tokens = [*asked, *([OPEN] if settings.critique else [])]
        tokenizer = self.processor.tokenizer
        tokenizer.add_special_tokens({"additional_special_tokens": tokens})
        ids: list[int] = tokenizer.convert_tokens_to_ids(tokens)
        self.own_ids, self.token_ids = ids, ids[:len(asked)]
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
        model.requires_grad_(settings.tuning == "full")
        if settings.tuning == "lora":
            add_backbone_lora(model, settings.lora_rank, LORA_TARGETS)
        self.model = model.base_model
        self.words: nn.Module | None = None
        self.critic: Critic | None = None
        self._cost: Tensor | None = None
        if settings.critique:
            self.critic = Critic(model, self.processor, ids[-1], self.token_ids, settings.critique.max_tokens)
            last = model.get_output_embeddings()
            if last.weight is model.get_input_embeddings().weight:  # it learns, and is kept, as the embeddings
                self._tied = [last]
            else:
                self.words, self._tied = last, [last]
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
        self.asking = "".join(f"{name}: {token} " for name, token in zip(settings.dimensions, asked, strict=True))

    def _ask(self, module: nn.Module, arguments: tuple[Any, ...], embedded: Tensor) -> Tensor:
        ids = arguments[0]
        for question, token in zip(self.questions, self.own_ids, strict=True):
            embedded = torch.where((ids == token)[..., None], question.to(embedded), embedded)
        return embedded

    def collate(self, samples: list[Sample]) -> dict[str, Tensor]:
        frames = [sample.frames(self.settings.frames) for sample in samples]
        images = [frame for each in frames for frame in each]
        if self.critic is None:
            texts = [self._chat(sample, len(each), f"Judge it. {self.asking}") for sample, each in
                     zip(samples, frames, strict=True)]
        else:
            opened = [self._chat(sample, len(each), "Say what is right and what is wrong with it, then judge it.", True)
                      + OPEN for sample, each in zip(samples, frames, strict=True)]
            # once trained, and while it is measured, it reads its own words and not an annotator's
            said = list(map(reason_of, samples)) if self.training else self.critic.written(opened, images)
            end = self.processor.tokenizer.eos_token
            texts = [f"{text}{words}{end}{self.asking}" for text, words in zip(opened, said, strict=True)]
        return dict(self.processor(text=texts, images=images, padding=True, return_tensors="pt"))

    def _chat(self, sample: Sample, frames: int, task: str, answers: bool = False) -> str:
        what = "This image" if frames == 1 else f"These {frames} frames of a clip"
        content = [*({"type": "image"} for _ in range(frames)),
                   {"type": "text", "text": f"{what} should show: {sample.prompt}\n{task}"}]
        return self.processor.apply_chat_template([{"role": "user", "content": content}], tokenize=False,
                                                  add_generation_prompt=answers)

    def forward(self, **inputs: Tensor) -> Tensor:
        output = self.model(**inputs, output_hidden_states=self.pool is not None)
        if self.pool is not None:
            chosen = [output.hidden_states[layer + 1].float() for layer in self.settings.layers]
            return self.pool(chosen, inputs["attention_mask"] == 0)[:, None]
        hidden, ids = output.last_hidden_state, inputs["input_ids"]
        if self.critic is not None and self.training:
            places = critique_places(ids, self.critic.opening, self.critic.end)
            self._cost = critique_loss(hidden, ids, places, self._tied[0])
        places = torch.stack([(ids == token).int().argmax(1) for token in self.token_ids], 1)
        return hidden.gather(1, places[..., None].expand(-1, -1, hidden.shape[-1]))

    def beside(self) -> Outcome | None:
        """What writing the critiques of the batch that passed last costs, weighed; None where none is written."""
        if self.critic is None:
            return None
        written = ~self._cost.isnan()
        mean = torch.where(written, self._cost, 0.0).sum() / written.sum().clamp(min=1)
        return Outcome(self.settings.critique.weight * mean, {"critique": self._cost.detach()})
