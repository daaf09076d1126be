# Two commands are all a fresh machine needs: `make demo` and `make test`. Both set up .venv themselves.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Where the CPU build of torch comes from; where it cannot be reached, the ordinary index serves.
TORCH_INDEX ?= --extra-index-url https://download.pytorch.org/whl/cpu

.PHONY: demo test test-slow lint types benchmark clean

# torch first: its CPU build, pinned. An open version would bring gigabytes of CUDA libraries.
$(VENV)/.ready: requirements.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -qq --no-deps --retries 1 $(TORCH_INDEX) $$(grep "^torch==" requirements.lock)
	$(BIN)/python -m pip install --quiet -r requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation -e .
	touch $@

demo: $(VENV)/.ready
	HF_HUB_OFFLINE=1 $(BIN)/luthier demo

test: $(VENV)/.ready
	$(BIN)/python -m pytest -n 2 --dist worksteal

# Kills, long trainings: minutes each.
test-slow: $(VENV)/.ready
	$(BIN)/python -m pytest -m slow

lint: $(VENV)/.ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.ready
	$(BIN)/mypy

benchmark: $(VENV)/.ready
	$(BIN)/python benchmarks/classification.py
	$(BIN)/python benchmarks/accuracy.py

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache
