"""Memory that ends all the same: a sentence that says when, and how much was taken; and memory that is given back."""

import contextlib
import ctypes
from collections.abc import Iterator

import psutil
import torch

from visalign.errors import UserError

_M_MMAP_THRESHOLD = -3
"""Its number in malloc.h."""
_OF_A_CPU = ("DefaultCPUAllocator", "not enough memory")
"""In what torch raises where a machine's memory ends."""


class OutOfMemory(UserError):
    """moment: what the program was doing. taken: bytes at that time."""

    def __init__(self, moment: str, taken: int):
        super().__init__(f"the memory ended while {moment}, with {taken / 2**30:.2f} GiB taken; work on fewer samples "
                         "at once or at a smaller resolution, or set vae_slicing or vae_tiling if the model's VAE is "
                         "what takes it")
        self.moment, self.taken = moment, taken


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error of torch or Python says that there is no more memory."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or \
        isinstance(error, RuntimeError) and any(words in str(error) for words in _OF_A_CPU)


@contextlib.contextmanager
def memory_told(moment: str) -> Iterator[None]:
    """Within it memory that ends is raised as OutOfMemory at this moment, or at one inside it. Also a decorator."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise OutOfMemory(moment, memory_taken()) from error


def memory_taken() -> int:
    """Bytes that this process holds, on its GPU where it has one."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return psutil.Process().memory_info().rss


def keep_no_holes() -> None:
    """Let glibc's allocator map each tensor of a MiB and more by itself, so that it is given back when it is freed.

    Its own limit grows up to 32 MiB with what is freed: activations then lie in one heap between those that are still
    in use, and a step of SD3.5-medium at 256 pixels held 0.8 GiB of holes. To be called before there are any, and for
    large models alone: a step of a small one takes a quarter longer.
    """
    with contextlib.suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, 2**20)


def give_back() -> None:
    """Give memory that is free back to the system; glibc's allocator keeps it as holes between what is still in use."""
    with contextlib.suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)
