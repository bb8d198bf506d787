# The environment is remade when pyproject.toml changes; everything else runs inside it.
PYTHON ?= python3
BIN := .venv/bin
WEIGHTS ?= imagenet

.PHONY: demo test lint examples clean

.venv/demo: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q -e ".[plot]"
	touch $@

.venv/dev: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q -e ".[test,lint]"
	touch $@

demo: .venv/demo  ## spliced photographs -> cross-validated, tuned, saved detector
	$(BIN)/python examples/quickstart.py --weights "$(WEIGHTS)"

test: .venv/dev  ## the whole test suite, with line coverage
	$(BIN)/python -m pytest --cov --cov-report=term

lint: .venv/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf .venv output .pytest_cache .mypy_cache .ruff_cache
