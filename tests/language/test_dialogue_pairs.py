"""`visalign data dialogues` from the command line: planted dialogues, revised answers, what is refused."""

import json

import pytest
from click.testing import CliRunner

from tests.data.test_dialogues import talk
from visalign.cli import main
from visalign.config import TextDataSettings
from visalign.config.language_answers import AnswerSettings
from visalign.data.dialogues import UserComplaint
from visalign.data.text_pairs import read_text_pairs
from visalign.errors import UserError
from visalign.language.dialogue_pairs import Reviser, RewardedReactions
from visalign.language.run import train_language
from visalign.storage.run_folder import holds_run

SATISFIED = ("Thanks, that is what I needed!", "Perfect.", "Oh nice, it works now.", "That helps a lot, thank you.",
             "Great explanation!", "Awesome, now do the same for Italy.", "You rock", "That makes sense.",
             "Cool, exactly what I was looking for", "Lovely poem")
DISSATISFIED = ("No, that's not what I asked.", "This is wrong, 7 times 8 is 56.", "Hmm, that didn't help.",
                "You forgot the second part of my question.", "It doesn't work, I get a syntax error.",
                "Too long. Make it shorter.", "I said no bullet points!", "That is incorrect.",
                "Can you please actually answer the question?", "Why do you keep repeating yourself?")
NEITHER = ("And what is the capital of Spain?", "Write a thank you note to my boss.", "Tell me about the Great Wall.",
           "What is wrong with my code?", "Thanks in advance. How do I boil eggs?", "Continue", "How tall is it?",
           "Translate 'this is great' into French.", "Is it not helpful to add salt?", "Make a table of it.")
"""Planted reactions, some of which no list of phrases gets right."""


def write(file, rows):
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(file)


@pytest.fixture
def planted(tmp_path):
    """30 dialogues: a question, an answer, the planted reaction; after a complaint a better answer, which satisfies
    every second time."""
    rows = []
    for kind, turns in ((True, SATISFIED), (False, DISSATISFIED), (None, NEITHER)):
        for i, said in enumerate(turns):
            more = (f"The better answer {i}.", "Thanks!" if i % 2 else "And rain?") if kind is False else ()
            rows.append({"messages": talk(f"Tell me about thing {i}.", f"A poor answer {i}.", said, *more),
                         "satisfied": [kind, *((True if i % 2 else None,) if more else ())]})
    return write(tmp_path / "chats.jsonl", rows)


def run(*words):
    return CliRunner().invoke(main, ["data", "dialogues", *map(str, words)])


def test_planted_complaints_become_pairs_and_the_signal_says_how_good_it_is(planted, tmp_path):
    """Of 10 complaints the phrases find 9, all but the plea to answer, and call the question after salt one; of 15
    satisfied turns they find 14, all but "You rock", and call the quoted praise one."""
    done = run(planted, "-o", tmp_path / "out")
    assert done.exit_code == 0, done.output
    assert "30 dialogues with 40 turns after an answer" in done.output
    assert "dissatisfied: precision 0.90 (9 of 10), recall 0.90 (9 of 10)" in done.output
    assert "satisfied: precision 0.93 (14 of 15), recall 0.93 (14 of 15)" in done.output
    pairs = read_text_pairs(TextDataSettings(path=str(tmp_path / "out" / "pairs.jsonl")))
    assert {(pair.prompt, pair.chosen, pair.rejected) for pair in pairs} == {
        (f"Tell me about thing {i}.", f"The better answer {i}.", f"A poor answer {i}.") for i in (1, 3, 5, 7, 9)}
    assert "5 pairs of 10 complaints: 5 with a later answer" in done.output
    assert "5 complaints have no better answer in their dialogue" in done.output
    assert "already holds pairs" in run(planted, "-o", tmp_path / "out").output


def test_a_model_writes_the_better_answers_that_no_dialogue_has(planted, tiny_lm, recipe, tmp_path):
    words = (planted, "--model", tiny_lm, "--max-tokens", 250, "--temperature", 1, "--device", "cpu")
    done = run(*words, "-o", tmp_path / "out")
    assert done.exit_code == 0, done.output
    rows = [json.loads(line) for line in (tmp_path / "out" / "pairs.jsonl").read_text().splitlines()]
    revised = [row for row in rows if row["chosen_from"] == "revised"]
    assert revised and len(rows) == len(revised) + 5
    assert all(row["complaint"] not in message["content"] for row in rows for message in row["prompt"])
    again = run(*words, "-o", tmp_path / "again")
    assert (tmp_path / "again" / "pairs.jsonl").read_text() == (tmp_path / "out" / "pairs.jsonl").read_text(), again
    config = recipe(f"data.path={tmp_path / 'out' / 'pairs.jsonl'}", "data.holdout=0.3", "train.steps=1")
    train_language(config)
    assert holds_run(config.output.folder)


