"""Files are whole or not there, and a full disk is one sentence that names the file."""

import errno
from pathlib import Path

import pytest
from click.testing import CliRunner
from PIL import Image

from visalign.cli import main
from visalign.storage import files as disk
from visalign.storage.files import copy_atomically, refusal, write_atomically, written


@pytest.fixture
def full_disk(monkeypatch):
    """From now on, files whose name holds `word` cannot be synced: there is no room for them."""
    def fill(word: str) -> None:
        sync = disk.os.fsync

        def fail(handle):
            if word in Path(f"/proc/self/fd/{handle}").resolve().name:
                raise OSError(errno.ENOSPC, "No space left on device")
            sync(handle)

        monkeypatch.setattr(disk.os, "fsync", fail)
    return fill


def test_a_file_stays_as_it_was_and_no_half_one_is_left(tmp_path, full_disk):
    file = tmp_path / "a.json"
    write_atomically(file, b"1")
    full_disk("a.json")
    with pytest.raises(OSError) as caught:
        write_atomically(file, b"2")
    assert file.read_bytes() == b"1" and [p.name for p in tmp_path.iterdir()] == ["a.json"]
    assert refusal(caught.value).startswith(f"the system refused {file}: the disk is full")


def test_copies_are_whole_too(tmp_path, monkeypatch):
    (tmp_path / "clip").mkdir()
    (tmp_path / "clip" / "0.png").write_bytes(b"x")
    copy_atomically(tmp_path / "clip", tmp_path / "again")
    assert (tmp_path / "again" / "0.png").read_bytes() == b"x"

    def fail(*_, **__):
        raise disk.shutil.Error([("a", "b", "[Errno 28] No space left on device")])

    monkeypatch.setattr(disk.shutil, "copytree", fail)
    with pytest.raises(OSError) as caught:
        copy_atomically(tmp_path / "clip", tmp_path / "third")
    assert caught.value.errno == errno.ENOSPC and not (tmp_path / "third").exists()


def test_what_an_earlier_command_wrote_is_read_or_nothing(tmp_path):
    (tmp_path / "a.json").write_text('{"x": 1}')
    (tmp_path / "b.json").write_bytes(b"\xff{")
    assert written(tmp_path / "a.json") == {"x": 1}
    assert written(tmp_path / "b.json") is None and written(tmp_path / "gone.json") is None


@pytest.mark.parametrize("word", ["settings.json", "part-0", "scores.parquet", "scores.html"])
def test_scoring_on_a_full_disk_ends_in_a_sentence_and_goes_on_later(word, tmp_path, full_disk, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for i in range(3):
        Image.new("RGB", (8, 8), (80 * i, 0, 0)).save(tmp_path / f"{i}.png")
    with monkeypatch.context():
        full_disk(word)
        said = CliRunner().invoke(main, ["score", ".", "-r", "contrast"])
    assert said.exit_code == 1 and "Traceback" not in said.output
    assert word in said.output and "the disk is full" in said.output, said.output
    assert not list(tmp_path.rglob(".tmp*"))
    monkeypatch.undo()
    if word != "scores.html":  # the table was whole by then
        monkeypatch.chdir(tmp_path)
        assert "3 rows" in CliRunner().invoke(main, ["score", ".", "-r", "contrast"]).output
