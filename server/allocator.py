"""What the C library does with memory that is freed: it goes back to the system, so that a peak does not stay."""

from __future__ import annotations

import ctypes
from contextlib import suppress
from typing import Final

_MMAP_THRESHOLD: Final = -3  # M_MMAP_THRESHOLD of malloc.h
_LARGE: Final = 1 << 20  # bytes


def return_large_blocks() -> None:
    """Let every block of a megabyte or more come from the system and go back to it as soon as it is freed.

    A coordinator's blocks are its models, and glibc would by itself keep blocks of up to 32 MB for later, in as many
    pools as there were threads. Where the C library is another one, nothing changes.
    """
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(_MMAP_THRESHOLD, _LARGE)
