# Two commands do everything on a fresh machine: `make demo` and `make test`. Both set themselves up in .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.ready

.PHONY: demo test lint clean help
help: ## what there is
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/'

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test,dev]'
	touch $(STAMP)

demo: $(STAMP) ## train on the small set inside the package: pictures and a report within minutes
	$(BIN)/handful demo

test: $(STAMP) ## the whole test suite
	$(BIN)/ruff check src tests benchmarks examples
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

lint: $(STAMP) ## style alone
	$(BIN)/ruff check src tests benchmarks examples

clean: ## remove the environment and caches
	rm -rf $(VENV) .pytest_cache .ruff_cache
