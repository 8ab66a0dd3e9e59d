# Every target creates .venv and installs what it needs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# One thread per process: two Ray workers on two cores must not fight over them.
export OMP_NUM_THREADS ?= 1
# Test processes: more than cores, since tests wait for Ray to start; each keeps at most one local Ray.
TEST_WORKERS ?= 3
# Each with clusters of its own: their starts and waits overlap.
CLUSTER_WORKERS ?= 2

.DEFAULT_GOAL := help
.PHONY: help install test-isa demo evidence evidence-variants test test-cluster lint docs format benchmarks benchmarks-data clean

help:
	@sed -n 's/^## //p' $(MAKEFILE_LIST)

$(VENV)/installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade-strategy only-if-needed -c constraints.txt torch
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[dev]"
	@if command -v npm >/dev/null; then npm install --silent --no-audit --no-fund --ignore-scripts --fetch-timeout=30000 --fetch-retries=1 --prefix $(VENV) \
		@niivue/niivue@0.69.0 || echo "NiiVue could not be installed: its test will skip"; fi
	touch $@

## install       create .venv and install the exact tested set
install: $(VENV)/installed

## demo          the whole chain on a synthetic cohort, about ten minutes on two cores
demo: install
	$(BIN)/drasclr demo

## evidence      what pretraining gives, claim by claim, into docs/evidence.json: about an hour on two cores
evidence: install
	$(BIN)/python -m tests.benchmarks.evidence --write

## evidence-variants  what no claim of the evidence compares with: each patch encoded once, networks where density fails
evidence-variants: install
	$(BIN)/python -m tests.benchmarks.evidence --write --only encode_once_loses_nothing beats_density_where_density_fails

## test          the test suite without the multi-node tests
test: install
	$(BIN)/python -m pytest -m "not cluster" -n $(TEST_WORKERS) --dist loadfile --no-loadscope-reorder --durations=15

## test-cluster  real Ray heads with a dashboard, and jobs submitted to them
test-cluster: install
	$(BIN)/python -m pytest -m cluster tests -n $(CLUSTER_WORKERS) --dist loadfile --no-loadscope-reorder --durations=15

## test-isa      numeric tests and fine-tuning with the instruction sets AVX2 and AVX-512
test-isa: install
	@for isa in avx2 avx512; do \
		grep -qw "$$isa\|$${isa}f" /proc/cpuinfo 2>/dev/null || { echo "this processor has no $$isa: skipped"; continue; }; \
		case $$isa in avx2) onednn=AVX2;; *) onednn=AVX512_CORE;; esac; \
		echo "ATEN_CPU_CAPABILITY=$$isa ONEDNN_MAX_CPU_ISA=$$onednn"; \
		ATEN_CPU_CAPABILITY=$$isa ONEDNN_MAX_CPU_ISA=$$onednn $(BIN)/python -m pytest -q tests/drasclr/test_exactness.py \
			tests/drasclr/test_trunk.py tests/drasclr/test_contrast.py tests/ctplatform/evaluation/test_finetune.py \
			tests/ctplatform/evaluation/test_sweep.py -k "not test_sweep or fine_tuning" || exit 1; \
	done

## lint          ruff, mypy, the import contract, and the documentation with its links
lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	PYTHONPATH=platform:. $(BIN)/lint-imports --no-logo
	$(BIN)/python docs/build.py

## docs          the documentation as a site in build/site, with API pages
docs: install
	$(BIN)/python docs/build.py

## format        let ruff rewrite the sources
format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

## benchmarks    the method against the published computation, as ratios in one run
benchmarks: install
	$(BIN)/python -m tests.benchmarks.method
	$(BIN)/python -m tests.benchmarks.step
	$(BIN)/python -m tests.benchmarks.scaling
	$(BIN)/python -m tests.benchmarks.training_cost

## benchmarks-data  the data plane: feed, preparing scans, Ray's overhead, memory (DRASCLR_REAL_CT, DRASCLR_ATLAS)
benchmarks-data: install
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[bench]"
	$(BIN)/python -m tests.benchmarks.feed
	$(BIN)/python -m tests.benchmarks.prepare_speed
	$(BIN)/python -m tests.benchmarks.ray_overhead
	$(BIN)/python -m tests.benchmarks.memory

## clean         remove .venv and caches
clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache .mypy_cache .cache build/site docs/reference/api
