# Every command that a newcomer needs. Each target first makes the environment if it is missing.
# Works with GNU make 3.81 and later (macOS has 3.81).

PYTHON ?= python3
CORES ?= $(shell nproc 2>/dev/null || sysctl -n hw.ncpu 2>/dev/null || echo 1)
# Processes for the fast tests; each takes up to 3 GB.
WORKERS ?= $(shell [ $(CORES) -gt 4 ] && echo 4 || echo $(CORES))
# Passed on to the command: `make tiny ARGS=-n`, `make tiny ARGS=figure_2`, `make test ARGS="-k learner"`.
ARGS ?=

PYTHON_IS_RIGHT := import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
PYTEST := $(BIN)/python -m pytest
# Snakemake finds profiles/default by itself.
SNAKEMAKE := $(BIN)/snakemake --cores $(CORES)
# More seeds than in the scale's file: `make tiny SEEDS=3` derives a scale file and runs it.
SEEDS ?=
DERIVED = .cache/scales/$(1)-$(SEEDS)-seeds.yaml
CONFIG = $(if $(SEEDS),$(call DERIVED,$(1)),config/$(1).yaml)

# Environment variables of every process, set only here. Inside a job, Snakemake sets the numbers of
# threads again, from the rule's `threads`.
export OMP_NUM_THREADS := 1
export OPENBLAS_NUM_THREADS := 1
export MKL_NUM_THREADS := 1
export VECLIB_MAXIMUM_THREADS := 1
export TOKENIZERS_PARALLELISM := false
export HF_HUB_DISABLE_TELEMETRY := 1
export MPLBACKEND := Agg

# Snakemake keeps a cache in ~/.cache, which it cannot do if the home is missing or read-only.
ifeq ($(shell d="$${XDG_CACHE_HOME:-$$HOME/.cache}"; mkdir -p "$$d" 2>/dev/null && test -w "$$d" && echo yes),)
export XDG_CACHE_HOME := $(CURDIR)/.cache
endif

.DEFAULT_GOAL := help
.PHONY: help tiny gpu smoke findings report site test test-integration smoke-trl engines test-slow faults lint format lock clean clean-results
# A recipe that fails leaves no stamp behind.
.DELETE_ON_ERROR:

help: ## list the targets
	@echo "make <target>, with CORES=$(CORES) and PYTHON=$(PYTHON) unless told otherwise:"
	@awk -F ':.*## ' '/^[a-z.-]+:.*## / { printf "  %-16s %s\n", $$1, $$2 }' Makefile

.venv: .venv/.ready ## make the environment from envs/core.txt
	@:

tiny: .venv/.ready ## the study in miniature, on a laptop: figures and tables in results/tiny
	@$(if $(SEEDS),$(BIN)/dpg config derive -c config/tiny.yaml --seeds $(SEEDS) --out $(call CONFIG,tiny))
	@$(BIN)/dpg run -c $(call CONFIG,tiny) --cores $(CORES) $(ARGS)

# Without a GPU it stops before the first job and says what is missing; ARGS=-n lists the jobs.
gpu: .venv/.ready ## on one GPU: a real instruct model learns to answer in Spanish (a dry run: ARGS=-n)
	@$(BIN)/dpg run -c config/gpu.yaml --cores $(CORES) \
		results/gpu/runs/lambada-es/adam/seed0/run.json $(ARGS)

smoke: .venv/.ready ## run every rule once, at sizes too small for results
	@$(BIN)/dpg run -c config/smoke.yaml --cores $(CORES) $(ARGS)

findings: .venv/.ready ## small experiments that explain results: docs/findings.md
	@$(BIN)/dpg run -c config/tiny.yaml --cores $(CORES) findings $(ARGS)
	@$(BIN)/dpg findings page results/tiny/findings --docs docs

