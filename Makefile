# make quickstart   install into .venv and run the main job on real images
# make test         install into .venv and run the quick test suite
# make check        format, lint and type checks
# Needs Python 3.11 or newer (choose one with PYTHON=python3.12) and nothing else.

PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/installed
WORKBENCH := $(BIN)/workbench

.PHONY: quickstart test check format install
.DELETE_ON_ERROR:

quickstart: $(INSTALLED)
	$(WORKBENCH) quickstart

test: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --jaxtyping-packages=workbench,gen,explain,distill,augment_synth,shape_measures,shape_network,shape_objects,pixel_arms,pixel_table,inpaint_toy,inpaint_measures,beartype.beartype

check: $(INSTALLED)
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m ruff check .
	$(BIN)/python -m mypy

format: $(INSTALLED)
	$(BIN)/python -m ruff format .
	$(BIN)/python -m ruff check --fix .

install: $(INSTALLED)

# uv installs in half a minute what takes pip seven; pip does it where uv cannot be had.
$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "error: $$($(PYTHON) --version) is too old; choose another: make PYTHON=python3.12 ..." >&2; exit 2; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet uv || echo "uv cannot be had; installing with pip, which takes longer"
	if [ -x $(BIN)/uv ]; \
		then $(BIN)/uv pip install --compile-bytecode --python $(BIN)/python -c constraints.txt -e '.[dev]'; \
		else $(BIN)/python -m pip install -c constraints.txt -e '.[dev]'; fi
	touch $(INSTALLED)
