"""One pair loss for answers and for images: the same margin gives the same loss with every option that both have."""

import math

import pytest
import torch

from tests.objectives.pair_t import errors, logs, tensor
from visalign.objectives.dpo import FlowDPO
from visalign.objectives.language_pairs import LanguageDPO
from visalign.objectives.links import PairOptions

# z = 0.2, h = 2, l(z) = -log s(0.2) = 0.598139, l(-z) = 0.798139
SHARED = [
    ({}, {}, 0.598139),
    ({"link": "hinge"}, {}, 0.8),  # 1 - 0.2
    ({"link": "ipo"}, {}, 9.0),  # (2 - 1/(2 * 0.1))^2
    ({"label_smoothing": 0.1}, {}, 0.618139),  # 0.9 * 0.598139 + 0.1 * 0.798139
    ({"flip_rate": 0.1}, {}, 0.573139),  # (0.9 * 0.598139 - 0.1 * 0.798139) / 0.8
    ({"forward_rate": 0.1}, {}, 0.616432),  # -log(0.9 * 0.549834 + 0.1 * 0.450166)
    ({"forward_rate": "learn"}, {"flip_logit": math.log(0.1 / 0.9)}, 0.616432),
    ({"margin": 0.1}, {"strength": 2.0}, math.log(2)),  # z - 0.1 * 2 = 0
    ({"strength_beta": 0.5, "strength_beta_rate": 0.5}, {"strength": 2.0}, 0.570176),  # z 0.2 (1 + 0.5 (1 - 1/e))
    ({}, {"chance": 0.75}, 0.648139),  # 0.598139 + 0.25 * 0.2
    ({"soft_labels": 1.0}, {}, 0.651927),  # p = s(1) = 0.731059: 0.598139 + 0.268941 * 0.2
    ({"soft_labels": 0.5}, {"strength": 0.5}, 0.651927),  # the same gap over tau
    ({"link": "hinge", "soft_labels": 1.0}, {}, 0.907577),  # 0.731059 * 0.8 + 0.268941 * 1.2
    ({"link": "ipo", "soft_labels": 1.0}, {}, 19.757657),  # p * 9 + (1 - p) * 49, p = 0.73105858
    ({"value": "pessimistic", "value_weight": 0.05}, {}, 0.593139),  # 0.598139 - 0.05 * 0.1 * 1
    ({"value": "optimistic", "value_weight": 0.05}, {}, 0.603139),  # 0.598139 + 0.05 * 0.1 * 1
    ({"value": "pessimistic", "value_weight": 0.05}, {"weight": 2.0}, 1.186277),  # twice 0.593139
]


@pytest.mark.parametrize("options, labels, loss", SHARED)
def test_one_vector_for_both(options, labels, loss):
    given = {name: tensor(value) for name, value in labels.items()}
    answers = LanguageDPO(beta=0.1, **options)(logs(**given))
    images = FlowDPO(beta=0.1, **options)(errors(**given))
    assert answers.loss.item() == pytest.approx(loss, rel=1e-6, abs=1e-6)
    assert images.loss.item() == pytest.approx(answers.loss.item(), abs=1e-6)
    for name in ("implicit_accuracy", "margin", "reward_chosen", "reward_rejected"):
        assert images.metrics[name].item() == pytest.approx(answers.metrics[name].item(), abs=1e-7), name


def test_the_sft_term_is_the_error_of_the_chosen_one():
    # 0.598139 + 0.005 * 12
    assert LanguageDPO(sft_weight=0.005, sft_per="sum")(logs()).loss.item() == pytest.approx(0.658139, abs=1e-6)
    assert FlowDPO(beta=0.1, sft_weight=0.005)(errors()).loss.item() == pytest.approx(0.658139, abs=1e-6)


def test_every_shared_option_is_in_the_vector():
    tried = {name for options, _, _ in SHARED for name in options}
    elsewhere = {"beta", "ipo_tau", "sft_weight", "dynamic_labels", "margin_of"}
    assert tried | elsewhere == set(PairOptions.__dataclass_fields__)


@pytest.mark.parametrize("method", [LanguageDPO, FlowDPO])
@pytest.mark.parametrize("settings, named", [
    ({"label_smoothing": 0.1, "flip_rate": 0.1}, "one of them"), ({"link": "hinge", "flip_rate": 0.1}, "sigmoid"),
    ({"link": "ipo", "forward_rate": "learn"}, "sigmoid"), ({"forward_rate": 0.5}, "forward_rate must be"),
    ({"flip_rate": 0.5}, "flip_rate must be"), ({"beta": -0.1}, "beta must be"), ({"soft_labels": 0.0}, "soft_labels"),
    ({"link": "ipo", "margin": 0.1}, "link 'ipo' does not see"), ({"value": "optimistic"}, "go together"),
    ({"value_weight": 0.1}, "go together"), ({"dynamic_labels": 1.0}, "dynamic_labels must be"),
    ({"margin_of": {"relevance": 0.96}}, "at least 0.05"), ({"margin_of": {"a": -0.1}}, "margin_of must be"),
])
def test_impossible_options_are_refused_in_both(method, settings, named):
    with pytest.raises(ValueError, match=named):
        method(**settings)


def test_gradients_are_the_same_up_to_the_half_of_the_error():
    # d loss / d lp_w = -beta (1 - s(z)), and E_w stands with -1/2
    answers, images = logs(), errors()
    LanguageDPO(beta=0.1)(answers).loss.backward()
    FlowDPO(beta=0.1)(images).loss.backward()
    assert answers.chosen.grad.item() == pytest.approx(-0.1 * (1 - torch.sigmoid(torch.tensor(0.2)).item()))
    assert images.chosen.grad.item() == pytest.approx(-answers.chosen.grad.item() / 2)
