"""Pairs that a model is sure of, by dropout on what it has learnt."""

import json

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from peft import LoraConfig, get_peft_model

from tests.language.test_rounds import recipe as rounds_recipe  # noqa: F401  a fixture
from tests.tiny.languages import tiny_language_model, tiny_tokenizer
from visalign.cli import main
from visalign.config.language_feedback import UncertaintySettings
from visalign.config.load import load_config
from visalign.data.text_pairs import TextPair
from visalign.errors import UserError
from visalign.evaluators.risk_coverage import risk_coverage
from visalign.language.run import train_language
from visalign.language.uncertainty import (
    PairDoubts,
    PairMargins,
    doubts_of,
    dropout_on_difference,
    kept_of,
    preferred,
    uncertainty_of_round,
)
from visalign.storage.language_models import LanguageModel, load_language_model

MARGINS = PairMargins(np.array([1.0, 2.0, -1.0, 0.5, 3.0, -0.2]), np.array([0.4, 0.1, 0.3, 0.2, 0.9, 0.6]))


@pytest.mark.parametrize(("keep", "most", "kept"), [
    (0.5, None, [1, 3]), (0.7, None, [0, 1, 3]), (1.0, 0.5, [0, 1, 3]), (1.0, None, [0, 1, 3, 4]), (0.5, 0.15, [1])])
def test_pairs_are_kept_where_the_mean_is_positive_and_the_deviation_low(keep, most, kept):
    """Of the four pairs with mean z above 0 those of deviation 0.1, 0.2, 0.4, 0.9: half are two, 0.7 of them 2.8, so
    three."""
    found = kept_of(MARGINS, UncertaintySettings(keep=keep, max_std=most))
    assert np.flatnonzero(found).tolist() == kept


def test_the_surest_come_first_and_sure_contradictions_last():
    assert np.argsort(doubts_of(MARGINS)).tolist() == [1, 3, 0, 4, 5, 2]


def with_adapter(dropout: float):
    """A tiny model with a LoRA that has learnt something, on all linear layers."""
    model = get_peft_model(tiny_language_model(), LoraConfig(
        r=4, lora_alpha=8, lora_dropout=dropout, target_modules="all-linear", task_type="CAUSAL_LM"))
    rng = torch.Generator().manual_seed(1)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            weight.data = 0.2 * torch.randn(weight.shape, generator=rng)
    return model


def test_dropout_on_the_difference_is_the_dropout_of_a_lora():
    """W_ref x + (W - W_ref) drop(x) with W - W_ref = B A: the same random numbers give the same logits as peft."""
    ids = torch.randint(3, 200, (2, 9), generator=torch.Generator().manual_seed(0))
    adapted, merged = with_adapter(0.3), with_adapter(0.3).merge_and_unload().eval()
    reference = tiny_language_model()
    torch.manual_seed(7)
    with torch.no_grad():
        wanted = adapted.train()(input_ids=ids).logits
    torch.manual_seed(7)
    with torch.no_grad(), dropout_on_difference(merged, reference, 0.3):
        found = merged(input_ids=ids).logits
    assert torch.allclose(found, wanted, atol=1e-4)
    with torch.no_grad():
        assert (merged(input_ids=ids).logits - found).abs().max() > 1e-2  # and none outside


def text_pairs_with_wrong_labels(count=20):
    """Every fourth has the long answer as chosen."""
    sides = ("Yes, short.", "No, this is a long answer about thing {}.")
    return [TextPair(({"role": "user", "content": f"Tell me about thing {i}."},),
                     sides[i % 4 == 0].format(i), sides[i % 4 != 0].format(i), f"row {i}") for i in range(count)]


FEEDBACK = ("data.path=null", "data.feedback={prompts: topics:train, max_prompts: 6, reward: brevity, max_tokens: 6, "
            "uncertainty: {reference: MODEL}}")


DOUBTS = PairDoubts(UncertaintySettings())


def test_a_model_that_is_its_own_reference_is_sure_of_nothing(tiny_lm, tmp_path):
    model, pairs = load_language_model(str(tiny_lm)), text_pairs_with_wrong_labels()
    found = DOUBTS.margins(pairs, model, tiny_language_model())
    assert not found.mean.any() and not found.std.any()
    with pytest.raises(UserError, match="makes every answer as likely as the model does, so z is 0"):
        DOUBTS.sure_pairs(pairs, model, tiny_language_model(), tmp_path)


def test_wrong_labels_are_found_by_a_model_that_has_learnt_the_right_ones(recipe, tiny_lm):
    train_language(recipe("train.steps=8", "eval.max_prompts=1"))
    learnt = load_language_model(recipe().output.folder)
    pairs = text_pairs_with_wrong_labels()
    reference = load_language_model(str(tiny_lm)).model
    found, again = (DOUBTS.margins(pairs, learnt, reference) for _ in range(2))
    assert (found.mean == again.mean).all() and (found.std > 0).all()
    wrong = np.arange(len(pairs)) % 4 == 0
    assert ((found.mean > 0) == ~wrong).all()
    assert risk_coverage(wrong, doubts_of(found)).area < 0.1 < wrong.mean()
    assert not wrong[kept_of(found, UncertaintySettings(keep=1.0))].any()


