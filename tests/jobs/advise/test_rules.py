"""The table of rules: every shipped recipe is reached or has a reason, and the right rule comes first."""

from dataclasses import replace

import pytest

from visalign.config.fitting import FITTING, RECIPE_OF, SIBLINGS
from visalign.config.recipes import recipe_folder, recipes
from visalign.errors import UserError
from visalign.generators.families.registry import family_of
from visalign.generators.files.embedded import EMBEDDED_MODELS
from visalign.jobs.advise.choosing import _UNITS, advice_on, every_recipe, notes_on
from visalign.jobs.advise.look import Look
from visalign.jobs.advise.models import LANGUAGE, MODELS, USUAL, Model, ModelKind, known_recipe
from visalign.jobs.advise.rules import BESIDE, ELSEWHERE, RULES
from visalign.objectives import REGISTRIES

PAIRS = Look("pairs.jsonl", "pairs", rows=200, pairs=200, prompts=100, asked="a cat")
SUBJECT = Look("dog", "photographs", rows=5, folder=True)
IMAGES = Look("photos", "images", rows=200, prompts=200, asked="a cat")
LOOKS = [
    look for still in (
        PAIRS, IMAGES, replace(PAIRS, rewards=True), replace(PAIRS, strengths=True), replace(PAIRS, users=(9, 5)),
        replace(PAIRS, rewards=True, win_rates=True), replace(PAIRS, annotated=True), SUBJECT,
        replace(PAIRS, shapes=True),
        replace(IMAGES, rows=5), Look("t", "thumbs", rows=100, good=60, bad=40, prompts=9),
        Look("t", "thumbs", rows=100, good=100, prompts=9), Look("r", "ratings", rows=100, prompts=90, good_from=2.5),
        Look("r", "ratings", rows=100, pairs=80, prompts=20, good_from=2.5), Look("i", "items", rows=100, prompts=9),
        Look("p", "prompts", rows=100, prompts=100), Look("v", "votes", rows=100, pairs=100))
    for look in (still, replace(still, edits=True), replace(still, modality="video"),
                 replace(still, modality="video", edits=True))
] + [Look("x", kind, "text", rows=100, pairs=100 * (kind == "text pairs"), prompts=100, good=good, bad=good,
          images=images)
     for kind in ("text pairs", "text answers", "text labels", "corrected", "dialogues", "persuasion")
     for images in (False, True) for good in (50,)]


def advised(look, source=None):
    kind = MODELS.get(source, LANGUAGE)
    return advice_on(look, Model(source, kind) if source else None)


def reached(looks):
    """Every recipe that some of the data and some model lead to."""
    found = set()
    for look in looks:
        for source in (None, "smollm2", *MODELS):
            try:
                advice = advised(look, source)
            except UserError:
                continue
            found |= {choice.recipe.name for choice in (*advice.best, *advice.others)}
    return found


def test_every_recipe_is_reached_by_some_data_and_model_or_has_a_reason():
    found = reached(LOOKS)
    assert not found & ELSEWHERE.keys()
    assert set(recipes()) == found | ELSEWHERE.keys()


def test_every_yaml_file_beside_is_in_a_folder_that_is_said_to_hold_no_recipes():
    shipped = set(recipes().values())
    beside = {file.relative_to(recipe_folder()).parts[0] for file in recipe_folder().rglob("*.yaml")
              if file not in shipped}
    assert beside <= BESIDE.keys()


def test_rules_name_shipped_recipes():
    assert {name for rule in RULES for name in rule.recipes} <= set(recipes())


def test_recipes_that_fit_by_name_exist_and_are_those_that_are_advised():
    assert {name for names in FITTING.values() for name in names} | set(RECIPE_OF.values()) <= set(recipes())
    looks = {"pairs": PAIRS, "images": IMAGES, "thumbs": Look("t", "thumbs", good=9, bad=9),
             "rewards": replace(PAIRS, rewards=True), "prompts": Look("p", "prompts", rows=9),
             "users": replace(PAIRS, users=(9, 5)), "photographs": SUBJECT}
    for kind, names in FITTING.items():
        assert set(names) <= reached([looks[kind]]), kind


