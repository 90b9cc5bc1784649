"""Runs and vote databases that an earlier version wrote are read under today's names."""

import json
import sqlite3

import pytest

from visalign.config.load import load_config, parse_config
from visalign.errors import UserError
from visalign.evaluation.sources import run_config
from visalign.evaluators.prompt_metrics import prompt_metrics_of
from visalign.storage.old_names import with_new_metrics
from visalign.storage.run_folder import RunFolder, read_metrics
from visalign.votes.book import VoteDatabase

OLD = """
model: {source: tiny-sd3}
rollout: {prompts: "clips:train"}
reward: {of: [{reward: tiny-clip}]}
objective: {name: grpo}
eval: {prompts: "clips:held_out", steps: 28, guidance_scale: 4.5}
"""
HELD_OUT = {"kind": "held_out", "step": 0, "prompts": ["a"], "seeds": 2, "spread": {"variety/vendi": 0.1},
            "values": {"reward/r": [1.0], "variety/vendi": [1.5], "variety/extra": [0.5]}}
GUARD = {**HELD_OUT, "kind": "guard", "verdict": {"word": "healthy", "reasons": [], "variety": [-0.1, -0.2, 0.0]}}
EPOCH = {"kind": "train", "step": 1, "unjudged": 0, "seconds": {"judging": 1.0, "waiting_for_judges": 0.5}}


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.yaml").write_text(OLD + f"output: {{folder: {folder}}}\n")
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in (HELD_OUT, GUARD, EPOCH)))
    return folder


def test_settings_of_a_run_are_read(run):
    config = run_config(run)
    assert [term.reward for term in config.reward.models] == ["tiny-clip"]
    assert (config.rollout.prompts, config.eval.prompts) == ("videos:train", "videos:held_out")


def test_metrics_of_a_run_are_read_however_deep_they_lie(run):
    held, guard, epoch = read_metrics(run)
    assert prompt_metrics_of(held).names("diversity") == ["vendi", "extra"]
    assert guard["spread"] == {"diversity/vendi": 0.1} and guard["verdict"]["diversity"] == [-0.1, -0.2, 0.0]
    assert epoch["unscored"] == 0 and epoch["seconds"] == {"scoring": 1.0, "waiting_for_rewards": 0.5}


def test_a_run_is_resumed_under_the_new_names(run):
    config = parse_config({**run_config(run).model_dump(mode="json"), "output": {"folder": str(run)}})
    rows = RunFolder(run, config, resume=True).metrics()
    assert list(rows[1]["values"]) == ["reward/r", "diversity/vendi", "diversity/extra"]


def test_todays_names_stay_as_they_are():
    row = {"values": {"diversity/vendi": [1.0], "reward/variety show": [2.0]}, "scoring": 1.0}
    assert with_new_metrics(row) == row


def test_a_recipe_with_an_old_key_is_answered_with_the_new_one(run):
    with pytest.raises(UserError, match="reward.of is called reward.models now"):
        load_config(run / "config.yaml")


def test_a_vote_database_of_an_earlier_version_is_read(tmp_path):
    with sqlite3.connect(tmp_path / "votes.sqlite") as book:
        book.executescript("""
            CREATE TABLE contests (id TEXT PRIMARY KEY, prompt TEXT NOT NULL, a_model TEXT NOT NULL,
                b_model TEXT NOT NULL, a_seed INTEGER, b_seed INTEGER, a_file TEXT NOT NULL, b_file TEXT NOT NULL,
                settings TEXT NOT NULL, made REAL NOT NULL);
            CREATE TABLE marks (file TEXT NOT NULL, judge TEXT NOT NULL, value REAL, PRIMARY KEY (file, judge));
            INSERT INTO contests VALUES ('1', 'a cat', 'base', 'dpo', 1, 1, 'a.png', 'b.png', '{"steps": 4}', 0.0);
            INSERT INTO marks VALUES ('a.png', 'tiny-clip', 0.25);""")
    book = VoteDatabase(tmp_path)
    assert [(m.prompt, m.a.model, m.settings) for m in book.matchups()] == [("a cat", "base", {"steps": 4})]
    assert book.rewards() == ["tiny-clip"] and book.scores("tiny-clip") == {"a.png": 0.25}
