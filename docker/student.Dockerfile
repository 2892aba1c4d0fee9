# DistilPlace for students only: evaluate one, or train one from cameras alone. No sparse engine, no Open3D, no test tools.
#
# PyTorch's wheel on PyPI carries CUDA (about 5 GB of the image). For a robot or a CPU host give PyTorch's index of CPU
# wheels; the version stays that of requirements.lock:   --build-arg TORCH_INDEX=<URL of PyTorch's CPU wheel index>
# To pin the base's content too, append its digest: BASE=python:...@sha256:...
ARG BASE=python:3.11.14-slim-bookworm

FROM ${BASE}
ARG TORCH_INDEX=""
ENV PIP_NO_CACHE_DIR=1
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
WORKDIR /opt/distilplace
COPY requirements.lock docker/requirements-student.txt ./
COPY docker/steps/20-python.sh docker/steps/20-python.sh
RUN TORCH_INDEX=${TORCH_INDEX} docker/steps/20-python.sh requirements-student.txt \
    && useradd --uid 10001 --create-home distilplace \
    && mkdir -p /data /logs && chown distilplace /data /logs && chmod 1777 /data /logs
COPY . .
ENV PATH=/opt/distilplace/.venv/bin:${PATH} \
    DISTILPLACE_DATASET_FOLDER=/data \
    DISTILPLACE_LOGDIR=/logs \
    TORCH_HOME=/data/torch \
    HOME=/tmp \
    USER=distilplace \
    PYTHONUNBUFFERED=1
VOLUME ["/data", "/logs"]
USER 10001
HEALTHCHECK NONE
ENTRYPOINT ["python"]
CMD ["evaluate.py", "--help"]
