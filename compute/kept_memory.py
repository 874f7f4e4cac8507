"""Memory that a pass on a CPU frees and soon asks for again is kept by the process meanwhile.

Every batch allocates and frees the same hundreds of MiB. The C library gives them back to the system each time, which
has to hand out and clear each page anew: more than a tenth of a pass over short documents at small widths. GPUs have
PyTorch's own cache for this.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache

import torch

from compute.process_wide import WhileAny

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h
KEPT_BYTES = 2**31 - 1  # the most that mallopt takes
USUAL_BYTES = {M_TRIM_THRESHOLD: 2**26, M_MMAP_THRESHOLD: 2**25}
"""What glibc's own thresholds come to by themselves once large tensors are freed; after mallopt they stay as set."""


@contextmanager
def memory_kept(device: torch.device) -> Iterator[None]:
    """While open, freed memory stays with the process; afterwards all that is free goes back to the system.

    Without effect on a GPU and with other C libraries than glibc. Passes may be nested, and in several threads.
    """
    if device.type != "cpu" or _glibc() is None:
        yield
        return
    with _kept.needed():
        yield


def _keep() -> Callable[[], None]:
    for threshold in USUAL_BYTES:
        _glibc().mallopt(threshold, KEPT_BYTES)
    return _give_back


def _give_back() -> None:
    for threshold, usual in USUAL_BYTES.items():
        _glibc().mallopt(threshold, usual)
    _glibc().malloc_trim(0)


@cache
def _glibc() -> ctypes.CDLL | None:
    library = ctypes.CDLL(None)
    return library if all(hasattr(library, name) for name in ("mallopt", "malloc_trim")) else None


_kept = WhileAny(_keep)
