"""Makes glibc keep freed memory, so that every training step does not fault the same pages in again."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping

SWITCH = "RECSYS_KEEP_MEMORY"
# Requests up to 8 GiB come from the heap, and its top is handed back to the kernel only beyond 16 GiB.
SETTINGS = {"MALLOC_MMAP_THRESHOLD_": str(8 << 30), "MALLOC_TRIM_THRESHOLD_": str(16 << 30)}


def uses_glibc() -> bool:
    """Whether this process allocates through glibc."""
    try:
        return (os.confstr("CS_GNU_LIBC_VERSION") or "").startswith("glibc")
    except (AttributeError, ValueError, OSError):
        return False


def missing_settings(environ: Mapping[str, str]) -> dict[str, str]:
    """The settings that `environ` lacks; none where the user switched them off or chose any of them."""
    if environ.get(SWITCH) == "0" or any(name in environ for name in SETTINGS):
        return {}
    return SETTINGS


def keep_freed_memory() -> None:
    """Starts this process again with the allocator settings, which glibc reads only at the start.

    Freed large tensors otherwise return to the kernel, and page faults then cost more than the arithmetic.
    Does nothing where glibc is not in use, where one of the settings stands already, or where the environment
    has `RECSYS_KEEP_MEMORY=0`.
    """
    missing = missing_settings(os.environ)
    if missing and uses_glibc():
        sys.stdout.flush()
        sys.stderr.flush()
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**os.environ, **missing})
