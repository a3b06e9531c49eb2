# Everything a developer types. `make demo` and `make test` each install what they need.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: install demo test test-swift check fix e2e bench bench-models bench-peers clean

install: $(INSTALLED)

$(INSTALLED): pyproject.toml serve/cortex_core/version.py
	@echo "installing into $(VENV) (about half a minute)"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install --quiet --upgrade "pip>=24"
	@$(BIN)/pip install --quiet --editable ".[dev,examples]"
	@touch $@

demo: install
	examples/demo.sh

test: install
	$(BIN)/pytest tests/unit tests/contracts -n 2 -q
	$(BIN)/pytest tests/integration -n 2 --dist loadfile -q
	$(BIN)/pytest tests/e2e -m "not alone" -n 2 --dist loadfile -q
	$(BIN)/pytest tests/e2e -m alone -q

test-swift: install
	PYTHONPATH=tests $(BIN)/python -m support.swift_server $(BIN)/pytest tests/contracts/test_storage.py \
	  tests/integration/storage tests/e2e/test_models_seed.py tests/e2e/test_models_storage_faults.py -q

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

fix: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

e2e: install
	$(BIN)/pytest tests/e2e -m "not alone" -n 2 --dist loadfile -q
	$(BIN)/pytest tests/e2e -m alone -q

bench: install
	PYTHONPATH=tests $(BIN)/python benchmarks/report.py

bench-models: install
	PYTHONPATH=tests $(BIN)/python benchmarks/swaps.py
	PYTHONPATH=tests $(BIN)/python benchmarks/model_memory.py

# options: `make bench-peers OPTIONS="--only echo,iris --rounds 5"`
bench-peers: install
	$(BIN)/pip install --quiet --editable ".[bench]"
	PYTHONPATH=tests $(BIN)/python benchmarks/compare.py $(OPTIONS)

clean:
	rm -rf $(VENV) .bench build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
