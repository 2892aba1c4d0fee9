#!/usr/bin/env bash
# Run a command of DistilPlace in its image, building the image when it is missing:
#
#     docker/run.sh train.py --config recipes/demo/demo_student.yaml
#     docker/run.sh -m tools.demo
#     docker/run.sh selftest
#
# Settings (environment): DATA and LOGS, the folders mounted as /data and /logs (default ./data, ./logs); SPARSE_BACKEND
# (auto, torch, triton, spconv, minkowski) and MINKOWSKI_BUILD (cpu, cuda) when the image is built; IMAGE, its name;
# GPUS (all, none, device=0 ...; default: all when nvidia-smi lists one); SHM_SIZE. STUDENT=1 takes the student image.
# Variables named DISTILPLACE_* are handed on.
set -euo pipefail

fail() {
    echo "error: $1" >&2
    exit 2
}

home=$(cd "$(dirname "$0")/.." && pwd)
[ "$#" -gt 0 ] || fail "what shall run? docker/run.sh train.py ... or docker/run.sh selftest"
command -v docker >/dev/null || fail "docker is not installed: see docs.docker.com/engine/install, or run without it (make setup)"
docker version >/dev/null 2>&1 || fail "docker is installed, but its daemon does not answer: is it running, and are you in the group docker?"

engine=${SPARSE_BACKEND:-auto}
case $engine in
    auto | torch | triton | spconv | minkowski) ;;
    *) fail "SPARSE_BACKEND=$engine: it is auto, torch, triton, spconv or minkowski" ;;
esac
if [ -n "${STUDENT:-}" ]; then
    [ "$1" != selftest ] || fail "the self-test trains a teacher: run it without STUDENT=1"
    image=${IMAGE:-distilplace-student}
    build=(--file "$home/docker/student.Dockerfile" --build-arg "TORCH_INDEX=${TORCH_INDEX:-}")
else
    kind=${MINKOWSKI_BUILD:-cpu}
    image=${IMAGE:-distilplace:$engine$([ "$engine" != minkowski ] || echo "-$kind")}
    build=(--file "$home/docker/Dockerfile" --build-arg "SPARSE_BACKEND=$engine")
    if [ "$engine" = minkowski ] && [ "$kind" = cuda ]; then
        build+=(--build-arg MINKOWSKI_BUILD=cuda --build-arg BUILD_BASE=nvidia/cuda:13.0.2-devel-ubuntu24.04)
        build+=(--build-arg BASE=ubuntu:24.04)
    fi
fi
if ! docker image inspect "$image" >/dev/null 2>&1; then
    echo "building image $image (once) ..." >&2
    docker build --tag "$image" "${build[@]}" "$home"
fi

data=${DATA:-$PWD/data} logs=${LOGS:-$PWD/logs}
mkdir -p "$data" "$logs" # otherwise the daemon makes them, owned by root
options=(--rm --user "$(id -u):$(id -g)")
options+=(--volume "$(realpath "$data"):/data" --volume "$(realpath "$logs"):/logs")
options+=(--volume "$home/teacher_weights:/opt/distilplace/teacher_weights:ro")
# Data-loader workers hand batches over in /dev/shm. Docker gives 64 MB, and they die of a bus error; a batch of 128
# places at 224x320 pixels is 110 MB, of which each worker prepares two.
options+=(--shm-size "${SHM_SIZE:-8g}")
gpus=${GPUS:-$(nvidia-smi -L 2>/dev/null | grep -q '^GPU' && echo all || echo none)}
[ "$gpus" = none ] || options+=(--gpus "$gpus")
while IFS='=' read -r name _; do
    [[ $name != DISTILPLACE_* ]] || options+=(--env "$name")
done < <(env)
[ ! -t 0 ] || options+=(--interactive --tty)
if [ "$1" = selftest ]; then
    shift
    exec docker run "${options[@]}" --entrypoint docker/steps/40-selftest.sh "$image" /logs/selftest "$@"
fi
exec docker run "${options[@]}" "$image" "$@"
