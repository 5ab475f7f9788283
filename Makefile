# Two commands do everything on a fresh machine: `make report` and `make test`. Each sets up .venv itself.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CONSTRAINTS := constraints.txt
SETUP := settings.ini setup.py pyproject.toml $(CONSTRAINTS)

# Idle OpenMP threads sleep instead of spinning: on a busy machine that is worth a factor of two to five.
export OMP_WAIT_POLICY := PASSIVE
# A copy of the UCR archive beside the project is used where there is one.
ifeq ($(SEQDREAM_DATA),)
ifneq ($(wildcard ../shared/ucr),)
export SEQDREAM_DATA := $(abspath ../shared/ucr)
endif
endif

.PHONY: help report test chromium zoo export format notebooks readme clean

help:
	@echo "make report     the main job: FordA, every table and figure, report/index.html"
	@echo "make test       every test and every notebook"
	@echo "make export     notebooks -> modules      make notebooks   run all notebooks, keep outputs"
	@echo "make format     lay out notebooks, tests and modules as ruff does"
	@echo "make readme     nbs/index.ipynb -> README.md"
	@echo "make zoo        train the bundled models again (hours)      make clean   remove what make made"

report: $(VENV)/.runtime
	$(BIN)/seqdream report FordA --out report

# One torch thread per test worker: two workers that each use all cores slow each other down.
# Lines are counted by sys.monitoring where Python has it (3.12), else by coverage's C tracer, which
# costs about a third of the time; `make test COV=` runs without.
CORE = $(shell $(BIN)/python -c 'import sys; print("sysmon" if sys.version_info >= (3, 12) else "ctrace")')
COV ?= --cov=seqdream --cov-report=term:skip-covered --cov-fail-under=90
test: $(VENV)/.dev chromium
	OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 COVERAGE_CORE=$(CORE) $(BIN)/python -m pytest tests \
	  -n auto --maxprocesses 4 --dist worksteal --durations=15 $(COV)

# The browser test drives Debian's Chromium; where there is none and none can be had, it says so and is skipped.
chromium:
	@if ! command -v chromium >/dev/null && ! command -v google-chrome >/dev/null && command -v apt-get >/dev/null && [ "$$(id -u)" = 0 ]; then \
	  echo "installing Chromium for the browser test"; export DEBIAN_FRONTEND=noninteractive; \
	  { timeout 300 apt-get install -y -qq chromium || { timeout 120 apt-get update -qq && timeout 300 apt-get install -y -qq chromium; }; } >/dev/null 2>&1 || true; fi

zoo: $(VENV)/.dev
	$(BIN)/seqdream train FordA --preset paper --zoo seqdream/zoo
	$(BIN)/seqdream train FordA --preset wang --zoo seqdream/zoo
	for seed in 1 2 3 4; do $(BIN)/seqdream train FordA --preset paper --seed $$seed --epochs 250 --zoo seqdream/zoo || exit 1; done
	$(BIN)/seqdream train FordA --judges --zoo seqdream/zoo

export: $(VENV)/.dev
	$(BIN)/nbdev-export

format: $(VENV)/.dev
	$(BIN)/ruff check --quiet --select I --fix . ; $(BIN)/ruff format . && $(BIN)/nbdev-export

notebooks: $(VENV)/.dev
	$(BIN)/python tests/notebooks.py run

readme: $(VENV)/.dev
	$(BIN)/python tests/notebooks.py readme

clean:
	rm -rf $(VENV) report build dist *.egg-info .pytest_cache .hypothesis .ruff_cache .coverage .coverage.*

# The stamps are written last, so an interrupted set-up is simply done again, from an empty folder. A finished one that only
# settings.ini or a pin has outdated is brought up to date in place.
$(VENV)/.runtime: $(SETUP)
	@if [ -e $@ ] && $(BIN)/python -m pip --version >/dev/null 2>&1; then echo "bringing $(VENV) up to date"; exit 0; fi; \
	python=; for p in $(PYTHON) python3.13 python3.12 python3.11; do \
	  if $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then python=$$p; break; fi; done; \
	if [ -z "$$python" ]; then echo "Python 3.11 or newer is needed ($(PYTHON) is not); name one: make PYTHON=/path/to/python3.12" >&2; exit 1; fi; \
	echo "setting up $(VENV) (once, a few minutes)"; rm -f $@; $$python -m venv --clear $(VENV)
	@rm -f $@ $(VENV)/.dev
	@$(BIN)/python -m pip install -qq --disable-pip-version-check -c $(CONSTRAINTS) setuptools wheel
	@$(BIN)/python -m pip install -qq --disable-pip-version-check -c $(CONSTRAINTS) --no-build-isolation -e .
	@touch $@

$(VENV)/.dev: $(VENV)/.runtime
	@echo "adding the development tools"
	@$(BIN)/python -m pip install -qq --disable-pip-version-check -c $(CONSTRAINTS) --no-build-isolation -e '.[dev]'
	@touch $@
