"""Pairs that two processes make are those that one makes."""

import json
from pathlib import Path

from tests.language.test_persuasion import persuading  # noqa: F401  a fixture
from tests.language.test_processes import CODE, rows_of, written
from tests.programs import together
from visalign.language.run import train_language


def test_dialogues_and_sure_pairs_are_the_same_by_two_processes(persuading, recipe, tiny_lm, tmp_path):  # noqa: F811
    train_language(recipe("train.steps=4", "eval.max_prompts=1", out="learnt"))
    sure = ("data.path=null", f"model.source={tmp_path / 'learnt'}", "eval.prompts=topics:held_out",
            "data.feedback={prompts: topics:train, max_prompts: 6, reward: brevity, max_tokens: 6, uncertainty: "
            f"{{reference: {tiny_lm}, passes: 3, keep: 1.0}}}}")
    makes = {"persuaded": lambda *more, out: persuading("train.steps=1", *more, out=out),
             "sure": lambda *more, out: recipe("train.steps=1", *sure, *more, out=out)}
    files = [written(make("train.batch_size=2", out=f"{name}-two"), tmp_path / f"{name}.yaml")
             for name, make in makes.items()]
    together(CODE, *(f"lm train {file}" for file in files), folder=tmp_path)
    for name, make in makes.items():
        train_language(make(out=f"{name}-one"))
        one, two = (Path(tmp_path / f"{name}-{count}") for count in ("one", "two"))
        assert (one / "pairs.jsonl").read_text() == (two / "pairs.jsonl").read_text()
        assert rows_of(two, "start")[0]["processes"] == 2
    assert json.loads((tmp_path / "sure-two" / "uncertainty.json").read_text())["pairs"] == json.loads(
        (tmp_path / "sure-one" / "uncertainty.json").read_text())["pairs"]
    rates = [rows_of(tmp_path / f"persuaded-{count}", "held_out")[0]["persuasion"] for count in ("one", "two")]
    assert rates[0] == rates[1]
