"""Memory that is free goes back to the system."""

import platform

import psutil
import pytest
import torch

from visalign.storage.out_of_memory import give_back


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries keep no holes, or cannot be asked")
def test_holes_between_what_is_in_use_are_given_back():
    def taken():
        return psutil.Process().memory_info().rss

    held = [torch.ones(2**14) for _ in range(2000)]  # 64 KiB each
    del held[::2]
    before = taken()
    give_back()
    assert before - taken() > 2**25
