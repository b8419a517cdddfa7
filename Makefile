# Every target sets up or updates .venv first. Paths are relative, so spaces in the checkout's path do no harm.
PYTHON ?= python3
SCALE ?= lesson
DATASET ?= digits
JOBS ?= 2
PARTS ?= tests step vgg7 msdnet exits
SMOKE ?=

VENV := .venv/bin/python
STAMP := .venv/.installed
FIRST = $(firstword $(sort $(wildcard notebooks/*.ipynb)))
AS_ROOT = $(if $(filter 0,$(shell id -u)),--allow-root)
# The stamp holds the folder it was made in: an environment that moved along with its checkout is refreshed.
MOVED := $(shell [ "$$(cat $(STAMP) 2>/dev/null)" = "$$(pwd)" ] || echo yes)

.DEFAULT_GOAL := help
.PHONY: help course lab voila test bench gpu notebooks site clean again

help:
	@echo 'make course     run the course and print what it found: about 10 minutes; pages in build/course/'
	@echo '                SCALE=smoke|lesson|full  DATASET=digits|cifar100|folder   (now: SCALE=$(SCALE) DATASET=$(DATASET))'
	@echo 'make lab        open the course in JupyterLab, reachable from this machine only'
	@echo 'make voila      serve one notebook as a page without code: make voila NOTEBOOK=notebooks/08_when_to_stop.ipynb'
	@echo 'make test       check style and types, run the tests: about 35 minutes'
	@echo 'make bench      measure speed and memory on this machine, as in docs/measured.md: about 30 minutes'
	@echo 'make gpu        on a GPU: its tests, faster steps, the published runs; goes on where it was stopped: hours'
	@echo '                PARTS="tests step vgg7 msdnet exits"  SMOKE=--smoke (tiny, also on a CPU); by part: docs/measured.md'
	@echo 'make notebooks  run the course and write the executed notebooks back: about 10 minutes'
	@echo 'make site       build the course as web pages, with the reference, in build/site/: half a minute'
	@echo 'make clean      remove build/ and caches, but not runs/, data/ and .venv'
	@echo
	@echo 'The first target that you run sets up .venv from the package index: 3 to 15 minutes, and 6 GB on Linux with'
	@echo 'the CUDA build of PyTorch. Without a GPU, its CPU build needs 1 GB: set PIP_EXTRA_INDEX_URL to the index of'
	@echo 'the CPU builds. PYTHON=python3.12 chooses another Python (3.11 or later).'

course: $(STAMP)
	@echo "Running the course at scale $(SCALE) on $(DATASET): 5 minutes at smoke, 10 at lesson, hours at full."
	@$(VENV) -m dfs_edu course --scale $(SCALE) --dataset $(DATASET) --jobs $(JOBS) --out build/course

lab: $(STAMP)
	@echo "Opening JupyterLab at $(FIRST). Stop it with Ctrl-C. Its address contains a token: do not share it."
	@JUPYTER_PREFER_ENV_PATH=1 $(VENV) -m jupyterlab --ServerApp.ip=127.0.0.1 --LabApp.default_url=/lab/tree/$(FIRST) \
	    --ServerApp.jpserver_extensions=voila.server_extension=False \
	    --LabApp.news_url=None --LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate $(AS_ROOT)

# A separate server, for one notebook: inside JupyterLab's server, a link to any notebook would run it.
voila: $(STAMP)
	@echo "Voila runs a notebook and shows it as a page without code. Stop it with Ctrl-C; do not share its address."
	@test -f "$(NOTEBOOK)" || { echo "make voila NOTEBOOK=FILE.ipynb: there is no notebook '$(NOTEBOOK)'" >&2; exit 1; }
	@JUPYTER_PREFER_ENV_PATH=1 $(VENV) -m voila "$(NOTEBOOK)" --Voila.ip=127.0.0.1 --token

test: $(STAMP)
	@echo "Checking style and types, then running the tests: about 35 minutes."
	@$(VENV) -m ruff check .
	@$(VENV) -m ruff format --check .
	@$(VENV) -m ty check
	@$(VENV) -m pytest --numprocesses auto --maxprocesses 4 --dist worksteal -m "not browser"
	@$(VENV) -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile -m "browser and not alone"
	@$(VENV) -m pytest -m alone

bench: $(STAMP)
	@echo "Measuring: about 30 minutes. Do not use the machine for anything else until it is done."
	@$(VENV) -m benchmarks

gpu: $(STAMP)
	@echo "Running what waits for a GPU, hours in all; results in runs/gpu/. Stop it with Ctrl-C; it goes on next time."
	@$(VENV) -m benchmarks.gpu $(SMOKE) --parts $(PARTS) --out runs/gpu

notebooks: $(STAMP)
	@echo "Running the course with the notebooks' own parameters and writing them back: about 10 minutes."
	@$(VENV) -m dfs_edu course --write-back --jobs $(JOBS)

site: $(STAMP)
	@echo "Building the site from the committed notebooks, README, docs and docstrings: half a minute."
	@rm -rf build/site
	@$(VENV) -m sphinx --quiet --fresh-env --fail-on-warning --conf-dir docs --doctree-dir build/doctrees . build/site
	@echo "Open build/site/index.html: it needs no server and no network."

clean:
	rm -rf build .pytest_cache .ruff_cache
	find dfs_edu tests benchmarks notebooks -name __pycache__ -prune -exec rm -rf {} +
	find notebooks -name .ipynb_checkpoints -prune -exec rm -rf {} +

# .venv/.installing marks a set-up in progress. An interrupted one leaves it behind, and the next one starts afresh.
# Renaming it at the end dates the stamp to the beginning of the set-up, so changes made meanwhile are noticed.
$(STAMP): pyproject.toml $(if $(MOVED),again)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	    echo "dfs_edu needs Python 3.11 or later; $(PYTHON) is $$($(PYTHON) --version 2>/dev/null || echo missing)." \
	         "Name another: make PYTHON=python3.12 ..." >&2; exit 1; }
	@echo "Setting up .venv with PyTorch, JupyterLab and the rest: 3 to 15 minutes the first time."
	@if [ -e .venv/.installing ] || ! $(VENV) -c 'import sys, pip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; \
	    then $(PYTHON) -m venv --clear .venv; fi
	@rm -f $(STAMP); pwd > .venv/.installing
	@$(VENV) -m pip install --disable-pip-version-check --editable '.[dev]'
	@mv .venv/.installing $(STAMP)
	@echo "Set-up done."
again:
