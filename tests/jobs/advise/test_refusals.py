"""Data that lack what an objective needs end in one sentence before a model is loaded, with the recipe that fits."""

import pytest

from visalign.config.load import load_config
from visalign.config.recipes import recipes
from visalign.errors import UserError, notice
from visalign.jobs.train import check_training

CHOSEN = "the recipe sft_folder (flow models: sd3_soar)"
PAIRS = "the recipe sdxl_dpo (flow models: sd3_flow_dpo)"


def refused(recipe, *overrides):
    """The sentence, which nothing was loaded for."""
    with pytest.raises(UserError) as error:
        check_training(load_config(recipes()[recipe], overrides))
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.fixture
def data(table, pairs, singles):
    def write(kind):
        rows = {"captioned": singles(4), "up": singles(4, label=lambda n: True), "pairs": pairs(4),
                "both": singles(4, label=lambda n: n % 2),
                "chosen": [{"prompt": row["prompt"], "chosen": row["chosen"]} for row in pairs(4)],
                "prompts": [{"prompt": row["prompt"]} for row in pairs(4)]}[kind]
        return f"data.path={table(rows, f'{kind}.jsonl')}"

    return write


@pytest.mark.parametrize("recipe, kind, overrides, words", [
    ("quickstart", "captioned", (), f"no rejected one, and this objective or data.score_with needs two of a prompt, "
     f"such as the columns prompt, chosen, rejected; of such data take {CHOSEN}"),
    ("tiny_mapo", "captioned", (), CHOSEN), ("tiny_npo", "captioned", (), CHOSEN),
    ("quickstart", "both", (), "a label and no rejected one"), ("quickstart", "both", (), "take the recipe sd15_kto"),
    ("quickstart", "chosen", (), f"'rejected' is missing, and this objective or data.score_with needs two of a prompt; "
     f"of chosen samples alone take {CHOSEN}"),
    ("quickstart", "prompts", (), "prompts alone are for the recipe online/sdxl_ddpo (flow models: online/sd35_flow"),
    ("tiny_kto", "up", (), f"all 4 samples are good, and this objective learns from good ones and bad ones together; "
     f"add bad ones, or take {CHOSEN} for good ones alone"),
    ("tiny_kto", "captioned", (), f"'label' is missing; true or false says whether the one sample of this row is good "
     f"(or give pairs: prompt, chosen, rejected; or ratings with data.good_from; of good samples alone take {CHOSEN})"),
    ("tiny_inpo", "pairs", ("objective.smooth=reward",), f"this objective needs rewards; give columns chosen_reward "
     f"and rejected_reward, or set data.score_with, or learn from which is better alone: {PAIRS}"),
    ("tiny_soar", "pairs", ("objective={name: flow_rwr}",), "line 1: this objective needs rewards"),
    ("tiny_inpo", "pairs", ("objective.margin_of={reward: 0.2}",), "line 1: this objective needs rewards"),
    ("tiny_inpo", "pairs", ("objective.smooth=reward", "data.goals={}"), "data.goals: objective flow_inpo lets pairs "
     "count by how far their rewards lie apart (smooth), and with goals low rewards are asked for as well"),
    ("quickstart", "pairs", ("data.swap=true", "objective={name: sft}"), "nothing to swap; take one that does, such as "
     "diffusion_dpo or flow_dpo: the recipe sd15_npo"),
    ("quickstart", "pairs", ("data.positive_ratio=0.5",), "(diffusion_kto does: the recipe sd15_kto)"),
    ("tiny_kto", "pairs", ("data.goals={}",), f"take one that compares: {PAIRS}"),
    ("quickstart", "pairs", ("model=tiny-sd3",), "the same method for it is flow_dpo, as in the recipe sd3_flow_dpo; "
     "else use one of diffusion_kto"),
    ("tiny_inpo", "pairs", ("model=tiny-sdxl",), "the same method for it is inpo, as in the recipe sdxl_inpo"),
    ("tiny_soar", "pairs", ("model=tiny-sdxl",), "is a diffusion model; use one of diffusion_dpo")])
def test_what_is_missing_is_named_with_the_recipe_that_fits(data, recipe, kind, overrides, words):
    assert words in refused(recipe, data(kind), *overrides)


def test_no_data_at_all():
    said = refused("sft_folder", "model=tiny-sdxl")
    assert "as the recipe ai_feedback does" in said and "`visalign advise DATA`" in said


def test_rewards_that_are_given_or_scored_are_enough(table, pairs):
    file = table(pairs(4, chosen_reward=lambda n: 1.0, rejected_reward=lambda n: 0.5))
    overrides = (f"data.path={file}", "objective={name: flow_rwr}")
    assert check_training(load_config(recipes()["tiny_soar"], overrides)).pairs == 4
    bare = (f"data.path={table(pairs(4), 'bare.jsonl')}", "objective={name: flow_rwr}", "data.score_with=tiny-reward")
    assert check_training(load_config(recipes()["tiny_soar"], bare)).pairs == 4


def test_imitating_bad_samples_is_said(data, capsys):
    notice.cache_clear()
    check_training(load_config(recipes()["tiny_soar"], (data("both"),)))
    assert ("its column label says that 2 of 4 samples are bad, and this objective learns from all alike; to tell "
            "them apart take the recipe sd15_kto") in capsys.readouterr().err
    check_training(load_config(recipes()["tiny_kto"], (data("both"),)))
    check_training(load_config(recipes()["tiny_soar"], (data("up"),)))
    assert "its column label" not in capsys.readouterr().err
