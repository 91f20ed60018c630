# Every target sets up what it needs in .venv first, from the exact versions in constraints.txt.
#
#   make install   install the package, so that .venv/bin/diffmeter runs
#   make demo      generate an image with the embedded model and show what it cost
#   make test      lint, type check and run the tests, at most 12 minutes on two cores
#   make test-all  the same with every pipeline of the zoo
#   make test-oldest  the core tests with the lowest versions that pyproject.toml allows
#   make lint      lint and type check only
#   make evaluate  measure the embedded model's images
#   make clean     remove .venv, .venv-oldest and the caches

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
STAMP_DEV := $(VENV)/.installed-dev
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n logical --maxprocesses 8 --dist loadfile
OLDEST := .venv-oldest
CORE_TESTS := tests/test_*.py tests/metering tests/models tests/storage tests/resnet_bk

.PHONY: install demo test test-all test-oldest lint evaluate clean
.DEFAULT_GOAL := demo

$(VENV)/.created:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { echo "Python 3.10 or later is needed: make PYTHON=..."; exit 1; }
	$(PYTHON) -m venv $(VENV)
	touch $@

# torch comes first and alone, so that its pinned version decides which build is taken.
$(STAMP): $(VENV)/.created pyproject.toml constraints.txt
	$(PIP_INSTALL) torch
	$(PIP_INSTALL) -e .
	touch $@

$(STAMP_DEV): $(STAMP)
	$(PIP_INSTALL) -e ".[dev]"
	touch $@

install: $(STAMP)
	@echo "Installed. Activate the environment: source $(VENV)/bin/activate"

demo: $(STAMP)
	$(BIN)/diffmeter generate --model diffmeter/shapes --prompt "a red circle left of a blue square" --seed 7 --num-images 2
	@echo "The images are in outputs/, in the folder named above, each with its compute profile."

lint: $(STAMP_DEV)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# One process a core and one thread each: PyTorch's own threads would fight over the cores.
test: lint
	$(PYTEST)

test-all: lint
	$(PYTEST) -m "zoo_full or not zoo_full"

# Another environment, since these versions exclude those of constraints.txt. The newest of what the dependencies
# themselves depend on is taken.
$(OLDEST)/.installed: pyproject.toml constraints-oldest.txt
	$(PYTHON) -m venv $(OLDEST)
	$(OLDEST)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints-oldest.txt -e ".[test]"
	touch $@

test-oldest: $(OLDEST)/.installed
	OMP_NUM_THREADS=1 $(OLDEST)/bin/python -m pytest -n logical --maxprocesses 8 --dist loadfile $(CORE_TESTS)

evaluate: $(STAMP)
	$(BIN)/python training/evaluate_embedded.py

clean:
	rm -rf $(VENV) $(OLDEST) .pytest_cache .mypy_cache .ruff_cache .hypothesis
