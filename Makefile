PYTHON ?= python3
WORKERS ?= 2
BIN := .venv/bin
STAMP := .venv/installed

# One thread for each test worker: two workers with a thread pool each only get in each other's way.
export OMP_NUM_THREADS ?= 1

EXTRAS ?= all,dev

.PHONY: install demo test check bench clean

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/pip || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[$(EXTRAS)]"
	touch $@

demo: install
	$(BIN)/hil demo emulated-skewed

test: install
	$(BIN)/pytest -n $(WORKERS) --dist worksteal

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: install
	$(BIN)/python benchmarks/guard.py
	$(BIN)/python benchmarks/mvm.py --short
	$(BIN)/python benchmarks/update.py --short
	$(BIN)/python benchmarks/population.py --short

clean:
	rm -rf .venv build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .numba_cache
	find hil drivers simulated_backend procedures tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