# SCALE is the name of a file in config/, the path of any scale file, or `reference`.
SCALE_FILE = $(if $(filter %.yaml %.yml,$(SCALE)),$(SCALE),config/$(or $(SCALE),tiny).yaml)
SEEDS_FILE = $(call DERIVED,$(basename $(notdir $(SCALE_FILE))))
report: .venv/.ready ## one HTML page of a study's results: SCALE=tiny, path/to/mine.yaml or reference
	@$(if $(SEEDS),$(BIN)/dpg config derive -c $(SCALE_FILE) --seeds $(SEEDS) --out $(SEEDS_FILE))
	@if [ "$(SCALE)" = reference ]; then \
		$(BIN)/dpg report kept results/reference/tiny --out results/reference.html; \
	else \
		$(BIN)/dpg report page --appendix -c $(if $(SEEDS),$(SEEDS_FILE),$(SCALE_FILE)); \
	fi

# A separate environment, so that the site can be built without .venv.
SITE_ENVIRONMENT := .environments/docs

site: $(SITE_ENVIRONMENT)/.ready ## the documentation as a site, in build/site/index.html
	@NO_MKDOCS_2_WARNING=1 $(SITE_ENVIRONMENT)/bin/mkdocs build --strict --quiet
	@echo "build/site/index.html; to read it with search: $(PYTHON) -m http.server -d build/site"

$(SITE_ENVIRONMENT)/.ready: docs/requirements.txt
	@rm -rf $(SITE_ENVIRONMENT)
	@$(PYTHON) -m venv $(SITE_ENVIRONMENT)
	@$(SITE_ENVIRONMENT)/bin/python -m pip --disable-pip-version-check install --quiet -r $<
	@touch $@

QUICK := not slow and not network and not faults
IN_PARALLEL := -n $(WORKERS) --dist worksteal

test: .venv/.ready ## the unit tests
	@$(PYTEST) -m "$(QUICK) and not integration" $(IN_PARALLEL) $(ARGS)

test-integration: .venv/.ready ## the tests of several parts together: runs, servers, the workflow
	@$(PYTEST) -m "$(QUICK) and integration" $(IN_PARALLEL) $(ARGS)

# The quickest of the other engines.
smoke-trl: .venv/.ready ## the smoke scale's generators with TRL, in its own environment
	@$(BIN)/dpg environment trl
	@$(PYTEST) -m slow tests/workflow/test_smoke_trl.py $(ARGS)

# The defaults are those of CI. The full campaign: make faults KILLS=50 BODIES=10000.
KILLS ?= 5
BODIES ?= 1000
faults: .venv/.ready ## processes killed, servers that fail, disks that fill (KILLS=50 BODIES=10000)
	@$(PYTEST) -m faults -s --timeout=4000 tests/faults --kills $(KILLS) --bodies $(BODIES) $(ARGS)

test-slow: .venv/.ready ## the other tests: minutes each, some need a package registry
	@$(PYTEST) -m "(slow or network) and not faults" $(ARGS)

# vLLM's environment is the largest, so only the nightly CI makes it:
# `make engines ENGINES="trl verl easydel vllm"`.
ENGINES ?= trl verl easydel

# Slurm is installed only for root, as in a container.
engines: .venv/.ready ## what the slow tests of TRL, verl, EasyDeL and Slurm need; without it they are skipped
	@for name in $(ENGINES); do $(BIN)/dpg environment $$name || exit 1; done
	@if [ "$$(id -u)" = 0 ] && command -v apt-get && ! command -v slurmctld; then \
		export DEBIAN_FRONTEND=noninteractive; \
		apt-get update -qq && apt-get install -y -qq slurm-wlm munge || \
		echo "no Slurm from Debian's packages: its tests are skipped" >&2; \
	fi > /dev/null

lint: .venv/.ready ## check style, types, spelling, the schema of config/ and the workflow
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/snakefmt --check Snakefile workflow
	@$(BIN)/mypy
	@$(BIN)/codespell
	@$(BIN)/python -m dpg.config.schema --check
	@$(BIN)/python .ci/workflow_lint.py $(SNAKEMAKE) --lint --configfile config/smoke.yaml

