"""The bridge to TRL: our losses are its losses, to the last bit of the trained weights."""

import copy

import pytest
import torch

from tests.tiny.languages import tiny_language_model, tiny_tokenizer
from visalign.data.text_pairs import read_text_pairs
from visalign.language.chat import encode_pairs_of_text
from visalign.language.convert import trl_arguments
from visalign.language.preference import PairCollator, PreferenceTrainer, _dpo
from visalign.objectives.language_pairs import LanguageDPO


class Theirs(_dpo.DPOTrainer):
    """TRL's own loss on our tokens."""

    def _prepare_dataset(self, dataset, *_):
        return dataset


@pytest.fixture
def rows(recipe):
    config = recipe()
    return config, encode_pairs_of_text(tiny_tokenizer(), read_text_pairs(config.data), None, 512, 0.0, "pairs")


def trained(config, rows, kind, tmp_path, **given):
    from datasets import Dataset

    model, tokenizer = tiny_language_model(), tiny_tokenizer()
    arguments = trl_arguments(config, "DPOConfig", str(tmp_path))
    for name, value in given.pop("theirs", {}).items():
        setattr(arguments, name, value)
    trainer = kind(model=model, ref_model=copy.deepcopy(model), args=arguments, train_dataset=Dataset.from_list(rows),
                   data_collator=PairCollator(tokenizer.pad_token_id, ()) if kind is Theirs else
                   PairCollator(tokenizer.pad_token_id, ("row",)), processing_class=tokenizer, **given)
    trainer.train()
    return [row["loss"] for row in trainer.state.log_history if "loss" in row], dict(model.named_parameters())


@pytest.mark.parametrize(("theirs", "ours"), [
    ({"loss_type": ["sigmoid"]}, {}),
    ({"loss_type": ["hinge"]}, {"link": "hinge"}),
    ({"loss_type": ["ipo"]}, {"link": "ipo", "ipo_tau": 0.1, "ipo_per": "token"}),
    ({"loss_type": ["robust"], "label_smoothing": 0.1}, {"flip_rate": 0.1}),
    ({"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, 0.5]}, {"sft_weight": 0.5}),
])
def test_our_losses_are_those_of_trl(rows, tmp_path, theirs, ours):
    config, rows = rows
    fields = theirs | {"loss_weights": theirs.get("loss_weights", [1.0])}
    wanted, weights = trained(config, rows, Theirs, tmp_path / "a", theirs=fields)
    found, own = trained(config, rows, PreferenceTrainer, tmp_path / "b", objective=LanguageDPO(beta=0.1, **ours),
                         on_metrics=lambda metrics: None)
    assert found == pytest.approx(wanted, rel=1e-5)
    for name, value in weights.items():
        assert torch.allclose(own[name], value, rtol=1e-4, atol=1e-6), name
