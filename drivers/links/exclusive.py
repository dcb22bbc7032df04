"""One harness at a time on a link: a lock per address, on this computer."""

from __future__ import annotations

import getpass
import hashlib
import os
import tempfile
from pathlib import Path

from filelock import FileLock, Timeout

from hil.errors import HardwareError

__all__ = ["exclusive"]


def exclusive(address: str) -> FileLock:
    """The lock of an address, held until ``release`` or the end of the process; HardwareError where another has it."""
    folder = Path(tempfile.gettempdir()) / f"hil-locks-{getpass.getuser()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    # Two names of one serial port are one port. The number of a pseudo terminal is given to the next one as soon as it is
    # free, so that a harness whose twin has gone would keep others from a new one: those go by their names.
    real = os.path.realpath(address) if os.path.exists(address) else address
    if real.startswith("/dev/pts/"):
        real = address
    lock = FileLock(folder / f"{hashlib.blake2b(real.encode(), digest_size=8).hexdigest()}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout as exc:
        raise HardwareError(f"{address}: another harness has this board open: wait for it or stop it") from exc
    return lock
