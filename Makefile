# make app    opens the dashboard
# make check  checks format and types, and runs the fast tests: two minutes on two cores
# make test   checks format and types, and runs all tests, the browser's too: a quarter of an hour on two cores
# make faults prints what holds under injected faults: promise, tried, lost; SECONDS=60 for a short look, 0 for every point
# make fuzz   tries mutated files on each reader, guided by coverage; SECONDS is for each, READERS="png npz" for some
# make lock   writes requirements.lock anew; make audit asks the internet which of its packages have known holes
# They set up .venv first; what is needed is Python 3.11 or newer.  A second call starts at once.

VENV := .venv
BIN := $(VENV)/$(if $(filter Windows_NT,$(OS)),Scripts,bin)
PY := $(BIN)/python
WORKERS := 2

.PHONY: app audit check faults fuzz lint test test-lowest fmt example bench lock clean

app: $(VENV)/.app
	@$(PY) -m streamlit run app.py --server.address 127.0.0.1

# Tests of one file stay in one process, which shares what is expensive to set up.
PYTEST := OMP_NUM_THREADS=1 $(PY) -m pytest --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder

check: lint
	$(PYTEST) -m "not slow and not browser" --ignore tests/browser

test: lint
	@$(PY) tests/ensure_tools.py
	$(PYTEST)

# tests/faults says how to add a part; PARTS=saves tries one alone, SECONDS is for each.
PARTS :=
SECONDS := 600

faults: $(VENV)/.test
	PYTHONPATH=.:tests $(PY) -m faults $(PARTS) --seconds $(SECONDS)

# Atheris is no requirement, so it lies in a folder of its own.
READERS :=

fuzz: $(VENV)/.fuzz
	PYTHONPATH=$(VENV)/fuzz $(PY) tests/faults/guided.py $(READERS) --seconds $(SECONDS)

lint: $(VENV)/.test
	$(PY) -m ruff format --check .
	$(PY) -m ruff check .
	$(PY) -m mypy

# All but the browser's tests, with the oldest version that is allowed of each package that the program or they import;
# for Python 3.11 or 3.12, as younger ones have no such builds.
test-lowest: $(VENV)/.lowest
	$(VENV)/lowest/$(notdir $(BIN))/python -m pytest --ignore tests/browser

fmt: $(VENV)/.test
	$(PY) -m ruff check --fix --exit-zero .
	$(PY) -m ruff format .

# The model that comes with the program, trained anew on CIFAR-10 in DATA: about two hours on one core.
DATA := cifar10

example: $(VENV)/.test
	$(PY) -m ddpm train --preset cifar10-fast --data_dir $(DATA) --total_steps 16480 --save_interval 1923 --ema_rate 0.99 --runs_dir build --run example
	$(PY) -m scripts.pack_example build/example ema_0.99 cifar10
	rm -rf build

# The newest versions that requirements*.txt allow, written into requirements.lock, which .ci/run installs.
lock: $(VENV)/.test
	$(PY) -m pip install --quiet --disable-pip-version-check --upgrade --upgrade-strategy eager -r requirements-dev.txt
	$(PY) scripts/lock.py

# Known holes of the versions in requirements.lock.  It asks the internet, so it is no part of the tests.
audit: $(VENV)/.python
	@test -d $(VENV)/audit || $(PY) -m venv $(VENV)/audit
	@$(VENV)/audit/$(notdir $(BIN))/python -m pip install --quiet --disable-pip-version-check "pip-audit>=2.9,<3"
	$(VENV)/audit/$(notdir $(BIN))/python -m pip_audit --no-deps --disable-pip -r requirements.lock

# Prints how fast things are; asserts nothing.
bench: $(VENV)/.test
	$(PY) -m ddpm bench
	@for file in tests/bench/bench_*.py; do echo "== $$file"; $(PY) $$file || exit 1; done

clean:
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis *.egg-info

# Each stamp is younger than what it was installed from.

$(VENV)/.app: requirements.txt pyproject.toml | $(VENV)/.python
	@echo "Installing what the dashboard needs (once, a few minutes) ..."
	@$(PY) -m pip install --disable-pip-version-check -r requirements.txt
	@$(PY) -m pip install --quiet --disable-pip-version-check --no-deps -e .
	@touch $@

$(VENV)/.test: requirements-dev.txt $(VENV)/.app
	@echo "Installing what the tests need (once) ..."
	@$(PY) -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	@touch $@

$(VENV)/.fuzz: $(VENV)/.test
	@$(PY) -m pip install --quiet --disable-pip-version-check --target $(VENV)/fuzz --upgrade 'atheris>=3,<4'
	@touch $@

$(VENV)/.lowest: requirements.txt requirements-dev.txt | $(VENV)/.python
	@$(PY) -m venv $(VENV)/lowest
	@sed -E '/^-r/d; /^(ruff|mypy|playwright|types-|pandas-stubs)/!s/>=([^,]+),[^ ]+/==\1/' requirements.txt requirements-dev.txt > $(VENV)/lowest.txt
	@$(VENV)/lowest/$(notdir $(BIN))/python -m pip install --disable-pip-version-check -r $(VENV)/lowest.txt
	@touch $@

# PYTHON names another one: make app PYTHON=python3.13
$(VENV)/.python:
	@for python in $(PYTHON) python3 python3.11 python3.12 python3.13 python3.14 python; do \
		"$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && break; python=; \
	done; \
	if [ -z "$$python" ]; then \
		echo "DDPM Workbench needs Python 3.11 or newer (found: $$(python3 --version 2>&1)): install it, or name it as in: make app PYTHON=/path/to/python3"; \
		exit 1; \
	fi; \
	"$$python" -m venv $(VENV)
	@touch $@
