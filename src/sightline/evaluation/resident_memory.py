"""How much memory this process has in RAM, now and at its most."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")
_RESET_PEAK = "5"
_KIB = 1024


def resident_bytes() -> int | None:
    """What this process has in RAM now; where the system only keeps the most (macOS), that; None on Windows."""
    return _from_status("VmRSS") or peak_resident_bytes()


def peak_resident_bytes() -> int | None:
    """The most that this process ever had in RAM; None where the system doesn't tell (Windows).

    Linux: `VmHWM`, since `ru_maxrss` of a process still counts its parent from before `exec`.
    """
    if (peak := _from_status("VmHWM")) is not None:
        return peak
    try:
        import resource
    except ImportError:  # Windows
        return None
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * _KIB


def forget_peak() -> None:
    """Count the most from now on; only Linux can, elsewhere it stays that of the whole life of the process."""
    with contextlib.suppress(OSError):
        _CLEAR.write_text(_RESET_PEAK, encoding="ascii")


def _from_status(key: str) -> int | None:
    """A line of Linux's own account, as in `VmHWM:     52340 kB`."""
    try:
        lines = _STATUS.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * _KIB for line in lines if line.startswith(f"{key}:")), None)
