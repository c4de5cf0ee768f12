# The commands of the README. The environment is .venv, made on first use.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PYTEST := $(BIN)/python -m pytest

.PHONY: quickstart test test-plain-start test-faults test-cluster test-packaging lint format bench clean

quickstart: $(READY)
	$(BIN)/tokenlaw quickstart

# Everything that needs no GPU, no cluster and no data beside the repository.
test: $(READY)
	$(PYTEST) -n 2 --dist worksteal -m "not faults and not cluster and not packaging"

# Runs of the trainer by public functions of torch and triton alone.
test-plain-start: $(READY)
	TOKENLAW_FAST_START=0 $(PYTEST) -n 2 --dist worksteal tests/golden $(addprefix tests/trainer/test_,stage1.py stage2.py encode.py trunks.py)

# Kill points, full disks, random kills.
test-faults: $(READY)
	$(PYTEST) -m faults tests/faults

# A real SLURM, Ray and PostgreSQL on this machine. As root on Debian it installs what it needs.
test-cluster: $(READY)
	$(PYTEST) -m cluster --no-fold-skipped tests/cluster tests/results_db

# A wheel, a source archive and an editable checkout, installed beside a user's own files.
test-packaging: $(READY)
	$(PYTEST) -m packaging tests/packaging

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(READY)
	@for script in benchmarks/*.py; do echo "== $$script"; $(BIN)/python $$script || exit 1; done

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $(READY)
