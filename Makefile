# make demo        everything once, for real, on this machine        make demo-stop   its end
# make test        all tests (what CI runs)                          make test-unit   the quick ones
# make lint        ruff and mypy --strict                            make bench       figures into docs/benchmarks.md
# make environment the virtual environment, and how to enter it      make docs        the generated parts of docs/
# make bench-supervisors   beside stock supervisord, circus, pm2      make clean       what make made, but for the demo's state
# make chaos       faults in random order for MINUTES=5, with figures (SEED=... repeats a run)

.PHONY: help demo demo-stop test test-user test-unit lint types bench bench-costs bench-supervisors chaos docs clean environment venv

ENV = . build/environment;
# The tests mostly wait for processes: eight modules at a time keep two cores busy, the long ones (acceptance) first.
SPREAD = -n 8 --dist loadscope --no-loadscope-reorder
IS_ROOT := $(shell test "$$(id -u)" = 0 && echo yes)
# Tests that need root are deselected for a user, and pytest prints how many.
SELECT = $(if $(IS_ROOT),,-m 'not root')

help:
	@sed -n '1,/^$$/ s/^# //p' Makefile

# What to type next is printed: root in a directory that is closed to the bots' user ids gets one elsewhere.
environment: venv
	@$(ENV) echo ". $${VENV#"$$(pwd -P)/"}/bin/activate"

venv:
	@sh demo/environment.sh

demo: venv
	@$(ENV) exec "$$VENV/bin/multibot" --home "$$DEMO" demo

demo-stop: venv
	@$(ENV) exec "$$VENV/bin/multibot" --home "$$DEMO" demo --stop

test: venv lint
	@$(ENV) exec "$$VENV/bin/pytest" $(SELECT) $(SPREAD) tests

# What may differ for an ordinary user, the long ones first: CI runs these after everything as root.
USER_TESTS = $(addprefix tests/acceptance/test_,readme.py fleet.py secrets.py) \
    $(addprefix tests/integration/test_,cli_init.py cli_bot_foreground.py database_embedded.py environment.py etc.py \
    lifecycle.py sandbox_process.py) \
    $(addprefix tests/integration/test_runner_,forms.py interpreters.py sd_notify.py start.py stop.py sweep.py) \
    $(addprefix tests/unit/test_,home.py journal.py bots_files.py bots_uids.py cli_logs.py runner_*.py) tests/test_layout.py

test-user: venv
	@$(ENV) exec "$$VENV/bin/pytest" $(SELECT) $(SPREAD) $(USER_TESTS)

test-unit: venv
	@$(ENV) exec "$$VENV/bin/pytest" $(SELECT) tests/unit tests/test_layout.py

lint: venv types
	@$(ENV) "$$VENV/bin/ruff" check --quiet . && "$$VENV/bin/ruff" format --quiet --check .

# setuptools' editable mapping cannot be followed by mypy (runner/ is imported as multibot_runner): links can.
types: venv
	@mkdir -p build/types
	@for p in multibot_plugin:multibot_plugin multibot_runner:runner multibot_hooks:hooks multibot_templates:templates multibot_demo:demo; do \
	    ln -sfn "../../$${p#*:}" "build/types/$${p%%:*}"; done
	@$(ENV) cd build/types && "$$VENV/bin/mypy" --config-file ../../setup.cfg --no-error-summary \
	    -p multibot_plugin -p multibot_runner -p multibot_hooks -p multibot_templates -p multibot_demo

bench: venv bench-supervisors bench-costs
	@$(ENV) exec "$$VENV/bin/python" bench/run.py

# What the runner adds to each kind of bot, and 50 of them at once.
bench-costs: venv
	@$(ENV) exec "$$VENV/bin/python" bench/costs.py

# Beside stock supervisord, circus and pm2, which are installed below build/bench (pm2 needs node and npm).
bench-supervisors: venv
	@$(ENV) exec "$$VENV/bin/python" bench/supervisors.py

chaos: venv
	@$(ENV) exec "$$VENV/bin/python" tests/chaos.py --minutes $(or $(MINUTES),5) $(if $(SEED),--seed $(SEED))

docs: venv
	@$(ENV) exec "$$VENV/bin/python" docs/generate.py

clean:
	rm -rf build dist .venv *.egg-info .mypy_cache .ruff_cache
