"""SRPO: numbers worked out by hand, and the minimum at the solution of its game."""

import pytest
import torch

from tests.objectives.pair_t import logs, tensor
from visalign.objectives.srpo import REVISIONS, SRPO

NAMES = [f"{answer}_after_{earlier}" for answer, earlier in REVISIONS]


def test_at_the_start_every_log_ratio_is_0():
    # L_generate (0 - 1)^2 = 1, L_revise 2 (0 - 1/2)^2 = 0.5, half of each
    outcome = SRPO()(logs(ref_chosen=-12.0, ref_rejected=-10.0, revisions=dict.fromkeys(NAMES, tensor(0))))
    assert (outcome.metrics["generate_loss"].item(), outcome.metrics["revise_loss"].item()) == (1, 0.5)
    assert outcome.loss.item() == 0.75


def test_hand_worked_loss():
    # rho(w|l) 1, rho(l|w) -1, h = 2: (0.1 * 4 - 1)^2 = 0.36; rho(w|w) = rho(l|l) = 0.5:
    # (0.1 * 0.5 - 0.5)^2 + (0.1 * 1.5 - 0.5)^2 = 0.2025 + 0.1225
    revisions = {"chosen_after_rejected": tensor(1), "rejected_after_rejected": tensor(0.5),
                 "chosen_after_chosen": tensor(0.5), "rejected_after_chosen": tensor(-1)}
    outcome = SRPO()(logs(revisions=revisions))
    assert outcome.metrics["generate_loss"].item() == pytest.approx(0.36)
    assert outcome.metrics["revise_loss"].item() == pytest.approx(0.325)
    assert SRPO(revise_weight=0.25)(logs(revisions=revisions)).loss.item() == pytest.approx(0.75 * 0.36 + 0.25 * 0.325)
    assert outcome.metrics["revise_accuracy"].item() == 1
    assert SRPO().needs == {"rejected", "reference", "revision"}


def test_the_solution_of_the_game_has_loss_0():
    # two answers, w always preferred, beta 1: the reviser is ref(y) exp(p(y > y1)) / Z(y1), the answerer ref / Z
    wins = torch.tensor([[0.5, 1.0], [0.0, 0.5]], dtype=torch.float64)  # p(row beats column), w first
    log_ref = torch.tensor([0.3, 0.7], dtype=torch.float64).log()
    log_z = (log_ref[:, None] + wins).logsumexp(0)  # of each earlier answer
    revise = wins - log_z  # rho(answer | earlier)
    answer = -log_z - (log_ref - log_z).logsumexp(0)  # rho
    revisions = {"chosen_after_rejected": revise[0, 1:], "rejected_after_rejected": revise[1, 1:],
                 "chosen_after_chosen": revise[0, :1], "rejected_after_chosen": revise[1, :1]}
    pair = logs(chosen=answer[:1], rejected=answer[1:], ref_chosen=0.0, ref_rejected=0.0, revisions=revisions)
    assert SRPO(beta=1.0)(pair).loss.item() == pytest.approx(0, abs=1e-12)
