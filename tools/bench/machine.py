"""The machine that is measured, in words."""

import platform
from pathlib import Path


def device_name() -> str:
    """The processor, as the machine names it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"CPU ({names[0] if names else platform.processor() or platform.machine()})"
