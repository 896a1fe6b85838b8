# Every target sets up what it needs; `make help` lists them.

PYTHON ?= python3.11
SEED ?= 0
KILLS ?= 500
BIN := .venv/bin
READY := .venv/.ready

.DEFAULT_GOAL := help
.PHONY: help demo test check stack-test attack soak pressure throughput bench clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(READY) ## a live attack, held back by the guard (SEED=n for another one)
	@$(BIN)/weir demo --seed $(SEED)

# One thread per worker: with more, the workers' thread pools fight over the same cores.
test: $(READY) ## the whole test suite
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n auto --maxprocesses 4

check: $(READY) ## format, lint, types, import layers; rules, manifests, images
	@scripts/check

# Where no engine runs one is started (as root, on Debian); what cannot be pulled has a stand-in.
stack-test: $(READY) ## the whole stack in containers: attacked, killed, cut off
	@scripts/engine.sh start
	@scripts/stand-in-images.sh
	@$(BIN)/python -m pytest -q -x -s tests/stack

attack: ## honest and hostile traffic against the stack that runs, for its dashboards
	@scripts/attack.sh

soak: $(READY) ## kill the service over and over on both stores, compare with a straight run (KILLS=n, SEED=n)
	@OMP_NUM_THREADS=1 $(BIN)/python -m tests.faults.soak --kills $(KILLS) --seed $(SEED)
	@$(BIN)/python -m tests.faults.table

pressure: $(READY) ## producers at twice the learner's speed for a minute, on both stores
	@OMP_NUM_THREADS=1 $(BIN)/python -m tests.faults.pressure
	@$(BIN)/python -m tests.faults.table

throughput: $(READY) ## what durable appends cost on this disk
	@$(BIN)/python -m tests.faults.throughput
	@$(BIN)/python -m tests.faults.table

# One thread a rank and a server: two cores are all that is asked for.
bench: $(READY) ## what Weir costs in speed on this machine: benchmarks/performance.md, 10 minutes
	@$(BIN)/weir bench overhead --json benchmarks/overhead.json
	@$(BIN)/weir bench published --json benchmarks/published.json
	@$(BIN)/weir bench ingest --json benchmarks/ingest.json
	@$(BIN)/weir bench predict --json benchmarks/predict.json
	@$(BIN)/weir bench ranks --json benchmarks/ranks.json
	@$(BIN)/weir bench scaling --json benchmarks/scaling.json
	@$(BIN)/weir bench startup --json benchmarks/startup.json
	@$(BIN)/weir bench performance benchmarks/*.json

clean: ## remove the virtual environment and every cache
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .import_linter_cache build service/weir.egg-info
	find service tests -name __pycache__ -type d -prune -exec rm -rf {} +

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	  { echo "Weir needs Python 3.11 with its venv module (Debian: apt install python3.11-venv), or name another: make PYTHON=python3.12 ..."; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "Installing into .venv; the first time takes minutes."
	@$(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@
