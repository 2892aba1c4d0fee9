"""The machine that is measured: its name, and how much memory this process took."""

import platform
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path


def device_name() -> str:
    """The processor, as the machine names it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"CPU ({names[0] if names else platform.processor() or platform.machine()})"


def peak_mib(reset: bool = False) -> float | None:
    """MiB that this process held at most (Linux); ``reset``: from now on."""
    with suppress(OSError, StopIteration):
        if reset:
            Path("/proc/self/clear_refs").write_text("5")
        status = Path("/proc/self/status").read_text().splitlines()
        return float(next(line for line in status if line.startswith("VmHWM")).split()[1]) / 1024
    return None


def held_mib(processes: Iterable[int | None]) -> float | None:
    """MiB that some processes (None: this one) hold together, what they share counted once (Linux)."""
    with suppress(OSError, StopIteration):
        texts = [Path(f"/proc/{pid or 'self'}/smaps_rollup").read_text() for pid in processes]
        lines = [next(line for line in text.splitlines() if line.startswith("Pss:")) for text in texts]
        return sum(float(line.split()[1]) for line in lines) / 1024
    return None
