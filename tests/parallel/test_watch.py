"""Several processes end together: with the same sentence, and in bounded time when one of them dies or stands still."""

import pytest

from tests.programs import Program, environments
from visalign.errors import UserError
from visalign.parallel.sharing import ALONE, Processes
from visalign.parallel.watch import is_lost_connection, watched

CODE = """
import os, signal, sys, time
from datetime import timedelta
import torch, torch.distributed as dist
from visalign.errors import UserError
from visalign.parallel import watch
from visalign.parallel.sharing import Processes, doing

watch.SOON, watch.GRACE, watch.BEAT = 1.5, 2.0, 0.2
dist.init_process_group("gloo", timeout=timedelta(seconds=900))
rank, what = dist.get_rank(), sys.argv[1]
try:
    with watch.watched(Processes(rank, 2), 3.0 if what == "still" else 60.0):
        doing("step 1")
        dist.barrier()
        if rank == 1 and what == "error":
            raise UserError("row 7: cannot be read")
        if rank == 1 and what == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if rank == 1 and what == "still":
            doing("scoring")
            time.sleep(900)
        dist.all_reduce(torch.ones(1))
        time.sleep(900)
except UserError as error:
    print("said:", error)
"""


@pytest.mark.parametrize("what, codes, words", [
    ("error", {(0, 0)}, "row 7: cannot be read (process 1)"),
    ("kill", {(0, -9)}, "process 1 of 2"),
    ("still", {(1, 1), (0, 1)}, "process 1: scoring")])
def test_nobody_waits_for_a_process_that_will_not_come(tmp_path, what, codes, words):
    programs = [Program(CODE, what, output=tmp_path / f"output-{rank}", environment=environment)
                for rank, environment in enumerate(environments(2))]
    assert tuple(program.wait(300) for program in programs) in codes, programs[0].text()
    assert words in programs[0].text()
    assert "Traceback" not in programs[0].text()


def test_one_process_is_not_watched_and_shares_with_nobody():
    with pytest.raises(UserError, match="as it is"), watched(ALONE, 1.0):
        raise UserError("as it is")
    assert ALONE.share([3, 1, 2], lambda value: 2 * value) == [6, 2, 4] and ALONE.told_by_first(lambda: 5) == 5
    assert Processes(1, 2).rank == 1 and not Processes(1, 2).is_first


def test_a_lost_connection_is_told_from_other_errors():
    assert is_lost_connection(RuntimeError("[gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]"))
    assert not is_lost_connection(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert not is_lost_connection(UserError("Connection closed by the reward server"))
