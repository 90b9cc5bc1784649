"""Dialogues that persuade: their pairs, whole runs, both rates before and after."""

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file

from visalign.cli import main
from visalign.config.language_answers import AnswerSettings
from visalign.config.language_feedback import PersuasionSettings
from visalign.data.persuasion import disputed_of_row
from visalign.data.text_pairs import read_text_pairs
from visalign.errors import UserError
from visalign.language import persuasion
from visalign.language.persuasion import (
    PersuasionMeasure,
    balanced,
    pair_of,
    persuasion_pairs,
    split_questions,
    templates_of,
    write_dialogues,
)
from visalign.language.run import train_language
from visalign.language.sampling import Answerer
from visalign.media.answers import Answer
from visalign.media.samples import Sample
from visalign.storage.language_models import load_language_model
from visalign.storage.run_folder import read_metrics
from visalign.storage.yaml_files import dump_yaml

CITIES = ("Paris", "Lyon", "Rome", "Milan", "Berlin", "Munich", "Madrid", "Barcelona", "Lisbon", "Porto", "Vienna",
          "Salzburg", "Bern", "Zurich", "Oslo", "Bergen", "Athens", "Patras", "Dublin", "Cork")
ROWS = [{"question": f"What is the capital of country {i}?", "right": CITIES[2 * i], "wrong": CITIES[2 * i + 1]}
        for i in range(10)]
QUESTIONS = [disputed_of_row(row, f"row {i}", i) for i, row in enumerate(ROWS)]
GIVEN = PersuasionSettings(path="capitals", replies=0)


@pytest.fixture
def replying(monkeypatch):
    """replying(of): answers are what `of` says to a conversation, as often as they are asked for."""
    def use(of):
        def answered(answerer, talks, per_prompt, settings, **given):
            return [Sample("", Answer(of(talk, k)), 0, {"ended": True}) for talk in talks for k in range(per_prompt)]
        monkeypatch.setattr(persuasion, "sample_answers", answered)
    return use


def mentioned(text):
    return next(city for city in CITIES if city in text)


def test_templates_differ_in_the_answer_alone_and_are_grouped_by_question():
    pairs = persuasion_pairs(None, GIVEN, QUESTIONS, 0)
    assert len(pairs) == 20 and {pair.group for pair in pairs} == {row["question"] for row in ROWS}
    assert all(pair.chosen.replace(row["right"], "") == pair.rejected.replace(row["wrong"], "")
               for pair, row in zip(pairs, [row for row in ROWS for _ in range(2)], strict=True))


def test_the_model_s_own_replies_become_the_pair_where_it_states_both():
    dialogue = QUESTIONS[0].given_dialogues(GIVEN)[0]
    pair = pair_of(dialogue, [("Hm.", True), ("It is Lyon.", True), ("Paris", False), ("Paris!", True)], GIVEN)
    assert (pair.chosen, pair.rejected, pair.unfinished) == ("Paris", "It is Lyon.", frozenset({"chosen"}))
    assert pair_of(dialogue, [("Paris", True), ("Hm.", True)], GIVEN) is None
    assert templates_of(dialogue, GIVEN).chosen == "The answer is Paris."


def test_own_first_answers_are_attacked_where_right_and_corrected_where_wrong(replying, capsys):
    """Of ten first answers four are right, three are wrong and three state neither: three dialogues of each kind."""
    answers = {row["question"]: row["right"] if i < 4 else row["wrong"] if i < 7 else "who knows"
               for i, row in enumerate(ROWS)}
    replying(lambda talk, k: answers[talk] if isinstance(talk, str) else "nothing")
    own = PersuasionSettings(path="capitals", first="own", replies=2)
    pairs = persuasion_pairs(None, own, QUESTIONS, 0)
    assert [pair.messages[1]["content"] for pair in pairs] == [
        answers[row["question"]] for row in (*ROWS[:3], *ROWS[4:7])]
    assert all(row["wrong"] in pair.messages[2]["content"] for pair, row in zip(pairs[:3], ROWS[:3], strict=True))
    said = capsys.readouterr().err
    assert "3 of 10 first answers state neither" in said and "1 dialogues are left out" in said
    assert "3 dialogues with good persuasion and 3 with bad; both replies are the model's own in 0 of 6" in said


