"""What the C library does with memory that is freed: it goes back to the system, so that a peak does not stay."""

from __future__ import annotations

import ctypes
from contextlib import suppress
from typing import Final

# Of malloc.h.
_MMAP_THRESHOLD: Final = -3
_ARENA_MAX: Final = -8

_LARGE: Final = 1 << 17  # bytes; glibc's own threshold, which it would raise up to 32 MB
_ARENAS: Final = 2


def return_freed_memory() -> None:
    """Let every large block come from the system and go back to it at once, and let threads share pools of small ones.

    A coordinator's blocks are models and pieces of them, and glibc would by itself keep blocks of up to 32 MB for
    later, in as many pools as there are threads. Where the C library is another one, nothing changes.
    """
    with suppress(OSError, AttributeError):
        library = ctypes.CDLL(None)
        library.mallopt(_MMAP_THRESHOLD, _LARGE)
        library.mallopt(_ARENA_MAX, _ARENAS)
