import pytest
import torch

from visalign.config.adapter import GateSettings, RewriteSettings
from visalign.errors import UserError
from visalign.language import rewriting
from visalign.language.rewriting import (
    Gate,
    Rewriter,
    Rewritten,
    as_rewrite,
    fallbacks,
    fallbacks_in_words,
    find_rewriter,
    tagged_rewrites,
)
from visalign.media.answers import Answer
from visalign.media.samples import Sample


@pytest.mark.parametrize(("text", "rewrite"), [
    ("red apple", "red apple"),
    ("  red\n apple ", "red apple"),
    ('"red apple"', "red apple"),
    ("\u201cred apple\u201d", "red apple"),
    ("Sure! <PROMPT>red\napple</PROMPT> Enjoy.", "red apple"),
    ("<PROMPT>a</PROMPT><PROMPT>b</PROMPT>", "<PROMPT>a</PROMPT><PROMPT>b</PROMPT>"),  # which one? the gate refuses it
    ('"stop" and "go"', '"stop" and "go"'),  # these quotes are not around the whole
    ("", ""),
])
def test_an_answer_as_a_rewrite(text, rewrite):
    assert as_rewrite(text) == rewrite


def test_rewrites_in_tags():
    assert tagged_rewrites("1. <PROMPT>a cat</PROMPT>\n2. <PROMPT> two\n cats </PROMPT> <PROMPT>") == [
        "a cat", "two cats"]


@pytest.fixture(scope="module")
def gate(pipelines):
    from visalign.config import ModelSettings
    from visalign.generators import load_generator

    return Gate(GateSettings(max_words=12), load_generator(ModelSettings(
        source=str(pipelines("sd3")), resolution=16, prompt_tokens=77), "cpu"))


ASKED = "a drawing of red apple, please"


@pytest.mark.parametrize(("rewrite", "reason"), [
    ("red apple", None),
    (ASKED, None),
    ("", "empty"),
    (" \n", "empty"),
    ("<b>red apple</b>", "tags"),
    ("red apple [4k]", "tags"),
    ("red apple <|im_end|>", "tags"),
    ('a "red apple"', "quotes"),
    ("red apple " * 5000, "too many words"),
    ("une pomme rouge", "another meaning"),
    ("\u7ea2\u82f9\u679c", "another meaning"),
    ("a dog in a car", "another meaning"),
    ("x" * 300, "more tokens than the generator reads"),
])
def test_what_the_gate_refuses(gate, rewrite, reason):
    """An unchanged prompt passes; another language is another meaning for an encoder of English."""
    assert gate.refusals([(ASKED, rewrite)]) == [reason]


def test_signs_that_the_user_wrote_may_stay(gate):
    assert gate.refusals([('draw a "red apple"', 'a "red apple"'), ("a [red] apple", "[red] apple")]) == [
        None, None]


def test_one_encoder_that_reads_all_may_be_enough(gate):
    """Of 100 words CLIP's 77 tokens are too few, and a T5 that takes 200 reads them all."""
    long = " ".join(["red apple"] * 6) + " tree" * 60
    wide = Gate(GateSettings(max_words=200, similarity=-1, read_by="one"), gate.generator)
    strict = Gate(GateSettings(max_words=200, similarity=-1), gate.generator)
    limits = rewriting.unread_tokens(gate.generator, [long])
    assert any(over[0] for over in limits.values())
    expected = None if any(over[0] == 0 for over in limits.values()) else "more tokens than the generator reads"
    assert wide.refusals([(ASKED, long)]) == [expected]
    assert strict.refusals([(ASKED, long)]) == ["more tokens than the generator reads"]


def test_a_refused_rewrite_falls_back_to_the_prompt_and_is_counted(gate, monkeypatch):
    answers = {ASKED: "<PROMPT>red apple</PROMPT>", "a blue bird": "a car on the road"}
    monkeypatch.setattr(rewriting, "sample_answers", lambda _, prompts, *__, **___: [
        Sample(prompt, Answer(answers[prompt])) for prompt in prompts])
    found = Rewriter(None, RewriteSettings(), gate).rewrite([ASKED, "a blue bird", "<|im_end|> cat", ASKED])
    assert [(each.used, each.refused) for each in found] == [
        ("red apple", None), ("a blue bird", "another meaning"), ("<|im_end|> cat", "control tokens in the prompt"),
        ("red apple", None)]
    assert found[1].written == "a car on the road"
    assert fallbacks(found) == {"another meaning": 1, "control tokens in the prompt": 1}
    assert fallbacks_in_words(found).startswith("2 of 4 rewrites fell back to the user's prompt (another meaning 1")
    assert fallbacks_in_words([Rewritten("a", "b", "b", None)]) == "0 of 1 rewrites fell back to the user's prompt"


def test_similarities_are_cosines(gate):
    same, other = gate.similarities([("red apple", "red apple"), ("red apple", "a dog in a car")])
    assert same == pytest.approx(1, abs=1e-5) and -1 <= other < 0.6
    assert not any(torch.is_tensor(value) for value in (same, other))


@pytest.mark.parametrize(("content", "words"), [
    (None, "holds no rewrite.json, which a run of `visalign lm adapt` leaves"),
    ("{", "is not JSON"),
    ('{"rewrite": {}, "gate": {"similarity": 7}, "trained_for": "x"}', "gate.similarity is not what a run writes"),
])
def test_a_folder_that_is_no_rewriter(tmp_path, content, words):
    if content is not None:
        (tmp_path / "rewrite.json").write_text(content)
    with pytest.raises(UserError, match=words):
        find_rewriter(tmp_path)


def test_a_run_that_is_not_finished_is_no_rewriter_yet(tmp_path):
    (tmp_path / "config.yaml").write_text("loop: adapt\n")
    with pytest.raises(UserError, match="so its run is not finished; continue it"):
        find_rewriter(tmp_path)
