"""Distillation of preferences: numbers worked out by hand on a vocabulary of two."""

import math
from dataclasses import replace

import pytest
import torch

from visalign.objectives.distil import ADPA, DCKD, LOGIT_RANGE, AlignDistil, TopLogProbs, bounded, divergence
from visalign.objectives.language import PairLogs, TokenLogs


def side(student, padded=False, **teachers) -> TokenLogs:
    """One answer of a token, or with a second one that pads it, predicted from these distributions."""
    mask = torch.tensor([[True, False]] if padded else [[True]])

    def logits(p):
        return torch.tensor([[p, [float("nan")] * 2] if padded else [p]]).log()

    return TokenLogs(log_probs=torch.full(mask.shape, -1.0), mask=mask, logits=logits(student),
                     teachers={name: logits(p) for name, p in teachers.items()})


ALIGNED = {"aligned": [0.8, 0.2], "before": [0.5, 0.5]}


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("student, loss", [
    ([0.5, 0.5], 0.223144),  # A = (log 1.6, log 0.4) = (0.470004, -0.916291), mean -0.223144
    ([1.0, 0.0], -0.470004), ([0.8, 0.2], -0.192745)])  # 0.8 * 0.470004 - 0.2 * 0.916291
def test_adpa(student, loss, padded):
    answers = PairLogs.of_sides(side(student, padded, **ALIGNED), side(student, padded, **ALIGNED))
    assert ADPA(sft_weight=0.0)(answers).loss.item() == pytest.approx(loss, abs=1e-6)
    # the chosen answer's one token has log-probability -1
    assert ADPA(sft_weight=2.0, weight=3.0)(answers).loss.item() == pytest.approx(2 + 3 * loss, abs=1e-5)


def test_whose_tokens_adpa_learns():
    answers = PairLogs.of_sides(side([1.0, 0.0], **ALIGNED), side([0.5, 0.5], **ALIGNED))
    losses = {on: ADPA(sft_weight=0.0, on=on)(answers).loss.item() for on in ("chosen", "rejected", "both")}
    assert losses == pytest.approx({"chosen": -0.470004, "rejected": 0.223144, "both": -0.123430}, abs=1e-6)
    assert "rejected" in ADPA().needs and "rejected" not in ADPA(on="chosen").needs
    assert ADPA().teachers == ("aligned", "before")


@pytest.mark.parametrize("padded", [False, True])
def test_importance_of_an_answer_to_adpa(padded):
    answer = side([0.5, 0.5], padded, **ALIGNED)  # its token has log-probability -1
    answer = replace(answer, ref_log_probs=torch.full(answer.mask.shape, -1.5))
    loss = ADPA(sft_weight=0.0, importance=True)(PairLogs.of_sides(answer, answer)).loss
    assert loss.item() == pytest.approx(math.exp(0.5) * 0.223144, abs=1e-6)
    assert "reference" in ADPA(importance=True).needs and "reference" not in ADPA().needs


@pytest.mark.parametrize("padded", [False, True])
def test_align_distil(padded):
    # tvd = 0.3 + 0.3, a = 6.001; logits a (log 4) + log 4: teacher (0.9999391, 0.0000609); KL((.5, .5) || it) is
    # 4.159629, times 0.1 / 6.001
    answers = PairLogs.of_sides(side([0.5, 0.5], padded, aligned=[0.8, 0.2], reversed=[0.5, 0.5]))
    outcome = AlignDistil()(answers)
    assert outcome.loss.item() == pytest.approx(0.069316, abs=1e-6)
    assert outcome.metrics["contrast"].item() == pytest.approx(0.6)
    assert AlignDistil().needs == {"tokens", "distributions", "teacher"}


def test_align_distil_is_0_where_all_three_agree():
    answers = PairLogs.of_sides(side([0.7, 0.3], aligned=[0.7, 0.3], reversed=[0.7, 0.3]))
    assert AlignDistil()(answers).loss.item() == pytest.approx(0, abs=1e-5)


def test_logits_far_apart_stay_finite():
    answers = PairLogs.of_sides(side([0.5, 0.5], aligned=[1 - 1e-7, 1e-7], reversed=[1e-7, 1 - 1e-7]))
    assert AlignDistil()(answers).loss.isfinite()
    assert bounded(torch.tensor([900.0, 0.0])).tolist() == [LOGIT_RANGE, -LOGIT_RANGE]


def test_dckd():
    # KL((.8, .2) || (.5, .5)) = 0.8 log 1.6 + 0.2 log 0.4 = 0.192745, and 0 for the other answer; NLL 1
    answers = PairLogs.of_sides(side([0.5, 0.5], aligned=[0.8, 0.2]), side([0.8, 0.2], aligned=[0.8, 0.2]))
    assert DCKD(sft_weight=0.0)(answers).loss.item() == pytest.approx(0.192745 / 2, abs=1e-6)
    assert DCKD(sft_weight=0.5)(answers).loss.item() == pytest.approx(0.192745 / 2 + 0.5, abs=1e-6)


def test_the_top_of_a_distribution_and_the_rest():
    # (.5, .25, .125, .0625, .0625): the best two, and a quarter that three others share
    logits = torch.tensor([[0.5, 0.25, 0.125, 0.0625, 0.0625]]).log() + 3
    kept = TopLogProbs.of(logits, k=2)
    assert kept.tokens.tolist() == [[0, 1]] and kept.rest.exp().item() == pytest.approx(0.25)
    assert kept.logits(5).exp().tolist() == [pytest.approx([0.5, 0.25, 1 / 12, 1 / 12, 1 / 12])]
    whole = TopLogProbs.of(logits, k=64)
    assert divergence(logits, whole.logits(5)).item() == pytest.approx(0, abs=1e-6)
