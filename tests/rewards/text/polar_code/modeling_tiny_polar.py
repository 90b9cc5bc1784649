"""A model with its own code in POLAR's form: 0 where both halves of the text hold the same tokens, else -1 or less; it
insists on the two marks."""

import torch
from transformers import PretrainedConfig, PreTrainedModel


class TinyPolarConfig(PretrainedConfig):
    model_type = "tiny_polar"

    def __init__(self, between=0, end=0, **given):
        super().__init__(**given)
        self.between, self.end = between, end


class TinyPolar(PreTrainedModel):
    config_class = TinyPolarConfig

    def __init__(self, config):
        super().__init__(config)
        self.scale = torch.nn.Parameter(torch.ones(1))
        self.post_init()

    def forward(self, input_ids, attention_mask=None, **given):
        scores = []
        for ids, mask in zip(input_ids, attention_mask, strict=True):
            row = ids[mask.bool()].tolist()
            assert row.count(self.config.between) == 1 and row[-1] == self.config.end
            place = row.index(self.config.between)
            one, two = sorted(row[:place]), sorted(row[place + 1:-1])
            scores.append(-float(one != two) - abs(len(one) - len(two)) / 100)
        return (torch.tensor(scores)[:, None] * self.scale,)
