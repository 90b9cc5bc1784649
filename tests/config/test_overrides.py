"""`key=value`: text for settings that are text, YAML for the others."""

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from visalign.cli import main
from visalign.config import OfflineConfig, OnlineConfig
from visalign.config.load import model_of, parse_config
from visalign.config.overrides import apply_overrides
from visalign.errors import UserError

OFFLINE = {"model": {"source": "tiny-sd3"}, "data": {"path": "pairs.jsonl"}, "objective": {"name": "flow_dpo"}}
ONLINE = {"model": {"source": "tiny-sd3"}, "reward": {"models": "tiny-clip"}, "rollout": {},
          "objective": {"name": "grpo"}}


def copied(raw):
    return {key: dict(section) for key, section in raw.items()}


def offline(*overrides):
    raw = copied(OFFLINE)
    apply_overrides(raw, overrides, OfflineConfig)
    return parse_config(raw, "here", OfflineConfig)


def online(*overrides):
    raw = copied(ONLINE)
    apply_overrides(raw, overrides, OnlineConfig)
    return parse_config(raw, "here", OnlineConfig)


@pytest.mark.parametrize("text", ["my set #1/pairs.jsonl", "2026-11-25", "003", "no", "a: b", "[mine].txt", "1e-4",
                                  "{a}.csv", "x'y", "null", "'a' and 'b'", "C:\\data\\pairs.csv", "a=b", "- x",
                                  "*.csv"])
def test_text_is_taken_as_typed(text):
    assert offline(f"output.folder={text}").output.folder == text
    assert online(f"rollout.negative_prompt={text}").rollout.negative_prompt == text


@pytest.mark.parametrize("text, value", [("'2026'", "2026"), ('"a: b"', "a: b"), ("''", ""), ("", "")])
def test_quotes_around_the_whole_are_taken_off(text, value):
    assert online(f"rollout.negative_prompt={text}").rollout.negative_prompt == value


def test_words_of_a_choice():
    assert offline("guard.action=off").guard.action == "off"


@pytest.mark.parametrize("text", ["null", "~", ""])
def test_an_optional_text_can_be_left_out(text):
    assert offline(f"data.media_root={text}").data.media_root is None


def test_numbers_lists_and_mappings_are_yaml():
    assert offline("optim.lr=1e-4").optim.lr == 1e-4
    assert offline("train.steps=010").train.steps == 10
    assert offline("optim.betas=[0.9, 0.95]").optim.betas == (0.9, 0.95)
    assert offline("model.lora.targets=[to_q, no]").model.lora.targets == ("to_q", "no")
    assert offline("eval.reward={kind: vlm, model: x}").eval.reward == {"kind": "vlm", "model": "x"}
    assert offline("model.vae_tiling=yes").model.vae_tiling is True
    assert online("reward.models=[tiny-clip, {reward: sharpness, weight: 2}]").reward.models[1].weight == 2
    assert online("reward.models={reward: sharpness, weight: 2}").reward.models[0].weight == 2
    assert online("rollout.window={size: 2, last: 1}").rollout.window.last == 1
    assert online("advantage.scale=global_std", "objective.kl=closed").objective["kl"] == "closed"
    assert model_of("tiny-wan", ("resolution=[64, 96]", "frames=5", "base=x #1")).base == "x #1"


def test_a_section_that_was_null_is_opened():
    assert offline("data.path=null", "data.feedback.steps=7").data.feedback.steps == 7


@pytest.mark.parametrize("override, words", [
    ("train.steps=on", ("train.steps", "'on'")),
    ("train.steps=true", ("train.steps", "number")),
    ("optim.lr=yes", ("optim.lr", "'yes'")),
    ("train.steps=1:30", ("train.steps", "'1:30'")),
    ("optim.betas=[true, 0.9]", ("optim.betas", "number")),
    ("objective.beta=true", ("objective.beta", "number")),
    ("objective.beta=.nan", ("override", "finite")),
    ("optim.lr=inf", ("optim.lr",)),
    ("optim.lr=1e999", ("finite",)),
    ("model.vae_tiling=2", ("model.vae_tiling", "true or false")),
    ("optim.lr=[", ("optim.lr=[", "YAML")),
    ("optim.betas=0.9", ("optim.betas", "a list such as")),
    ("guard.action=of", ("guard.action", "'of'", "'off'")),
    ("=3", ("key=value",)), ("a..b=1", ("key=value",)), ("optim.lr", ("key=value",)),
    ("optim.lr.x=3", ("optim.lr",)), ("optm.lr=3", ("optm", "'optim'")),
])
def test_mistakes_are_one_sentence(override, words):
    with pytest.raises(UserError) as caught:
        offline(override)
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)


def test_a_misspelt_section_is_named_before_the_one_that_is_missing():
    raw = copied(OFFLINE)
    raw["modell"] = raw.pop("model")
    with pytest.raises(UserError, match="unknown key modell .*'model'"):
        parse_config(raw, "here")


@pytest.mark.parametrize("words", [["--optim.lr=1e-5"], ["--optim.lr", "1e-5"]])
def test_a_setting_typed_as_an_option_is_answered_with_its_form(words):
    result = CliRunner().invoke(main, ["train", "r.yaml", *words])
    assert result.exit_code == 2 and "write optim.lr=1e-5" in result.output


KEYS = st.sampled_from(["model", "model.source", "model.resolution", "model.lora.targets", "data.path",
                        "data.dimensions", "data.feedback", "objective", "objective.beta", "objective.name", "optim",
                        "optim.betas", "train.steps", "eval.reward", "eval.also", "guard.action", "nothing.here"])


@given(KEYS | st.text(max_size=12), st.text(max_size=24) | st.text("{}[]:,-#'\"~ 019.eatruno", max_size=16))
@settings(max_examples=150, deadline=None)
def test_any_override_is_taken_or_answered(key, text):
    try:
        offline(f"{key}={text}")
    except UserError as error:
        assert "\n" not in str(error)


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20))
@settings(max_examples=100, deadline=None)
def test_a_path_comes_through_whatever_it_is(text):
    quoted = len(text) > 1 and text[0] == text[-1] and text[0] in "'\""
    raw = copied(OFFLINE)
    apply_overrides(raw, (f"output.folder={text}",), OfflineConfig)
    assert raw["output"]["folder"] == text or quoted


def test_what_may_be_text_or_a_list_is_a_list_in_brackets():
    assert offline("eval.prompts=[a cat, a dog]").eval.prompts == ("a cat", "a dog")
    assert offline("eval.prompts=cats, dogs.txt").eval.prompts == "cats, dogs.txt"
    assert offline("eval.prompts=[odd].txt").eval.prompts == "[odd].txt"
    assert offline("eval.prompts='[odd]'").eval.prompts == "[odd]"
