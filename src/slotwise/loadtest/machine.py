"""What a figure was measured on: without it, a figure says little."""

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

_LIBRARIES = ("slotwise", "redis", "hiredis", "valkey-glide", "valkey-glide-sync", "coredis", "uvloop")


def describe() -> dict[str, str]:
    """This machine, this Python and the libraries, in words; nothing that names the machine."""
    return {
        "processor": f"{_processor()}, {_cores()} cores",
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB",
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "idle": _idle(),
        "load before": f"{os.getloadavg()[0]:.1f} runnable processes, mean of a minute",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "libraries": ", ".join(f"{name} {found}" for name in _LIBRARIES if (found := _version(name))),
    }


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown"


def _idle() -> str:
    """What a processor does when it has nothing to do: to be woken takes the longer, the deeper it sleeps."""
    governor = _read("/sys/devices/system/cpu/cpuidle/current_governor")
    if governor != "haltpoll":
        return governor or "unknown"
    polls = _read("/sys/module/haltpoll/parameters/guest_halt_poll_ns")
    return f"a virtual machine's haltpoll, guest_halt_poll_ns = {polls or 'unknown'}"


def _read(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""


def _cores() -> int:
    """Those that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _version(library: str) -> str | None:
    try:
        return version(library)
    except PackageNotFoundError:
        return None
