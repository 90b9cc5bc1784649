"""Reward models of text that read a whole conversation: a sequence classifier with one output (Bradley-Terry).

Its scores have no unit and no zero: they compare answers to one prompt. Skywork-Reward, and most others on the hub, are
of this kind; so is what `visalign reward train` makes of pairs of text.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from visalign.errors import UserError
from visalign.media.samples import Sample
from visalign.rewards.base import RewardModel, Scores
from visalign.storage.pretrained import check_tokenizer, load_whole
from visalign.storage.weights import read_json
from visalign.validation.ranges import AnswerTokens, BatchSize


class _Classifier(torch.nn.Module):
    def __init__(self, network: Any, tokenizer: Any):
        super().__init__()
        self.network, self.tokenizer = network, tokenizer


@dataclass
class SequenceReward(RewardModel):
    """A sequence classifier with one output, on prompt and answer in its own chat template; within a prompt only.

    source: a folder of transformers or a hub id. max_tokens: longer conversations are NaN, since a cut one would be
    scored as another.
    """

    source: str
    max_tokens: AnswerTokens = 4096
    batch_size: BatchSize = field(default=16, kw_only=True)

    modalities = frozenset({"text"})
    needs_prompt = True

    def check(self) -> None:
        folder = Path(self.source).expanduser()
        if not folder.is_dir():
            if self.source.count("/") != 1 or self.source.startswith((".", "/", "~")):
                raise UserError(f"reward {self.name}: source {self.source}: there is no such folder")
            return
        if not (folder / "config.json").is_file():
            raise UserError(f"reward {self.name}: {folder} has no config.json, so it is no folder of transformers")
        config = read_json(folder / "config.json", f"reward {self.name}")
        outputs = len(config.get("id2label") or {0: ""}) if "num_labels" not in config else config["num_labels"]
        if outputs != 1:
            raise UserError(f"reward {self.name}: {folder} is a classifier with {outputs} outputs; a reward has one")
        check_tokenizer(folder, f"reward {self.name}")

    def load(self) -> _Classifier:
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        network = load_whole(AutoModelForSequenceClassification, self.source, f"reward {self.name}")
        tokenizer = AutoTokenizer.from_pretrained(self.source)
        if tokenizer.chat_template is None:
            raise UserError(f"reward {self.name}: the tokenizer of {self.source} has no chat template, by which it "
                            "would read prompt and answer")
        if network.config.num_labels != 1:
            raise UserError(f"reward {self.name}: {self.source} has {network.config.num_labels} outputs; a reward has "
                            "one")
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        network.config.pad_token_id = tokenizer.pad_token_id  # where each row ends
        tokenizer.padding_side = "right"
        return _Classifier(network.float(), tokenizer)

    def score_batch(self, samples: list[Sample]) -> Tensor | Scores:
        model = self.network
        rows = [self.tokens_of(model.tokenizer, each) for each in samples]
        remarks = {i: f"{len(row)} tokens, more than max_tokens {self.max_tokens}" for i, row in enumerate(rows)
                   if len(row) > self.max_tokens}
        kept = [row if i not in remarks else row[:1] for i, row in enumerate(rows)]
        given = model.tokenizer.pad({"input_ids": kept}, return_tensors="pt").to(self.device)
        values = model.network(**given).logits[:, :1].float()
        values[list(remarks)] = float("nan")
        return Scores(values, remarks)

    def tokens_of(self, tokenizer: Any, sample: Sample) -> list[int]:
        """The conversation as tokens; where the template writes the token that begins a text, it is not added again.
        """
        text = tokenizer.apply_chat_template([{"role": "user", "content": sample.prompt},
                                              {"role": "assistant", "content": str(sample.answer)}], tokenize=False)
        own = tokenizer.bos_token is not None and text.startswith(tokenizer.bos_token)
        return tokenizer(text, add_special_tokens=not own)["input_ids"]
