"""Memory that is free goes back to the system."""

import platform
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import torch

from visalign.storage.out_of_memory import give_back, keep_no_holes

glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries keep no holes")


def taken() -> int:
    return psutil.Process().memory_info().rss


@glibc
def test_holes_between_what_is_in_use_are_given_back():
    held = [torch.ones(2**14) for _ in range(2000)]  # 64 KiB each
    del held[::2]
    before = taken()
    give_back()
    assert before - taken() > 2**25


@glibc
def test_what_is_freed_between_large_tensors_leaves_no_hole():
    """In a process of its own: what others have freed in this one would be used first."""
    alone = "from tests.storage.test_out_of_memory import no_hole; no_hole()"
    subprocess.run([sys.executable, "-c", alone], check=True, cwd=Path(__file__).parents[2], timeout=120)


def no_hole():
    keep_no_holes()
    raised = [torch.ones(7 * 2**20) for _ in range(8)]  # once freed, the allocator would keep all smaller in its heap
    del raised
    held = [torch.ones(2**20) for _ in range(64)]  # 4 MiB each
    before = taken()
    del held[::2]
    assert before - taken() > 2**25  # of 2 ** 27; what was free before them may have been used first
