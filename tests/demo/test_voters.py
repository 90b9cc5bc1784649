"""Twenty voters at one server, every vote sent twice: none is lost, none counts twice."""

import json
import subprocess
import sys
from pathlib import Path

BENCH = Path(__file__).resolve().parents[2] / "scripts" / "bench" / "votes.py"


def test_twenty_voters_lose_no_vote_and_double_none():
    done = subprocess.run([sys.executable, str(BENCH), "--voters", "20", "--votes", "5"], capture_output=True,
                          text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert (found["votes_given"], found["votes_kept"], found["lost"], found["double"]) == (100, 100, 0, 0)
