"""What is written passes its dry run, keeps the recipe's comments, and says what was set."""

import functools
from pathlib import Path

import pytest
from click.testing import CliRunner

from visalign.cli import main
from visalign.config.load import load_config
from visalign.config.recipes import recipes
from visalign.data.text_pairs import read_text_pairs
from visalign.errors import UserError
from visalign.jobs.advise.choosing import advice_on
from visalign.jobs.advise.look import Look
from visalign.jobs.advise.models import MODELS, Model, see_model
from visalign.jobs.advise.writing import USUAL_NAME, changes_for, file_to_write
from visalign.jobs.train import check_training, completed, measured_on
from visalign.storage.yaml_files import read_mapping


@pytest.fixture
def advise(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return functools.partial(invoke, "advise")


def invoke(*words):
    return CliRunner().invoke(main, [*map(str, words)])


def passes(advise, *words, recipe=None, whole=False):
    """The settings of what is written, which everything takes that a dry run checks; whole: with the dry run itself."""
    done = advise(*words, "--out", "new.yaml")
    assert done.exit_code == 0, done.output
    assert "visalign train new.yaml --dry-run\n" in done.output
    if recipe:
        assert f"new.yaml: written from {recipe}\n" in done.output
    if whole:
        dry = invoke("train", "new.yaml", "--dry-run")
        assert dry.exit_code == 0, dry.output
    else:
        config = completed(load_config("new.yaml"))
        measured_on(config, check_training(config).prompts)
    return read_mapping("new.yaml", "recipe")


def test_pairs_for_a_diffusion_model(advise, table, pairs):
    raw = passes(advise, table(pairs(6)), "--model", "tiny-sdxl", recipe="quickstart", whole=True)
    assert raw["data"].keys() == {"path", "holdout"} and raw["data"]["path"].endswith("data.jsonl")
    assert raw["objective"]["name"] == "diffusion_dpo" and raw["output"]["folder"] == "runs/new"


def test_pairs_for_a_flow_model_take_the_place_of_feedback(advise, table, pairs):
    raw = passes(advise, table(pairs(6)), "-m", "tiny-sd3", recipe="ai_feedback")
    assert raw["data"].keys() == {"path", "holdout"} and raw["objective"]["name"] == "flow_dpo"


@pytest.mark.parametrize("method, recipe", [
    ("inpo", "tiny_inpo"), ("mapo", "tiny_mapo"), ("npo", "tiny_npo"), ("kto", "tiny_kto"), ("soar", "tiny_soar"),
    ("goals", "tiny_goals"), ("mixed", "mixed_dpo"), ("sft", "sft")])
def test_other_methods_for_pairs_of_a_flow_model(advise, table, pairs, method, recipe):
    file = table(pairs(6, chosen_reward=lambda n: 1.0 + n, rejected_reward=lambda n: 0.1))
    raw = passes(advise, file, "--model", "tiny-sd3", "--take", method, recipe=recipe)
    assert raw["objective"]["name"] in ("flow_dpo", "flow_inpo", "mapo", "diffusion_kto", "soar", "sft")


def test_a_model_of_a_recipe_s_own_family_that_is_a_folder(advise, table, pairs, pipelines):
    raw = passes(advise, table(pairs(6)), "--model", pipelines("sd15"), recipe="quickstart")
    assert raw["model"]["source"] == str(pipelines("sd15"))


@pytest.mark.parametrize("kind", ["good", "both", "ratings", "subject", "one prompt"])
def test_single_images(advise, table, singles, kind):
    more = {"good": {"label": lambda n: True}, "both": {"label": lambda n: n % 2},
            "ratings": {"VQ": lambda n: float(n)}}.get(kind, {})
    rows = singles(6, **more)
    rows = [row | {"prompt": "a thing"} for row in rows] if kind == "one prompt" else rows
    raw = passes(advise, table(rows), "--model", "tiny-sdxl", whole=kind == "one prompt")
    assert raw["objective"]["name"] == ("diffusion_kto" if kind in ("both", "ratings") else "sft")
    assert raw["data"].get("good_from") == (2.5 if kind == "ratings" else None)
    if kind == "one prompt":
        assert raw["data"]["holdout"] == 0 and raw["eval"]["prompts"] == ["a thing on a beach", "a thing in the snow"]


def test_a_folder_of_captioned_images(advise, folder):
    assert passes(advise, folder, "--model", "tiny-sd3", recipe="sft_folder")["data"]["path"] == str(folder)


def test_videos(advise, video_pairs_file):
    raw = passes(advise, video_pairs_file, "--model", "tiny-wan", recipe="video/flow_dpo_dimensions")
    assert raw["data"]["dimensions"] == {"VQ": 1.0, "MQ": 1.0, "TA": 1.0}


def test_edits(advise, table, pairs):
    file = table(pairs(6, source=lambda n: "white.png"))
    passes(advise, file, "--model", "tiny-edit", recipe="edit/tiny_edit_dpo")


@pytest.mark.parametrize("source, model, words, recipe", [
    ("emoji:pairs", "tiny-sdxl", (), "quickstart"), ("emoji:train", "tiny-sd3", (), "online/flow_grpo"),
    ("emoji:train", "tiny-sdxl", (), "online/ddpo"), ("prompts.txt", "tiny-sd3", ("--take", "nft"), "online/nft"),
    ("prompts.txt", "tiny-sd3", ("--take", "feedback"), "ai_feedback"),
    ("emoji-edits:train", "tiny-edit", (), "edit/tiny_edit_grpo"), ("prompts.txt", "tiny-wan", (), "video/flow_grpo")])
def test_prompts_and_embedded_data(advise, source, model, words, recipe):
    Path("prompts.txt").write_text("a red thing\na blue thing\na green thing\n")
    passes(advise, source, "--model", model, *words, recipe=recipe)


def test_pairs_of_text(advise, table, texts):
    done = advise(table(texts))
    assert done.exit_code == 0 and "visalign lm train advised.yaml --dry-run" in done.output, done.output
    config = load_config(USUAL_NAME)
    assert config.loop == "language" and config.data.feedback is None and len(read_text_pairs(config.data)) == 8


def test_answers_of_a_language_model_are_imitated(advise, table, texts):
    answers = [{"prompt": row["prompt"], "completion": row["chosen"]} for row in texts]
    done = advise(table(answers))
    assert done.exit_code == 0 and "visalign lm train advised.yaml --dry-run" in done.output, done.output
    config = load_config(USUAL_NAME)
    assert config.objective == {"name": "sft"} and len(read_text_pairs(config.data, compared=False)) == 8


@pytest.mark.parametrize("method, recipe", [("reward", "reward_model/open_clip"), ("guide", "guide/tiny_sd3")])
def test_rewards_and_guides_are_written_with_their_own_commands(advise, table, pairs, method, recipe):
    done = advise(table(pairs(6)), "--model", "tiny-sd3", "--take", method)
    assert done.exit_code == 0 and f"{USUAL_NAME}: written from {recipe}" in done.output
    assert f"visalign {method} train advised.yaml" in done.output and "--dry-run" not in done.output
    assert read_mapping("advised.yaml", "recipe")["data"]["path"].endswith("data.jsonl")


def test_comments_stay_and_the_first_line_says_what_was_set(advise, table, pairs):
    advise(table(pairs(6)), "--out", "new.yaml")
    text, shipped = Path("new.yaml").read_text(), recipes()["sdxl_dpo"].read_text()
    assert text.startswith("# The recipe sdxl_dpo for ") and "# which set data.path, output.folder." in text
    comments = [line for line in shipped.splitlines() if line.startswith("#")]
    assert all(line in text for line in comments) and "# pairs on each GPU" in text
    assert "max_pairs" not in text  # said of the set that the recipe was written for


def test_what_to_do_first_is_said(advise, table):
    talks = [{"conversation": [{"role": "user", "content": "a?"}, {"role": "assistant", "content": "b"}]}]
    done = advise(table(talks))
    assert done.exit_code == 0, done.output
    assert "make the pairs: visalign data dialogues" in done.output
    assert read_mapping("advised.yaml", "recipe")["data"]["path"] == "dialogue-pairs/pairs.jsonl"


def test_names_of_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert file_to_write(None) == USUAL_NAME
    USUAL_NAME.write_text("mine")
    assert str(file_to_write(None)) == "advised-2.yaml"
    with pytest.raises(UserError, match="is there already, and nothing is overwritten"):
        file_to_write(USUAL_NAME)


def test_settings_of_another_family_s_model_are_left_out():
    pairs = Look("p.jsonl", "pairs", rows=99, pairs=99, prompts=50)

    def changes(source, method):
        return changes_for(advice_on(pairs, Model(source, MODELS[source])).take(method), pairs, "x", True)

    assert "model.resolution" not in changes("Efficient-Large-Model/SANA1.5_1.6B_1024px_diffusers", "dpo")
    assert changes("Qwen/Qwen-Image", "soar")["model.resolution"] is None  # SD3's


def test_the_sibling_of_an_objective_gets_the_usual_beta():
    pairs = Look("p.jsonl", "pairs", rows=99, pairs=99, prompts=50)
    flow = Model("Qwen/Qwen-Image", MODELS["Qwen/Qwen-Image"])
    changes = changes_for(advice_on(pairs, flow).take("npo"), pairs, "x", True)
    assert (changes["objective.name"], changes["objective.beta"]) == ("flow_dpo", 2000)


def test_a_model_is_seen_from_its_files(pipelines):
    kind = see_model(str(pipelines("sd15"))).kind
    assert (kind.pipeline, kind.process, kind.modality, kind.edits, kind.small) == (
        "StableDiffusionPipeline", "diffusion", "image", False, True)
    assert see_model("Qwen/Qwen-Image").kind == MODELS["Qwen/Qwen-Image"]
    assert see_model("tiny-edit").kind == MODELS["tiny-edit"]
    with pytest.raises(UserError, match="hf download someone/no-such-model"):
        see_model("someone/no-such-model")


def test_what_is_not_possible_is_one_sentence(advise, table, pairs):
    file = table(pairs(6))
    for words, says in [((file, "--take", "rwr"), "--take rwr: does not fit"),
                        ((file, "--model", "nowhere"), "no such"), (("gone.jsonl",), "no such file or folder"),
                        ((file, "--model", "tiny-wan"), "model of images")]:
        done = advise(*words)
        assert done.exit_code == 1 and says in done.output and done.output.count("\n") == 1, done.output
    assert not USUAL_NAME.exists()
    assert advise().exit_code == 2


def test_all_lists_the_recipes(advise):
    done = advise("--all")
    assert done.exit_code == 0 and "sd15_kto" in done.output and not USUAL_NAME.exists()
