# SPDX-License-Identifier: Apache-2.0
# One verb per habit. `make demo` and `make test` install what they need first.
SHELL := /bin/bash
PYTHON ?= python3
BIN := .venv/bin
FUZZ_SECONDS ?= 60
FUZZ_ALL ?=
export MESSAGE

.PHONY: setup demo test lint format fuzz bench protos clean

setup: ## install system packages, the virtual environment and the guest image (idempotent)
	@PYTHON="$(PYTHON)" bash scripts/setup.sh

demo: setup ## the main job in five scenarios; MESSAGE=... is what the containers print
	@$(BIN)/sealpod demo --message "$$MESSAGE"

test: setup ## everything, end-to-end scenarios included
	$(BIN)/pytest

lint: setup ## format, style, types, ranks
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	MYPYPATH=tests/support $(BIN)/mypy --follow-imports=silent bench
	$(BIN)/lint-imports

format: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

fuzz: setup ## each decoder and a real chain for FUZZ_SECONDS (60); FUZZ_ALL=1 makes every change of the chain
	$(BIN)/pytest tests/fuzz --fuzz-seconds=$(FUZZ_SECONDS) $(if $(FUZZ_ALL),--fuzz-all) --timeout=0 -rP

bench: setup ## starts, calls and pods against floors measured in the same run (pods need root)
	$(BIN)/python bench/pod_start.py
	$(BIN)/python bench/shim_start.py
	$(BIN)/python bench/ttrpc.py
	$(BIN)/python bench/measure.py
	$(BIN)/python bench/pods.py
	$(BIN)/python bench/kbs.py
	$(BIN)/python bench/kbs.py --database mariadb

protos: setup ## regenerate the protobuf modules
	$(BIN)/python -m grpc_tools.protoc -Iproto --python_out=src --pyi_out=src proto/sealpod/wire/pb/*.proto

clean: ## remove what make made here; the download cache stays
	rm -rf .venv .demo .stamps build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache src/*.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
