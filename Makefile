# `make picture`, `make serve` and `make test` do all the set-up. Python 3.11 or newer and make are all they need.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
PROMPT ?= a red circle to the left of a blue square on a white background
SERVE ?= --no-auth
override PROMPT := $(value PROMPT)
export PROMPT

.PHONY: picture serve test lint types unit benchmark docs clean

picture: $(VENV)/run.done
	@$(BIN)/lienzo generate --out pictures/ --each -- "$$PROMPT"

# For everybody on this machine and nobody else; `make serve SERVE=` asks for keys.
serve: $(VENV)/serve.done
	$(BIN)/lienzo serve $(SERVE)

test: lint types unit

lint: $(VENV)/dev.done
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/dev.done
	$(BIN)/mypy

unit: $(VENV)/dev.done
	$(BIN)/python -m pytest --numprocesses auto --dist loadfile

benchmark: $(VENV)/dev.done
	$(BIN)/python benchmarks/against_diffusers.py

docs: $(VENV)/dev.done
	$(BIN)/python docs/make_reference.py

$(VENV)/run.done: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable .
	@touch $@

$(VENV)/serve.done: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[server]"
	@touch $@ $(VENV)/run.done

$(VENV)/dev.done: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[dev]"
	@$(BIN)/pip list 2>/dev/null | grep -i '^nvidia' | grep -vi '^nvidia-ml-py' && { echo "A CUDA build of torch was installed; constraints.txt should prevent that."; exit 1; } || true
	@touch $@ $(VENV)/run.done $(VENV)/serve.done

clean:
	rm -rf $(VENV) build src/*.egg-info
