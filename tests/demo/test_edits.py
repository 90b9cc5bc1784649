"""Edits in the demo: the source image is shown, scored with, exported and trained on, and pages can name no other."""

import csv
import json

import pytest
from PIL import Image

from visalign.config import DataSettings
from visalign.data.preferences import read_pairs
from visalign.errors import UserError
from visalign.votes import export_votes
from visalign_demo.board_tab import score_matchups
from visalign_demo.compare_tab import CompareRequest, CompareView, stream
from visalign_demo.context import Demo, DemoSettings
from visalign_demo.model_worker import Job
from visalign_demo.vote_tab import Booth

SOURCES = {"first": (200, 30, 30), "second": (30, 30, 200)}


def write_edits(folder, shade, mask=None):
    """Edits of one instruction on two sources, as `visalign generate` leaves them."""
    (folder / "sources").mkdir(parents=True)
    rows = []
    for name, colour in SOURCES.items():
        Image.new("RGB", (24, 24), colour).save(folder / "sources" / f"{name}.png")
        for seed in range(2):
            Image.new("RGB", (24, 24), (shade, 120, 90 * seed)).save(folder / f"{name}-{seed}.png")
            rows.append({"prompt": "make it <b>green</b>", "sources": [f"sources/{name}.png"],
                         "file": f"{name}-{seed}.png", "seed": seed, "requirement": "all of it"})
    (folder / "samples.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return str(folder)


@pytest.fixture
def demo(tmp_path):
    models = {name: write_edits(tmp_path / "made" / name, shade) for name, shade in (("plain", 60), ("tuned", 220))}
    made = Demo(DemoSettings(models, (), tmp_path / "book", tmp_path / "runs", rewards=("source_change",), pairs=4))
    made.pool.start()
    made.pool.join(60)
    return made


def test_ballots_show_the_source_and_exported_votes_train_on_it(demo, tmp_path):
    assert not demo.pool.problem and len(demo.book.matchups()) == 4
    booth, shown = Booth(demo), set()
    table = booth.deal("ann", "")
    while table.current:
        matchup = table.current.matchup
        html = booth.html(table)
        [source] = matchup.sources
        assert matchup.prompt == "make it <b>green</b>" and f"/media/{source}" in html and "Source" in html
        assert "first" not in html and "<b>green" not in html
        shown.add(Image.open(demo.book.media / source).getpixel((0, 0)))
        table = booth.vote("ann", table.held, "left", {}, 1.0)
    assert shown == set(SOURCES.values())
    exported = export_votes(demo.book, tmp_path / "export")
    rows = list(csv.DictReader(exported.comparisons.open()))
    assert {row["requirement"] for row in rows} == {"all of it"}
    pairs = list(read_pairs(DataSettings(path=str(exported.comparisons))))
    assert len(pairs) == 4 and len({pair.asked for pair in pairs}) == 2
    assert {pair.source_images()[0].getpixel((0, 0)) for pair in pairs} == set(SOURCES.values())


def test_rewards_score_votes_and_comparisons_with_the_source(demo):
    score_matchups(demo.book, demo.rewards, Job(lambda job: None))
    assert len(demo.book.scores("source_change")) == 8 and all(demo.book.scores("source_change").values())
    [(_, key), (_, other)] = demo.edits.options
    request = CompareRequest("make it <b>green</b>", ["plain", "tuned"], 0, 2, 1, 1.0, 1.0, ["source_change"],
                             source=other)
    views = [shown for _, shown in stream(demo, request, "mine", "c") if isinstance(shown, str) and shown]
    assert views[-1].count("va-sources") == 1 and "source_change score" in views[-1]
    [name] = demo.edits.media(demo.edits.asked("", other))
    assert f"/media/{name}" in views[-1]
    assert Image.open(demo.media_store.find(name)).getpixel((0, 0)) == SOURCES["second"]
    assert key != other


@pytest.mark.parametrize("words, source, said", [
    ("x@@/etc/hosts.png", "", "holds no @@"), ("make it blue", "0" * 16, "no such source image")])
def test_a_page_names_no_file(demo, words, source, said):
    request = CompareRequest(words, ["plain"], 0, 1, 1, 1.0, 1.0, [], source=source)
    assert any(said in str(progress) for progress, _ in stream(demo, request, "mine", "c"))
    with pytest.raises(UserError, match=said):
        demo.edits.asked(words, source)
    assert CompareView(request, {}, {}).sources == []