def test_passes_leave_the_random_numbers_of_training_as_they_were():
    model, reference = LanguageModel(tiny_language_model(1), tiny_tokenizer(), ""), tiny_language_model()
    state = torch.get_rng_state()
    DOUBTS.margins(text_pairs_with_wrong_labels(4), model, reference)
    assert torch.equal(state, torch.get_rng_state())


def test_log_probabilities_are_of_the_tokens_that_are_trained_on():
    """An answer that was cut has no end of its turn, which else would count."""
    from visalign.language.chat import encode_pair

    model = LanguageModel(tiny_language_model(), tiny_tokenizer(), "")
    messages = ({"role": "user", "content": "What is rain?"},)
    rows = [encode_pair(model.tokenizer, TextPair(messages, "water", "salt", "row", unfinished=frozenset(cut)), 0, None)
            for cut in ((), ("chosen",))]
    assert len(rows[0]["chosen_ids"]) == len(rows[1]["chosen_ids"]) + 1
    assert preferred(model, rows)[0] < preferred(model, rows)[1]


def test_another_architecture_is_refused():
    model = tiny_language_model()
    other = tiny_language_model()
    other.model.layers = other.model.layers[:1]
    with pytest.raises(UserError, match="has other layers than the model"), dropout_on_difference(model, other, 0.1):
        pass


@pytest.mark.parametrize(("change", "words"), [
    ("reference: '{base}'", "names a model of `lm rounds`"), ("reference: MODEL", "is the model itself, so z is 0"),
    ("reference: nowhere", "uncertainty.reference nowhere: there is no such folder")])
def test_a_reference_that_says_nothing_is_refused_before_a_model_is_loaded(recipe, tiny_lm, change, words):
    given = [each.replace("reference: MODEL", change).replace("MODEL", str(tiny_lm)) for each in FEEDBACK]
    with pytest.raises(UserError, match=words):
        train_language(recipe(*given))


def test_the_first_round_keeps_all_pairs_since_it_has_learnt_nothing(capsys):
    settings = UncertaintySettings()
    assert uncertainty_of_round(settings, 1, "a", "a") is None
    assert "round 1 is the reference {base} itself" in capsys.readouterr().err
    assert uncertainty_of_round(settings, 2, "a", "b").reference == "a"
    assert uncertainty_of_round(None, 2, None, "b") is None


def test_rounds_keep_the_pairs_that_the_model_is_sure_of(rounds_recipe, tmp_path):  # noqa: F811
    file = rounds_recipe()
    more = ("data.feedback.uncertainty={passes: 3, keep: 0.8}", "data.feedback.max_prompts=8", "optim.lr=1e-2",
            "train.steps=4", "data.feedback.reward=brevity", "eval.reward='regex:[aeiou]'")
    done = CliRunner().invoke(main, ["--debug", "lm", "rounds", str(file), *more], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert "pairs of this round are kept" in done.output and "pairs are kept; of" in done.output
    first, second = (tmp_path / "rounds" / f"round-{i}" for i in (1, 2))
    assert not (first / "uncertainty.json").exists()
    found = json.loads((second / "uncertainty.json").read_text())
    kept = (second / "pairs.jsonl").read_text().splitlines()
    assert len(kept) == found["kept"] == sum(row["kept"] for row in found["pairs"]) < found["of"]
    assert found["measured_by"] == "regex:[aeiou]" and found["curve"]["coverage"][-1] == 1
    page = (second / "report.html").read_text()
    assert "Pairs that the model was sure of" in page and "label errors by regex:[aeiou]" in page
    assert load_config(second / "config.yaml").data.feedback.uncertainty.reference != "{base}"
    (second / "verdict.json").unlink()  # as if it was killed
    (second / "uncertainty.json").unlink()
    again = CliRunner().invoke(main, ["--debug", "lm", "rounds", str(file), "--resume", *more], catch_exceptions=False)
    assert again.exit_code == 0, again.output
    assert (second / "pairs.jsonl").read_text().splitlines() == kept and not (second / "uncertainty.json").exists()


def test_what_no_deviation_reaches_is_refused(recipe, tiny_lm):
    train_language(recipe("train.steps=2", "eval.max_prompts=1", out="learnt"))
    given = [each.replace("reference: MODEL", f"reference: {tiny_lm}, max_std: 1.0e-9") for each in FEEDBACK]
    source = recipe(out="learnt").output.folder
    with pytest.raises(UserError, match="uncertainty: none of .* pairs is left; raise max_std"):
        train_language(recipe(*given, f"model.source={source}", "eval.prompts=topics:held_out"))
