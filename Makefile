# Set-up and the commands people use; everything else is `nightjar --help`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: run test check lock repro bench bench-gpu bench-growth
.DEFAULT_GOAL := run

run: $(STAMP)  ## the whole night
	@$(BIN)/nightjar run

# A file of tests keeps to one process, which builds what its tests share once; torch has a thread in each.
test: $(STAMP)  ## the tests, and how much of each layer they run: too little is a failure
	@$(BIN)/coverage erase
	@status=0; OMP_NUM_THREADS=1 $(BIN)/coverage run -m pytest -n auto --maxprocesses 8 --dist loadfile || status=$$?; \
	  $(BIN)/python -m tests.covered || status=1; exit $$status

check: $(STAMP)  ## style and types
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

repro: $(STAMP)  ## the same graph through DVC's door
	@PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/dvc repro

# Each peer has a folder of its own, and what it needs beside it is what the project has.
BENCH := .bench
PEERS := $(BENCH)/trl-1.12.0 $(BENCH)/trl-1.16.0

bench: $(STAMP) $(PEERS)  ## ours and the peers side by side; ARGS="ppo --repetitions 5" chooses
	@$(BIN)/python -m tests.benchmarks --json $(BENCH)/results.json --markdown $(BENCH)/results.md $(ARGS)

GPU_TESTS := tests/rlhf/fast/decoding/test_static.py tests/rlhf/fast/test_packing.py

bench-gpu: $(STAMP) $(PEERS)  ## what needs a GPU: its tests, then its races, whatever the tests said
	@status=0; $(BIN)/python -m pytest $(GPU_TESTS) -k gpu -rs || status=1; \
	  $(BIN)/python -m tests.benchmarks --device cuda --dtype bfloat16 --threads 4 --json $(BENCH)/gpu.json \
	  --markdown $(BENCH)/gpu.md $(ARGS) || status=1; exit $$status

bench-growth: $(STAMP)  ## how our time and memory grow
	@$(BIN)/python -m tests.benchmarks.growth $(ARGS)

$(BENCH)/trl-%:
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --no-deps --target $@ trl==$*

# torch is pinned without its build tag ("+cpu", "+cu..."), and what only a GPU build of it brings along is
# not pinned, so that each machine gets the build that fits it. What installs is no dependency either.
lock: $(STAMP)  ## pin what is installed now
	@torch=$$($(BIN)/python -c 'from importlib.metadata import version; print(version("torch").split("+")[0])') && \
	  $(BIN)/pip freeze --all --exclude-editable --exclude pip --exclude uv | sed -E "s/^torch[ =@].*/torch==$$torch/" \
	  | grep -v -i -E '^(nvidia-|triton|wheel=)' > requirements.lock.new
	@mv requirements.lock.new requirements.lock

$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo \
	  "Nightjar needs Python 3.11 or newer, and $(PYTHON) is older or missing; name one with: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' || { echo \
	  "$(PYTHON) cannot make virtual environments; install its venv package (Debian, Ubuntu: python3-venv)" >&2; exit 1; }
	@test -x $(BIN)/python || { echo "creating $(VENV)"; $(PYTHON) -m venv $(VENV); }
	@echo "installing the locked dependencies (up to a minute, the first time)"
	@$(BIN)/python setup/install.py -r requirements.lock
	@$(BIN)/python setup/install.py --no-deps --no-build-isolation -e .
	@$(BIN)/uv pip check --quiet --python $(BIN)/python 2> /dev/null || $(BIN)/python -m pip check > /dev/null || \
	  $(BIN)/python -m pip check >&2
	@$(BIN)/python setup/bytecode.py flows tasks rlhf
	@touch $@