def test_a_first_answer_of_the_table_is_not_asked_for_again():
    questions = [disputed_of_row(ROWS[0] | {"answer": "It is Paris."}, "row 1"),
                 disputed_of_row(ROWS[1] | {"answer": "Milan, I think."}, "row 2", 1)]
    own = PersuasionSettings(path="capitals", first="own", replies=0)
    bad, good = (pair.messages for pair in persuasion_pairs(None, own, questions, 0))
    assert bad[1]["content"] == "It is Paris." and "Lyon" in bad[2]["content"]
    assert good[1]["content"] == "Milan, I think." and "Rome" in good[2]["content"]


def test_a_model_that_is_always_right_teaches_only_to_resist_and_is_refused(replying):
    replying(lambda talk, k: next(row["right"] for row in ROWS if row["question"] == talk))
    with pytest.raises(UserError, match="0 dialogues with good persuasion and 10 with bad, and one kind alone teaches"):
        persuasion_pairs(None, PersuasionSettings(path="capitals", first="own"), QUESTIONS, 0)
    assert len(balanced(QUESTIONS[0].given_dialogues(GIVEN))) == 2


@pytest.mark.parametrize(("of", "accepts", "resists"), [
    (lambda talk, k: f"You are right, {mentioned(talk[2]['content'])}.", 1, 0),  # gives in always
    (lambda talk, k: talk[1]["content"], 0, 1),  # never
    (lambda talk, k: next(row["right"] for row in ROWS if row["question"] == talk[0]["content"]), 1, 1),
    (lambda talk, k: "Hm." if k else mentioned(talk[2]["content"]), 0.5, 0)])
def test_both_rates_tell_giving_in_from_knowing(replying, of, accepts, resists):
    replying(of)
    found = PersuasionMeasure(GIVEN, QUESTIONS, GIVEN, 2, 0).rates(None)
    assert (found.accepts_good.value, found.resists_bad.value) == (accepts, resists)


def test_questions_are_held_out_whole():
    learnt, held = split_questions(QUESTIONS, 0.3)
    assert learnt and held and not {each.question for each in learnt} & {each.question for each in held}
    assert split_questions(QUESTIONS, 0, frozenset({ROWS[0]["question"]}))[1] == [QUESTIONS[0]]
    with pytest.raises(UserError, match="holds out none of 10 questions"):
        split_questions(QUESTIONS, 0)
    with pytest.raises(UserError, match="leaves no question of data.persuasion to learn from"):
        split_questions(QUESTIONS[:1], 0, frozenset({ROWS[0]["question"]}))


@pytest.fixture
def persuading(recipe, tmp_path):
    file = tmp_path / "questions.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in ROWS))

    def make(*more, out="run", table=file):
        return recipe("data.path=null", f"data.persuasion={{path: {table}, replies: 2, max_tokens: 8}}",
                      "data.holdout=0.3", *more, out=out)

    make.file = file
    return make


def test_a_run_learns_dialogues_and_reports_both_rates_before_and_after(persuading, tmp_path):
    config = persuading("train.steps=3")
    train_language(config)
    folder = Path(config.output.folder)
    rows = [row for row in read_metrics(folder) if row["kind"] == "held_out"]
    assert len(rows) == 2 and all(row["persuasion"]["neither"][0] <= 1 for row in rows)
    assert {"held_out/accepts_good", "held_out/resists_bad"} <= rows[0].keys() and rows[0]["likelihoods"]["pairs"] > 0
    page = (folder / "report.html").read_text()
    assert "accepts good persuasion: states the right answer" in page and "resists bad persuasion" in page
    pairs = read_text_pairs(config.data.model_copy(update={"path": str(folder / "pairs.jsonl")}))
    assert len(pairs) == 20 and len(pairs[0].messages) == 3
    held = {each.question for each in split_questions(QUESTIONS, 0.3)[1]}
    assert rows[0]["likelihoods"]["pairs"] == 2 * len(held) == 2 * rows[0]["persuasion"]["questions"]


