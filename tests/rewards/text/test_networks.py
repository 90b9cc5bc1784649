"""Rewards of text that are networks, on tiny random models of real classes."""

import math

import pytest
import torch

from tests.tiny.languages import save_tiny_language_model, tiny_language_model, tiny_tokenizer
from visalign.errors import UserError
from visalign.media.answers import Answer
from visalign.media.samples import Sample
from visalign.rewards import load_reward
from visalign.rewards.text.likelihood import answer_log_probs, rows_log_probs
from visalign.storage.language_models import LanguageModel

SAMPLES = [Sample("What is rain?", Answer("water")), Sample("Tell me about salt.", Answer("it is a long answer"))]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("lms")
    return [str(save_tiny_language_model(root / str(seed), seed)) for seed in (0, 1)]


def uniform_model() -> LanguageModel:
    model = tiny_language_model()
    torch.nn.init.zeros_(model.lm_head.weight)
    return LanguageModel(model, tiny_tokenizer(), "uniform")


def test_a_uniform_model_gives_minus_log_v_for_each_token():
    model = uniform_model()
    sums, tokens = rows_log_probs(model, [([5, 6], [7, 8, 9]), ([5], [7])])
    assert tokens.tolist() == [3, 1]
    assert sums.tolist() == pytest.approx([-3 * math.log(len(model.tokenizer)), -math.log(len(model.tokenizer))])


def test_an_answer_is_as_likely_in_a_batch_as_alone(folders):
    from visalign.storage.language_models import load_language_model

    model = load_language_model(folders[0])
    together, _ = answer_log_probs(model, [s.prompt for s in SAMPLES], [str(s.answer) for s in SAMPLES])
    alone = [answer_log_probs(model, [s.prompt], [str(s.answer)])[0].item() for s in SAMPLES]
    assert together.tolist() == pytest.approx(alone, abs=1e-4)


def test_density_ratio_is_zero_between_equal_models_and_the_difference_of_others(folders):
    same = load_reward({"kind": "density_ratio", "strong": folders[0], "weak": folders[0]})
    assert same.score(SAMPLES).values.flatten().tolist() == [0.0, 0.0]
    other = load_reward({"kind": "density_ratio", "strong": folders[0], "weak": folders[1], "per": "sequence"})
    turned = load_reward({"kind": "density_ratio", "strong": folders[1], "weak": folders[0], "per": "sequence"})
    found = other.score(SAMPLES).values
    assert torch.allclose(found, -turned.score(SAMPLES).values) and found.abs().min() > 0


def test_follow_up_of_a_uniform_model_is_zero(folders):
    """Per token every text is as likely as any other."""
    reward = load_reward({"kind": "follow_up", "source": folders[0]})
    torch.nn.init.zeros_(reward.network.held[0].model.lm_head.weight)
    assert reward.score(SAMPLES).values.flatten().tolist() == pytest.approx([0.0, 0.0], abs=1e-5)


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    from transformers import LlamaConfig, LlamaForSequenceClassification

    folder, tokenizer = tmp_path_factory.mktemp("classifier"), tiny_tokenizer()
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2,
                         num_attention_heads=2, num_labels=1, initializer_range=0.3)
    LlamaForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_a_classifier_scores_in_a_batch_as_alone_and_refuses_what_is_too_long(classifier):
    reward = load_reward({"kind": "sequence", "source": str(classifier)})
    together = reward.score(SAMPLES).values.flatten()
    assert together.tolist() == pytest.approx([reward.score([s]).values.item() for s in SAMPLES], abs=1e-5)
    short = load_reward({"kind": "sequence", "source": str(classifier), "max_tokens": 40})
    found = short.score([SAMPLES[0], Sample("What is rain?", Answer("long " * 50))])
    assert found.values[0].isfinite() and found.values[1].isnan() and "more than max_tokens 40" in found.remarks[1]


def test_the_template_s_first_token_is_not_added_twice(classifier):
    reward = load_reward({"kind": "sequence", "source": str(classifier)})
    tokenizer = reward.network.tokenizer
    tokens = reward.tokens_of(tokenizer, SAMPLES[0])
    assert tokens[0] == tokenizer.bos_token_id != tokens[1]


def test_what_is_no_reward_is_said(classifier, folders, tmp_path):
    with pytest.raises(UserError, match="reward sequence: source nowhere: there is no such folder"):
        load_reward("sequence:nowhere")
    with pytest.raises(UserError, match="a classifier with 2 outputs; a reward has one"):
        (tmp_path / "config.json").write_text('{"model_type": "llama", "id2label": {"0": "a", "1": "b"}}')
        load_reward(f"sequence:{tmp_path}")
    with pytest.raises(UserError, match="reward density_ratio nowhere: there is no such folder"):
        load_reward({"kind": "density_ratio", "strong": "nowhere", "weak": folders[0]})
