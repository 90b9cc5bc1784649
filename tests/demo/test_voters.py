"""Twenty voters at one server, every vote sent twice: none is lost, none counts twice."""

from pathlib import Path

from tests.demo.conftest import server, write_folder

BENCH = Path(__file__).resolve().parents[2] / "scripts" / "bench"


def test_twenty_voters_lose_no_vote_and_double_none(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(BENCH))
    from votes import voted

    prompts = [f"prompt {number}" for number in range(5)]
    sides = [f"{name}={write_folder(tmp_path / name, shade, 1, prompts)}" for name, shade in (("one", 40), ("two", 90))]
    with server(*sides, "-r", "saturation", "--pairs", 5, "--folder", tmp_path / "book") as (address, _):
        found = voted(address, tmp_path / "book", voters=20, votes=5)
    assert (found["votes_given"], found["votes_kept"], found["lost"], found["double"]) == (100, 100, 0, 0)
