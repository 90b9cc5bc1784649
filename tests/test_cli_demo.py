"""`visalign demo` and `visalign votes`, as typed: what they take, and what they say of mistakes."""

import random
import sqlite3

import pytest
from click.testing import CliRunner
from PIL import Image

from tests.votes.test_book import fill
from visalign.cli import main
from visalign.generators import locate_model
from visalign.jobs.evaluate import sources_of
from visalign.votes import Vote, VoteDatabase


@pytest.fixture
def asked(monkeypatch):
    """The settings that the server would be started with."""
    import visalign_demo

    caught = []
    monkeypatch.setattr(visalign_demo, "serve", caught.append)

    def call(*arguments):
        done = CliRunner().invoke(main, ["demo", *map(str, arguments)], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return caught[-1]

    return call


def test_models_are_named_and_the_defaults_are_safe(asked):
    settings = asked("base=tiny-sd3", "aligned=runs/x", "--set", "frames=5", "-r", "tiny-clip")
    assert settings.models == {"base": "tiny-sd3", "aligned": "runs/x"} and settings.model_settings == ("frames=5",)
    assert (settings.host, settings.user, settings.allow_train) == ("127.0.0.1", None, False)
    assert settings.rewards == ("tiny-clip",)


def test_without_models_an_embedded_model_meets_its_lora(asked, tmp_path):
    settings = asked("--runs", tmp_path)
    assert (settings.steps, settings.guidance_scale) == (12, 1.0)
    assert asked("--runs", tmp_path, "--steps", 5).steps == 5
    (base, aligned), _ = sources_of(settings.models, settings.model_settings)
    assert aligned.adapter.is_dir() and base.model == aligned.model and base.model.prompt_tokens == 8
    assert locate_model(base.model).family.modality == "image"


def test_without_models_the_last_run_meets_its_base(asked, tmp_path, recipe):
    done = CliRunner().invoke(main, ["train", str(recipe(train={"steps": 1}))], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    settings = asked("--runs", tmp_path)
    assert settings.models["aligned"] == str(tmp_path / "run") and settings.models["base"].endswith("sd3")


@pytest.mark.parametrize("arguments, words", [
    (("demo", "tiny-sd3"), "demo tiny-sd3: expected NAME=SOURCE"),
    (("demo", "a=tiny-sd3", "a=tiny-sd3"), "a is named twice"),
    (("demo", "a=tiny-sd3", "--user", "ann"), "--user needs a password"),
    (("demo", "a=tiny-sd3", "--set", "frame=1"), "unknown key model.frame"),
    (("votes", "export", "."), "holds no votes.sqlite")])
def test_mistakes_are_one_sentence(arguments, words, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(main, list(arguments))
    assert done.exit_code == 1 and words in done.output and "Traceback" not in done.output


def test_votes_are_counted_and_exported(tmp_path):
    book = fill(VoteDatabase(tmp_path / "book"), 4)
    for i, choice in enumerate(("b", "b", "a", "tie")):
        book.vote(Vote(f"c{i}", "ann", choice, "a"))
    done = CliRunner().invoke(main, ["votes", "board", str(tmp_path / "book")], catch_exceptions=False)
    assert "4 votes by 1 voters" in done.output and "aligned" in done.output.splitlines()[1]
    done = CliRunner().invoke(main, ["votes", "export", str(tmp_path / "book")], catch_exceptions=False)
    assert done.output.startswith("3 decided pairs, 1 ties, 0 only skipped")
    assert (tmp_path / "book" / "export" / "comparisons.csv").exists()


def test_the_fair_ranking_is_printed_measured_and_written_as_a_page(tmp_path):
    book = fill(VoteDatabase(tmp_path / "book"), 32)
    rng = random.Random(0)
    for i, choice in enumerate(("b", "b", "a", "tie") * 8):
        book.vote(Vote(f"c{i}", ("ann", "bob", "cem")[i % 3], choice, "ab"[i // 4 % 2]))
        for side in "ab":
            noise = Image.frombytes("RGB", (16, 16), rng.randbytes(768))
            Image.blend(Image.new("RGB", (16, 16)), noise, rng.random()).save(book.media / f"{i}{side}.png")
    command = ["votes", "board", str(tmp_path / "book")]
    done = CliRunner().invoke(main, command, catch_exceptions=False)
    assert "fair ranking by 3 voters, with left side taken out:" in done.output
    assert "luminance" not in done.output and "being on the left: of two equals it wins at odds of" in done.output
    done = CliRunner().invoke(main, [*command, "--style", "--page", str(tmp_path / "votes.html")],
                              catch_exceptions=False)
    assert "one sd more luminance: of two equals it wins at odds of" in done.output
    assert "user-" in (tmp_path / "votes.html").read_text() and "ann" not in (tmp_path / "votes.html").read_text()
    done = CliRunner().invoke(main, [*command, "--page", str(tmp_path / "book" / "votes.sqlite" / "x.html")])
    assert done.exit_code == 1 and "--page" in done.output and "cannot be written" in done.output
    (book.media / "0a.png").unlink()
    with sqlite3.connect(book.file) as raw:
        raw.execute("DELETE FROM looks")
    done = CliRunner().invoke(main, [*command, "--style"])
    assert done.exit_code == 1 and "0a.png" in done.output and "Traceback" not in done.output


def test_votes_become_the_table_of_arenas(tmp_path):
    book = fill(VoteDatabase(tmp_path / "book"), 2)
    book.vote(Vote("c0", "ann", "a", "a"))
    command = ["votes", "export", str(tmp_path / "book"), "--arena"]
    done = CliRunner().invoke(main, command, catch_exceptions=False)
    assert done.output.startswith("1 votes: ") and (tmp_path / "book" / "export" / "arena.parquet").is_file()
    done = CliRunner().invoke(main, [*command, "--chance"])
    assert done.exit_code == 1 and "leave out --per-voter and --chance" in done.output