def test_objectives_and_their_siblings_are_registered_for_the_other_process():
    offline = REGISTRIES["offline"]
    assert set(RECIPE_OF) <= set(offline)
    assert all({offline[one].process, offline[other].process} == {"flow", "diffusion"}
               for one, other in SIBLINGS.items())


@pytest.mark.parametrize("source", MODELS)
def test_what_is_known_of_models_by_heart_is_what_their_family_says(source):
    kind = MODELS[source]
    if source in EMBEDDED_MODELS:
        return
    family = family_of(kind.pipeline)
    assert kind == ModelKind(kind.pipeline, family.process_kind, family.modality, family.sources is not None)


def test_the_usual_models_are_known_and_of_their_kind():
    for (modality, edits), sources in USUAL.items():
        assert all((MODELS[source].modality, MODELS[source].edits) == (modality, edits) for source in sources)


@pytest.mark.parametrize("look, source, recipe", [
    (PAIRS, "stabilityai/stable-diffusion-xl-base-1.0", "sdxl_dpo"),
    (PAIRS, "stable-diffusion-v1-5/stable-diffusion-v1-5", "sd15_dpo"),
    (PAIRS, "stabilityai/stable-diffusion-3.5-medium", "sd3_flow_dpo"),
    (PAIRS, "Qwen/Qwen-Image", "qwen_image_flow_dpo"), (PAIRS, "tiny-sdxl", "quickstart"),
    (PAIRS, "black-forest-labs/FLUX.1-dev", "low_memory/flux_flow_dpo_24gb"), (PAIRS, "tiny-sd3", "ai_feedback"),
    (replace(PAIRS, modality="video"), "Lightricks/LTX-2", "video/ltx2_flow_dpo"),
    (replace(PAIRS, modality="video"), "Wan-AI/Wan2.2-T2V-A14B-Diffusers", "video/wan22_flow_dpo"),
    (replace(PAIRS, modality="video"), "THUDM/CogVideoX-2b", "video/cogvideox_diffusion_dpo"),
    (replace(PAIRS, edits=True), "Qwen/Qwen-Image-Edit-2511", "edit/qwen_edit_flow_dpo"),
    (IMAGES, "tiny-sdxl", "sft_folder"), (replace(IMAGES, modality="video"), "tiny-wan", "video/wan21_sft_folder"),
    (replace(PAIRS, users=(9, 5)), "stabilityai/stable-diffusion-xl-base-1.0", "sdxl_ppd"),
    (replace(PAIRS, users=(9, 5)), "tiny-sd3", "tiny_ppd"), (replace(PAIRS, users=(9, 4)), "tiny-sdxl", "quickstart"),
    (replace(PAIRS, rewards=True, win_rates=True), "stabilityai/stable-diffusion-3.5-medium", "sd3_capo"),
    (replace(PAIRS, annotated=True), "tiny-sdxl", "tiny_strength"), (SUBJECT, "tiny-sd3", "tiny_subject"),
    (SUBJECT, "stable-diffusion-v1-5/stable-diffusion-v1-5", "sd21_rpo"),
    (Look("t", "thumbs", good=9, bad=9), "tiny-sd3", "tiny_kto"),
    (Look("t", "thumbs", good=9, bad=9), "Qwen/Qwen-Image", "sd15_kto"),
    (Look("t", "thumbs", good=9), "Qwen/Qwen-Image", "sft_folder"),
    (Look("t", "thumbs", "video", good=9, bad=9), "Lightricks/LTX-Video", "video/ltx_flow_dpo"),
    (Look("p", "prompts"), "stabilityai/stable-diffusion-xl-base-1.0", "online/sdxl_ddpo"),
    (Look("p", "prompts"), "tiny-sd3", "online/flow_grpo"), (Look("p", "prompts"), "smollm2", "language/grpo"),
    (Look("p", "prompts", "video"), "Wan-AI/Wan2.1-T2V-1.3B-Diffusers", "video/wan21_flow_grpo"),
    (Look("p", "prompts", "video", edits=True), "Wan-AI/Wan2.1-I2V-14B-480P-Diffusers", "video/wan21_i2v_flow_grpo"),
    (Look("x", "text pairs", "text", pairs=9), "smollm2", "language/dpo"),
    (Look("x", "text pairs", "text", pairs=9, images=True), "smollm2", "language/vlm_dpo"),
])
def test_the_recipe_to_begin_with(look, source, recipe):
    assert advised(look, source).best[0].recipe.name == recipe


