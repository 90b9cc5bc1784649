"""Files that are whole or not there, and a disk that is full."""

import errno

import pytest

from visalign.errors import UserError
from visalign.storage import files as disk


def test_a_file_that_could_not_be_written_leaves_the_old_one_and_nothing_else(tmp_path, monkeypatch):
    file = tmp_path / "a.json"
    disk.write_atomically(file, b"old")

    def runs_out(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(disk.os, "fsync", runs_out)
        with pytest.raises(OSError, match="No space"):
            disk.write_atomically(file, b"new")
    assert file.read_bytes() == b"old" and [p.name for p in tmp_path.iterdir()] == ["a.json"]


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), OSError(errno.EDQUOT, "Quota"),
                                   OSError(errno.EFBIG, "File too large"), RuntimeError("database or disk is full")])
def test_a_full_disk_is_told_with_what_to_do(tmp_path, error):
    with pytest.raises(UserError, match="run a: the disk is full .* free some space, and go on"), \
            disk.full_disk_told("run a", tmp_path, "go on"):
        raise error


def test_other_faults_stay_what_they_are(tmp_path):
    with pytest.raises(RuntimeError, match="shapes"), disk.full_disk_told("run a", tmp_path):
        raise RuntimeError("shapes differ")


def test_too_little_room_is_said_with_both_numbers(tmp_path):
    disk.check_space("output.folder x", tmp_path / "not" / "yet", 1, "")
    with pytest.raises(UserError, match="output.folder x: about 1024.0 TiB are needed and .* are free; choose another"):
        disk.check_space("output.folder x", tmp_path, 2**50, "choose another")
