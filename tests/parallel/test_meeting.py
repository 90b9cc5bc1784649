"""Who cannot start together says so, in bounded time; so do processes with different or full disks."""

import errno
import socket
from datetime import timedelta
from types import SimpleNamespace

import pytest
import torch.distributed.checkpoint as library
from torch.distributed.checkpoint.api import CheckpointException

from visalign.errors import UserError
from visalign.parallel import meeting
from visalign.parallel.meeting import all_met
from visalign.parallel.shards import write_parts
from visalign.storage.files import is_full
from visalign.trainers.checkpoint import Checkpoints


@pytest.mark.parametrize("rank, listens, words", [
    ("0", True, "cannot listen at 127.0.0.1:.*another program"),
    ("1", False, "process 1 of 2 did not reach the first one at 127.0.0.1:.*Connection refused"),
    ("0", False, r"2 were to be started \(WORLD_SIZE\), and process 1 did not come within")])
def test_a_start_that_cannot_be_ends_in_one_sentence(monkeypatch, rank, listens, words):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        port = str(other.getsockname()[1])
        if listens:
            other.listen()
        else:
            other.close()
        for name, value in {"RANK": rank, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(meeting, "LEAVE", 0.0)
        with pytest.raises(UserError, match=words), all_met(timedelta(seconds=0.6)):
            pass


@pytest.mark.parametrize("found, words", [
    ([(4, "a"), (0, "")], "different checkpoints, steps 4, 0 in the order of the processes"),
    ([(4, "a"), (4, "b")], "different files of step 4")])
def test_processes_that_read_different_checkpoints_end_together(tmp_path, found, words):
    def of(answers):
        return SimpleNamespace(run=SimpleNamespace(path=tmp_path), state=SimpleNamespace(step=4),
                               engine=SimpleNamespace(processes=SimpleNamespace(gather=lambda mine: answers)))

    Checkpoints._check_equal(of(found[:1] * 2))
    with pytest.raises(UserError, match=words):
        Checkpoints._check_equal(of(found))


def test_a_full_disk_of_one_process_is_told_to_all(monkeypatch, tmp_path):
    def save(*arguments, **options):
        raise CheckpointException("write", {1: OSError(errno.ENOSPC, "No space left on device")})

    monkeypatch.setattr(library, "save", save)
    with pytest.raises(OSError, match="process 1: .*No space left") as told:
        write_parts({}, tmp_path)
    assert is_full(told.value, tmp_path)