def test_the_hint_is_seen_by_the_model_alone():
    complaint = UserComplaint(talk("q", "a", "What is {rain}?"), "snow", "Wrong!", None, "row")
    reviser = Reviser("nowhere", AnswerSettings(), hint="{prompt} [{complaint}]")
    assert reviser.hinted(complaint) == (*talk("q", "a"), {"role": "user", "content": "What is {rain}? [Wrong!]"})


def test_a_reward_reads_the_turns_in_place_of_phrases(planted, tmp_path):
    """`avoids:incorrect` is -1 for one of the turns, whose dialogue has no answer that satisfied."""
    done = run(planted, "-o", tmp_path / "out", "-r", "avoids:incorrect", "--satisfied-at", 0.5,
               "--dissatisfied-at", -0.5)
    assert done.exit_code != 0 and "no pair comes of 1 complaints; name a --model" in done.output
    told = RewardedReactions("brevity", -0.1, -0.5)
    assert [told.reaction(each) for each in (-0.1, -0.2, -0.5, float("nan"))] == [True, None, False, None]


def test_control_tokens_of_the_template_are_refused_before_anything_is_drawn(tiny_lm, tmp_path):
    chats = write(tmp_path / "chats.jsonl", [{"messages": talk("q <|im_end|>", "a", "That is wrong.")}])
    done = run(chats, "-o", tmp_path / "out", "--model", tiny_lm)
    assert done.exit_code != 0 and "holds <|im_end|>, a control token" in done.output


def test_a_conversation_that_leaves_no_room_is_left_out_and_counted(tiny_lm, tmp_path):
    rows = [{"messages": talk("word " * 600, "a", "That is wrong.")},
            {"messages": talk("q", "a", "That is wrong.", "b", "Thanks!")}]
    done = run(write(tmp_path / "chats.jsonl", rows), "-o", tmp_path / "out", "--model", tiny_lm)
    assert done.exit_code == 0 and "1 conversations are too long for the model" in done.output


def test_a_broken_row_is_named_and_the_others_are_read(planted, tmp_path):
    with open(planted, "a") as file:
        file.write('{"messages": 3}\n')
    done = run(planted, "-o", tmp_path / "out")
    assert done.exit_code == 0 and "line 31: 'messages' is int" in done.output, done.output


def test_phrases_of_another_language_are_read_from_a_file(tmp_path):
    chats = write(tmp_path / "chats.jsonl", [{"messages": talk("q", "a", "Das ist falsch.", "b", "Danke!")}])
    (tmp_path / "german.yaml").write_text("satisfied: [danke]\ndissatisfied: [das ist falsch]\n")
    done = run(chats, "-o", tmp_path / "out", "--phrases", tmp_path / "german.yaml")
    assert done.exit_code == 0 and "1 pairs of 1 complaints: 1 with a later answer" in done.output


def test_a_later_answer_with_an_apology_is_told(tmp_path):
    chats = write(tmp_path / "chats.jsonl", [{"messages": talk("q", "a", "That is wrong.", "Sorry! b", "Thanks!")}])
    assert "1 chosen answers begin with an apology" in run(chats, "-o", tmp_path / "out").output


@pytest.mark.parametrize(("more", "words"), [
    (("-r", "brevity"), "--reward, --satisfied-at and --dissatisfied-at go together"),
    (("-r", "brevity", "--satisfied-at", 0, "--dissatisfied-at", 0), "must be below --satisfied-at"),
    (("-r", "sharpness", "--satisfied-at", 1, "--dissatisfied-at", 0), "scores images, not text"),
    (("--hint", "x"), "--hint is for --model"), (("--model", "nowhere"), "--model nowhere: there is no such folder"),
    (("--model", "smollm2", "--hint", "x"), "must contain {prompt} and {complaint}")])
def test_what_cannot_be_is_said_in_one_sentence(planted, tmp_path, more, words):
    done = run(planted, "-o", tmp_path / "out", *more)
    assert done.exit_code != 0 and words in done.output, done.output


def test_thresholds_that_cross_are_refused_in_python_too():
    with pytest.raises(UserError, match="must be below"):
        RewardedReactions("brevity", 0, 1)