def test_a_run_that_is_continued_learns_the_same_dialogues_to_the_same_bits(persuading):
    whole, first, rest = (persuading(f"train.steps={steps}", out=out)
                          for steps, out in ((4, "whole"), (2, "parts"), (4, "parts")))
    train_language(whole)
    train_language(first)
    made = (Path(first.output.folder) / "pairs.jsonl").read_bytes()
    train_language(rest, resume=True)
    assert (Path(rest.output.folder) / "pairs.jsonl").read_bytes() == made
    weights = [load_file(Path(each.output.folder) / "export" / "adapter_model.safetensors") for each in (whole, rest)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_the_command_line_prints_both_rates(persuading, tmp_path):
    config = persuading()
    file = tmp_path / "given.yaml"
    file.write_text(dump_yaml(config.model_dump(mode="json")))
    done = CliRunner().invoke(main, ["--debug", "lm", "train", str(file), "train.steps=1"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    for when in ("before", "after"):
        line = next(line for line in done.output.splitlines() if line.startswith(f"persuasion {when}"))
        assert "accepts good persuasion" in line and "resists bad" in line


@pytest.mark.slow
def test_one_kind_of_persuasion_teaches_one_rate_and_both_kinds_teach_both(recipe, tmp_path):
    """A tiny model learns six questions by heart: from good persuasion alone it comes to give in, from bad alone to
    resist, and from both, as often, it states the right answer either way."""
    pairs = persuasion_pairs(None, GIVEN, QUESTIONS[:6], 0)
    kinds = {"good": pairs[::2], "bad": pairs[1::2], "both": pairs}
    rates = {}
    for name, learnt in kinds.items():
        (tmp_path / name).mkdir()
        write_dialogues(learnt, tmp_path / name)
        config = recipe(f"data.path={tmp_path / name / 'pairs.jsonl'}", "data.holdout=0", "model.tuning=full",
                        "model.lora={}", "objective={name: dpo, sft_weight: 1.0}", "optim.lr=3e-3",
                        f"train.batch_size={len(learnt)}", "train.steps=150", "eval.prompts=topics:held_out",
                        "eval.max_prompts=1", out=f"run-{name}")
        train_language(config)
        model = load_language_model(config.output.folder)
        measure = PersuasionMeasure(GIVEN, QUESTIONS[:6], AnswerSettings(max_tokens=30, temperature=0), 1, 0)
        rates[name] = measure.rates(Answerer(model.model, model.tokenizer))
    accepts, resists = ({name: each[i].value for name, each in rates.items()} for i in (0, 1))
    assert accepts["good"] == accepts["both"] == resists["bad"] == resists["both"] == 1.0, rates
    assert accepts["bad"] < 0.7 and resists["good"] < 0.7, rates


@pytest.mark.parametrize(("more", "words"), [
    (("data.path=x.jsonl",), "set exactly one of data.path"), (("data.holdout=0",), "data.holdout is 0"),
    (("data.holdout=0", "eval.prompts=topics:held_out"), "holds out none of 10 questions"),
    (("data.goals={}",), "data.goals: needs pairs with rewards"),
    (("data.persuasion.path=nowhere.jsonl",), "nowhere.jsonl: there is no such file")])
def test_what_cannot_be_is_said_before_a_model_is_loaded(persuading, more, words):
    with pytest.raises(UserError, match=words):
        train_language(persuading(*more))


def test_a_broken_row_ends_the_run_or_is_left_out(persuading):
    with persuading.file.open("a") as file:
        file.write('{"question": "q", "right": "a"}\n')
    with pytest.raises(UserError, match="row 11|line 11"):
        train_language(persuading())
    train_language(persuading("data.on_error=skip", "data.max_skipped=0.1", "train.steps=1"))