def test_without_a_model_both_processes_are_named():
    assert [choice.recipe.name for choice in advised(PAIRS).best] == ["sdxl_dpo", "sd3_flow_dpo"]


def test_what_else_is_possible_has_each_method_once():
    advice = advised(replace(PAIRS, rewards=True), "stabilityai/stable-diffusion-3.5-medium")
    methods = [choice.rule.method for choice in advice.others]
    assert len(methods) == len(set(methods)) and {"rwr", "mapo", "npo", "kto", "sft", "soar"} <= set(methods)
    assert "goals" not in methods  # its recipe is small
    assert "rwr" not in [choice.rule.method for choice in advised(PAIRS).others]


@pytest.mark.parametrize("look, source, words", [
    (replace(PAIRS, modality="video"), "tiny-sd3", "200 pairs of videos of 100 prompts, and tiny-sd3 is a flow model "
     "of images (StableDiffusion3Pipeline), which learns nothing from them; name a model of videos"),
    (replace(PAIRS, edits=True), "tiny-sd3", "name a model of edits, such as black-forest-labs/FLUX.1-Kontext-dev"),
    (PAIRS, "tiny-edit", "name data with source images"), (PAIRS, "smollm2", "is a language model"),
    (Look("x", "text pairs", "text", pairs=9), "tiny-sd3", "name a language model"),
    (Look("t", "thumbs", bad=9), None, "all 9 samples are bad"),
    (Look("v", "votes", "video", rows=3), None, "which no shipped recipe learns from")])
def test_data_and_models_that_do_not_go_together_are_one_sentence(look, source, words):
    with pytest.raises(UserError) as error:
        advised(look, source)
    assert words in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("look, words", [
    (replace(PAIRS, rows=20), "only 20 is learnt by heart"), (replace(PAIRS, ties=3), "3 rows are ties"),
    (replace(PAIRS, duplicates=1), "visalign data check pairs.jsonl"),
    (replace(PAIRS, contradictory=2), "2 pairs prefer the opposite"),
    (replace(PAIRS, broken=1, first_broken="row 3: no"), "1 rows cannot be used (row 3: no)"),
    (replace(PAIRS, users=(7, 2, 1)), "3 users, the first with 7 pairs; to learn each one's taste, two users at least "
     "need 5 pairs each: 3 are missing"), (replace(PAIRS, users=(9,)), "5 are missing"),
    (replace(PAIRS, users=(9, 5, 1)), "2 have 5 or more"), (replace(PAIRS, whole=False), "only the first 200"),
    (replace(PAIRS, strengths=True), "objective.margin"), (replace(PAIRS, rewards=True), "objective.margin_of"),
    (replace(PAIRS, chances=True), "column chance"), (replace(PAIRS, dimensions=("VQ", "TA")), "labelled in VQ, TA"),
    (replace(IMAGES, prompts=1), "all have one prompt"),
    (Look("t", "thumbs", rows=60, good=60), "all 60 thumbs are up"),
    (Look("t", "thumbs", rows=60, good=40, bad=20), "40 up, 20 down")])
def test_what_is_noted(look, words):
    assert any(words in note for note in notes_on(look))


def test_nothing_is_noted_of_plain_data():
    assert not notes_on(PAIRS) and not notes_on(IMAGES)


def test_every_kind_of_data_has_words():
    assert {look.kind for look in LOOKS} == _UNITS.keys()


def test_all_recipes_are_listed_with_data_or_a_reason():
    lines = every_recipe().splitlines()
    assert all(any(line.startswith(f"{name} ") for line in lines) for name in (*recipes(),))
    assert any("for no data: hacks a reward on purpose" in line for line in lines)


def test_commands_are_those_that_take_the_recipe():
    commands = {name: known_recipe(name).command for name in recipes()}
    assert commands["language/reward"] == commands["reward_model/vlm"] == "visalign reward train"
    assert commands["guide/wan21"] == "visalign guide train" and commands["online/nft"] == "visalign train"
    assert commands["language/dpo"] == "visalign lm train" and commands["language/rounds"] == "visalign lm rounds"
    assert commands["language/adapt_sd3"] == "visalign lm adapt"
    with pytest.raises(UserError, match="no shipped recipe nothing"):
        known_recipe("nothing")
