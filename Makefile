# Each command does all the set-up it needs, in .venv.

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
DEMO   ?= .demo
STACK  ?= .stack
SITE   ?= site

# One thread per process: parallel tasks use the cores, and a second pool of threads only slows them.
export OMP_NUM_THREADS ?= 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export DO_NOT_TRACK := 1
export PREFECT_SERVER_ANALYTICS_ENABLED := false

.PHONY: help demo docs stack stack-demo test test-all lint clean

help:
	@echo "make demo      train a few small fine-tunes on real images, merge them, print the table"
	@echo "make test      lint, type check, and every test that takes seconds"
	@echo "make test-all  the slow tests too"
	@echo "make stack     start the platform here: S3, Prefect, Dask (Ctrl-C stops it)"
	@echo "make stack-demo  beside it: fine-tunes land, and the platform merges by itself"
	@echo "make docs      build the documentation as a site in $(SITE); a warning is an error"
	@echo "make clean     remove $(VENV), $(DEMO) and $(SITE)"

$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "esmerge needs Python 3.11 or newer: make PYTHON=python3.12")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing into $(VENV) (PyTorch is large: a few minutes the first time)"
	@$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[test]'
	@touch $@

demo: $(VENV)/.installed
	@$(BIN)/python -m demo --out $(DEMO)
	@PREFECT_HOME=$(abspath $(DEMO))/prefect $(BIN)/esmerge merge $(DEMO)/recipe.yaml
	@echo
	@echo "Next: $(BIN)/esmerge show --store $(DEMO)/store demo"
	@echo "      $(BIN)/esmerge report $(DEMO)/store demo -o $(DEMO)/report.html"
	@echo "      edit a copy of $(DEMO)/recipe.yaml and run: $(BIN)/esmerge merge YOUR_RECIPE"

# exec: a signal to make's child is a signal to the stack.
stack: $(VENV)/.installed
	@exec $(BIN)/python -m deployments.stack --state $(STACK)

stack-demo: $(VENV)/.installed
	@$(BIN)/python -m deployments.stack_demo --state $(STACK) --demo $(DEMO) $(STACK_DEMO_FLAGS)

# Not --quiet: what it does not print, --strict does not count.
docs: $(VENV)/.installed
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --clean --site-dir $(abspath $(SITE))
	@echo "open $(SITE)/index.html"

lint: $(VENV)/.installed
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

# Two at a time: most tests wait for servers of their own.
test: lint
	@$(BIN)/python -m pytest -n 2 --dist worksteal --durations=20

test-all: test
	@$(BIN)/python -m pytest -m "slow and not alone" -n 2 --dist loadscope --timeout=900 --durations=20
	@$(BIN)/python -m pytest -m "slow and alone" --timeout=900 --durations=0

clean:
	rm -rf $(VENV) $(DEMO) $(SITE)
