"""Open3D, loaded where it is used and only there.

Open3D's Linux wheel links to libusb-1.0 (for depth cameras), which a bare machine lacks. The PyPI package
``libusb-package`` carries one with the same SONAME: once it is loaded, the dynamic linker takes it for Open3D.
"""

import ctypes
import importlib
import sys
from contextlib import suppress
from types import ModuleType

from distilplace.common.errors import UserError

APT_COMMAND = "apt install libusb-1.0-0 libgl1 libegl1 libx11-6 libudev1 libidn2-0 libgomp1"


def import_open3d() -> ModuleType:
    """The ``open3d`` module; a :class:`UserError` with the install command when it or a system library is missing."""
    if "open3d" in sys.modules:
        return sys.modules["open3d"]
    if sys.platform == "linux":
        _provide_libusb()
    try:
        return importlib.import_module("open3d")
    except ModuleNotFoundError as error:
        raise UserError(f"Open3D cannot be imported ({error}): run `pip install open3d libusb-package`") from error
    except (ImportError, OSError) as error:
        raise UserError(f"Open3D lacks a system library ({error}): run `{APT_COMMAND}` as root") from error


def _provide_libusb() -> None:
    """Load libusb-1.0 from the system or, failing that, from ``libusb_package``, if either has it."""
    try:
        ctypes.CDLL("libusb-1.0.so.0", mode=ctypes.RTLD_GLOBAL)
        return
    except OSError:
        pass
    with suppress(ImportError, OSError):
        path = importlib.import_module("libusb_package").get_library_path()
        if path:
            ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)
