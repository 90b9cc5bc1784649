"""Objectives are found by the names under which they register themselves."""

import pytest

from visalign.objectives import REGISTRIES, register
from visalign.objectives.dpo import DiffusionDPO, FlowDPO


def test_every_loop_has_its_objectives():
    assert set(REGISTRIES["offline"]) == {"diffusion_dpo", "diffusion_kto", "flow_dpo", "flow_inpo", "flow_rwr", "inpo",
                                          "mapo", "rpo_subject", "seppo", "sft", "soar"}
    assert set(REGISTRIES["online"]) == {"grpo", "grpo_guard", "flow_dppo", "d3po", "nft", "awm", "raft", "draft",
                                         "direct_align", "pairs_in_group", "dgpo", "crd", "spo"}
    assert set(REGISTRIES["reward"]) == {"preference", "general"}
    assert set(REGISTRIES["language"]) == {"dpo", "simpo", "cpl", "power", "sppo", "sft", "kto", "srpo", "sparse_po",
                                           "dckd", "adpa", "align_distil"}
    assert set(REGISTRIES["language_online"]) == {"grpo", "pairs_in_group"}


def test_a_name_that_is_taken_is_refused_and_the_same_class_may_come_again():
    assert register("offline", "flow_dpo")(FlowDPO) is FlowDPO
    with pytest.raises(ValueError, match="flow_dpo: visalign.objectives.dpo.FlowDPO has this name already"):
        register("offline", "flow_dpo")(DiffusionDPO)
    assert REGISTRIES["offline"]["flow_dpo"] is FlowDPO
