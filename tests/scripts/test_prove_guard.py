"""The planted runs that try the guard: each is a recipe that can run, and the table counts what it should."""

import sys
from collections import Counter

import pytest

from visalign.config import OfflineConfig, OnlineConfig
from visalign.evaluators.watch import Suspicion
from visalign.trainers.online.epoch_shape import check_arithmetic


@pytest.fixture
def proof():
    import prove_guard

    return prove_guard


def test_every_setting_is_a_run_and_there_are_enough_of_both_kinds(proof, tmp_path):
    kinds, models, methods = Counter(), set(), set()
    for name, setting in proof.SETTINGS.items():
        config = proof.config_of(name, 0, str(tmp_path))
        assert isinstance(config, (OfflineConfig, OnlineConfig)) and config.guard.action == "stop"
        if isinstance(config, OnlineConfig):
            check_arithmetic(config, world=1)
        kinds["fine" if setting.should_be == "fine" else "bad"] += setting.seeds
        models.add(config.model.source)
        methods.add(setting.recipe)
    assert kinds["fine"] >= 40 and kinds["bad"] >= 40 and len(models) >= 3 and len(methods) >= 5


def row(setting, seed, stopped, extra, suspicion=None):
    look = {"step": 4, "word": "collapsed" if stopped else "healthy", "suspicion": suspicion,
            "diversity": [-0.2, -0.3, -0.1]}
    return {"setting": setting, "seed": seed, "steps": 4, "planned": 10, "looks": [look], "stopped": stopped,
            "extra": extra, "vendi": extra / 2}


def test_the_table_counts_what_was_caught_in_time(proof, tmp_path):
    runs = [row("small files", 0, True, 0.1, "diversity within the 16 newest groups fell by 31 %"),
            row("small files", 1, True, 0.3), row("small files", 2, False, 0.4),
            row("tiny-reward, KL", 0, False, 0.01), row("tiny-reward, KL", 1, True, 0.02)]
    lines = proof.table(runs).splitlines()
    assert lines[2] == ("| small files | bad | 3 | 2 collapsed, 1 healthy | 4, 4, – | 1 diversity in between, "
                        "1 a look that was due | 30 %, 40 % |")
    said = proof.rates(runs)
    assert said.startswith("2 of 3 bad runs were stopped, 1 of them before 20% of diversity was gone (in the median 20")
    assert "1 of 2 healthy ones were stopped, between 1% and 99%" in said
    proof.draw(runs, tmp_path / "guard.png")
    assert (tmp_path / "guard.png").stat().st_size > 10_000


def test_what_led_to_a_stop_is_told_by_the_words_of_the_suspicion(proof):
    groups = {"newest": 16, "first": 32, "change": -0.8, "paired": False, "suspicious": True}
    said = [Suspicion(**groups).words, Suspicion(**groups, level="style/edge_density").words,
            Suspicion(**groups, level="reward/tiny-clip").words]
    said += ["diversity within a prompt fell by 26 %, which is not clear yet",
             "highlights drifted by -2.4 standard deviations, which is not clear yet",
             "tiny-clip, which was not optimised, fell by 0.30 standard deviations, which is not clear yet", None]
    told = [proof.why_stopped({"looks": [{"suspicion": each}]}) for each in said]
    assert told == ["diversity in between", "style in between", "a held-out reward in between",
                    "one that was unsure of diversity", "one that was unsure of style",
                    "one that was unsure of a held-out reward", "a look that was due"]


def test_a_run_is_done_once_and_let_go_where_it_failed(proof, tmp_path):
    from shared_runs import SharedRuns

    shared, done = SharedRuns(tmp_path, lambda each: (each["name"],)), []

    def run(key):
        done.append(key)
        if key == ("b",) and done.count(key) == 1:
            raise RuntimeError("killed")
        return None if key == ("c",) else {"name": key[0]}

    names = [(name, (name,)) for name in "abc"]
    with pytest.raises(RuntimeError):
        shared.do(names, run)
    shared.do(names, run)
    assert [each["name"] for each in shared.done()] == ["a", "b"] and done.count(("a",)) == 1
    assert done.count(("b",)) == 2 and "prove_guard" in sys.modules
