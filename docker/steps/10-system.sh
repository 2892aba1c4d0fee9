#!/usr/bin/env bash
# System packages, on Debian or Ubuntu. Installs what is missing, and only then needs root.
# SPARSE_BACKEND chooses: every image needs Open3D's libraries, engines that compile at run time need a compiler.
set -euo pipefail

stage=${1:-all} # "build": what compiles; "run": what runs; "all"
engine=${SPARSE_BACKEND:-auto}
packages=()
if [ "$stage" != build ]; then
    # Open3D: OpenGL, EGL, X11 and USB are linked even when nothing is drawn; OpenMP for PyTorch and MinkowskiEngine
    packages+=(libgl1 libegl1 libx11-6 libusb-1.0-0 libudev1 libgomp1 ca-certificates)
    case $engine in
        auto | triton | spconv) packages+=(gcc libc6-dev) ;; # Triton compiles a launcher for each kernel
        minkowski) packages+=(libopenblas0) ;;
    esac
fi
if [ "$stage" != run ] && [ "$engine" = minkowski ]; then
    packages+=(g++ libopenblas-dev)
fi

# A Python of 3.11 to 3.13 with venv and headers: python:* images bring one, CUDA and plain Ubuntu images do not.
probe='import ensurepip, sys, sysconfig, os; p = sysconfig.get_path("include")
sys.exit(not ((3, 11) <= sys.version_info[:2] <= (3, 13) and os.path.isfile(p + "/Python.h")))'
if ! "${PYTHON:-python3}" -c "$probe" 2>/dev/null; then
    packages+=(python3 python3-venv python3-dev)
fi

missing=()
for package in "${packages[@]}"; do
    dpkg-query --show --showformat='${db:Status-Status}\n' "$package" 2>/dev/null | grep -qx installed || missing+=("$package")
done
if [ "${#missing[@]}" -eq 0 ]; then
    echo "system packages: all there"
    exit 0
fi
echo "system packages: installing ${missing[*]}"
if [ "$(id -u)" -ne 0 ]; then
    echo "error: needs root: sudo apt-get install ${missing[*]}" >&2
    exit 2
fi
apt-get update
DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends "${missing[@]}"