format: .venv/.ready ## format the code and the workflow
	@$(BIN)/ruff check --fix
	@$(BIN)/ruff format
	@$(BIN)/snakefmt Snakefile workflow

# GPU libraries are left out: PyTorch brings its own, and only on Linux.
LOCKED = $(PIP) list --format=freeze --exclude pip --exclude wheel --exclude-editable

# uv finds versions that fit together; it has its own environment.
LOCKER := .environments/uv
# Only from the command line: some shells export an ENV of their own.
OTHER = $(if $(filter command%,$(origin ENV)),$(ENV))

lock: .venv/.ready $(if $(OTHER),$(LOCKER)/.ready) ## write envs/core.txt from .venv, or ENV=trl: envs/trl.txt
ifneq ($(OTHER),)
	@$(BIN)/python -m dpg.locks $(OTHER) --uv $(LOCKER)/bin/uv $(if $(UPGRADE),--upgrade)
else
	@$(PIP) check
	@sed '/^[^#]/,$$d' envs/core.txt > envs/core.txt.new
	@$(LOCKED) | sed 's/+.*//' | grep -v -i -E '^(nvidia|cuda|triton)' | LC_ALL=C sort -f \
		>> envs/core.txt.new
	@mv envs/core.txt.new envs/core.txt
	@touch .venv/.ready
	@echo "envs/core.txt: $$(grep -c '==' envs/core.txt) packages locked"
endif

$(LOCKER)/.ready:
	@rm -rf $(LOCKER)
	@$(PYTHON) -m venv $(LOCKER)
	@$(LOCKER)/bin/python -m pip --disable-pip-version-check install --quiet uv==0.13.9
	@touch $@

clean: ## remove the environment and the tools' caches; results stay
	@rm -rf .venv .mypy_cache .pytest_cache .ruff_cache build *.egg-info
	@for folder in dpg tests; do \
		[ ! -d $$folder ] || find $$folder -name __pycache__ -type d -prune -exec rm -rf {} +; \
	done

clean-results: ## remove the results of one scale: make clean-results SCALE=tiny
	@case "$(SCALE)" in \
		""|reference|*/*|.*) echo "say which: make clean-results SCALE=smoke (or tiny, gpu, paper)"; \
			exit 1;; \
	esac
	rm -rf "results/$(SCALE)"

# .venv/.unfinished exists during an installation. A killed make leaves it behind, and the next make
# then starts over.
.venv/.ready: envs/core.txt pyproject.toml
	@if [ -e .venv/.unfinished ] || { [ -e .venv ] && ! $(PIP) --version >/dev/null 2>&1; }; then \
		echo "The environment in .venv is half-made: starting over."; \
		rm -rf .venv; \
	fi
	@[ -e .venv ] || $(PYTHON) -c '$(PYTHON_IS_RIGHT)' 2>/dev/null || { \
		echo "Python 3.11 to 3.13 is needed; $(PYTHON) is" \
			"$$($(PYTHON) --version 2>/dev/null || echo 'not there')."; \
		for other in python3.13 python3.12 python3.11; do \
			if $$other -c '$(PYTHON_IS_RIGHT)' 2>/dev/null; then \
				echo "This machine has another: make PYTHON=$$other $(MAKECMDGOALS)"; \
				exit 1; \
			fi; \
		done; \
		echo "Install one and name it: make PYTHON=/path/to/python3.12 $(MAKECMDGOALS)"; \
		exit 1; }
	@[ -e .venv ] || $(PYTHON) -m venv .venv || { \
		rm -rf .venv; \
		echo "$(PYTHON) cannot make an environment (on Debian: apt-get install python3-venv)."; \
		exit 1; }
	@touch .venv/.unfinished
	@echo "Installing $$(grep -c '==' envs/core.txt) packages into .venv, which takes a few minutes."
	@$(PIP) install --quiet -r envs/core.txt
	@$(PIP) install --quiet --no-deps --no-build-isolation -e .
	@rm .venv/.unfinished
	@touch $@
