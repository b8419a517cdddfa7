# Every target makes or refreshes .venv by itself. Paths are relative, so spaces in the checkout's path do no harm.
PYTHON ?= python3
SCALE ?= lesson
DATASET ?= digits
JOBS ?= 2

VENV := .venv/bin/python
STAMP := .venv/.installed
FIRST = $(firstword $(sort $(wildcard notebooks/*.ipynb)))
AS_ROOT = $(if $(filter 0,$(shell id -u)),--allow-root)
# The stamp holds the folder it was made in: an environment that moved along with its checkout is refreshed.
MOVED := $(shell [ "$$(cat $(STAMP) 2>/dev/null)" = "$$(pwd)" ] || echo yes)

.DEFAULT_GOAL := help
.PHONY: help course lab voila test bench notebooks site clean again

help:
	@echo 'make course     execute the course and say what it found: about 30 minutes; pages land in build/course/'
	@echo '                SCALE=smoke|lesson|full  DATASET=digits|cifar100|folder   (now: SCALE=$(SCALE) DATASET=$(DATASET))'
	@echo 'make lab        open the course in JupyterLab, reachable from this machine only'
	@echo 'make voila      show one notebook as a page without code: make voila NOTEBOOK=notebooks/08_when_to_stop.ipynb'
	@echo 'make test       style, types and tests: about 20 minutes'
	@echo 'make bench      measure engine, steps, reading, probe, methods and early exit on this machine: 30 minutes'
	@echo 'make notebooks  execute the course as committed and write the notebooks back: about 30 minutes'
	@echo 'make site       build the web version of the course, with the API reference, in build/site/: half a minute'
	@echo 'make clean      remove build/ and caches; runs/, data/ and .venv stay (rm -r .venv removes that too)'
	@echo
	@echo 'The first target sets up .venv from the package index: 3 to 15 minutes, 6 GB on Linux with the'
	@echo 'CUDA build of PyTorch. PYTHON=python3.12 chooses another Python (3.11 or later). Without a GPU, 1 GB is'
	@echo 'enough: PIP_EXTRA_INDEX_URL=ADDRESS, the index of its CPU builds, make course'

course: $(STAMP)
	@echo "Executing the course at scale $(SCALE) on $(DATASET): 6 minutes at smoke, 30 at lesson, hours at full."
	@$(VENV) -m dfs_edu course --scale $(SCALE) --dataset $(DATASET) --jobs $(JOBS) --out build/course

lab: $(STAMP)
	@echo "Opening JupyterLab at $(FIRST). Stop it with Ctrl-C. Its address holds a token: do not share it."
	@JUPYTER_PREFER_ENV_PATH=1 $(VENV) -m jupyterlab --ServerApp.ip=127.0.0.1 --LabApp.default_url=/lab/tree/$(FIRST) \
	    --ServerApp.jpserver_extensions=voila.server_extension=False \
	    --LabApp.news_url=None --LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate $(AS_ROOT)

# A server of its own for a notebook that was named: in JupyterLab's, a link to any notebook would run it.
voila: $(STAMP)
	@echo "Voila runs a notebook and shows it as a page without code. Stop it with Ctrl-C; do not share its address."
	@test -f "$(NOTEBOOK)" || { echo "make voila NOTEBOOK=FILE.ipynb: there is no notebook '$(NOTEBOOK)'" >&2; exit 1; }
	@JUPYTER_PREFER_ENV_PATH=1 $(VENV) -m voila "$(NOTEBOOK)" --Voila.ip=127.0.0.1 --token

test: $(STAMP)
	@echo "Checking style and types, then running the tests: about 20 minutes."
	@$(VENV) -m ruff check .
	@$(VENV) -m ruff format --check .
	@$(VENV) -m ty check
	@$(VENV) -m pytest --numprocesses auto --maxprocesses 4 --dist worksteal -m "not browser"
	@$(VENV) -m pytest -m browser

bench: $(STAMP)
	@echo "Measuring: about 30 minutes. Leave the machine alone meanwhile."
	@$(VENV) -m benchmarks

notebooks: $(STAMP)
	@echo "Executing the course with the notebooks' own parameters and writing them back: about 30 minutes."
	@$(VENV) -m dfs_edu course --write-back

site: $(STAMP)
	@echo "Building the site from the notebooks as committed, README, docs and docstrings: half a minute."
	@rm -rf build/site
	@$(VENV) -m sphinx --quiet --fresh-env --fail-on-warning --conf-dir docs --doctree-dir build/doctrees . build/site
	@echo "Open build/site/index.html: it needs no server and no network."

clean:
	rm -rf build .pytest_cache .ruff_cache
	find dfs_edu tests benchmarks notebooks -name __pycache__ -prune -exec rm -rf {} +
	find notebooks -name .ipynb_checkpoints -prune -exec rm -rf {} +

# .venv/.installing marks a set-up under way. One that was interrupted leaves it behind, and the next starts afresh.
# Renaming it at the end makes the stamp as old as the set-up's beginning: what changed meanwhile is seen.
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
