# make        what there is
# The environment is made when it is missing, and again when requirements.txt or pyproject.toml has changed.

PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --root-user-action=ignore

.PHONY: help study test lab
.DEFAULT_GOAL := help

help:
	@echo "make study   the quick study: phantoms, three initialisations, two seeds -> runs/quick/report/report.html"
	@echo "make lab     JupyterLab on the notebooks; start with 00_tour"
	@echo "make test    ruff and the tests; with real images where MEDNB_DATA has them"
	@echo
	@echo "Each makes the environment .venv first (once, some minutes); PYTHON=python3.12 chooses the Python, 3.11 to 3.13."
	@echo "More: $(BIN)/mednb --help"

study: $(READY)
	$(BIN)/mednb run notebooks/studies/quick.yml

test: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m pytest -n auto --dist worksteal

lab: $(READY)
	MEDNB_DATA="$${MEDNB_DATA:-$(CURDIR)/data}" $(BIN)/jupyter lab notebooks

$(READY): requirements.txt pyproject.toml
	@$(PYTHON) -c "import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))" 2>/dev/null || { \
	  found=$$($(PYTHON) -c "import platform; print(platform.python_version())" 2>/dev/null || echo missing); \
	  echo "mednb needs Python 3.11, 3.12 or 3.13, and $(PYTHON) is $$found; try: make study PYTHON=python3.12" >&2; \
	  exit 1; }
	@echo "Making .venv: torch and its friends are large; this takes 2 to 10 minutes, once."
	@$(PYTHON) -m venv .venv
	@$(PIP) --requirement requirements.txt
	@$(PIP) --no-deps --editable .
	@touch $@
