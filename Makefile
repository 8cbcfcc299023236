# make demo        everything once, for real, on this machine        make demo-stop   its end
# make test        all tests (what CI runs)                          make test-unit   the quick ones
# make lint        ruff and mypy --strict                            make bench       figures into docs/benchmarks.md
.PHONY: help demo demo-stop test test-unit lint types bench docs clean environment

ENV = . build/environment;
# The tests mostly wait for processes: four modules at a time keep two cores busy.
SPREAD = -n 4 --dist loadscope
IS_ROOT := $(shell test "$$(id -u)" = 0 && echo yes)
# Tests that need root are deselected for a user, and pytest prints how many.
SELECT = $(if $(IS_ROOT),,-m 'not root')

help:
	@sed -n 's/^# //p' Makefile

environment:
	@sh demo/environment.sh

demo: environment
	@$(ENV) exec "$$VENV/bin/multibot" --home "$$DEMO" demo

demo-stop: environment
	@$(ENV) exec "$$VENV/bin/multibot" --home "$$DEMO" demo --stop

test: environment lint
	@$(ENV) exec "$$VENV/bin/pytest" $(SELECT) $(SPREAD) tests

test-unit: environment
	@$(ENV) exec "$$VENV/bin/pytest" $(SELECT) tests/unit tests/test_layout.py

lint: environment types
	@$(ENV) "$$VENV/bin/ruff" check --quiet . && "$$VENV/bin/ruff" format --quiet --check .

# setuptools' editable mapping cannot be followed by mypy (runner/ is imported as multibot_runner): links can.
types: environment
	@mkdir -p build/types
	@for p in multibot_plugin:multibot_plugin multibot_runner:runner multibot_hooks:hooks multibot_templates:templates multibot_demo:demo; do \
	    ln -sfn "../../$${p#*:}" "build/types/$${p%%:*}"; done
	@$(ENV) cd build/types && "$$VENV/bin/mypy" --config-file ../../setup.cfg --no-error-summary \
	    -p multibot_plugin -p multibot_runner -p multibot_hooks -p multibot_templates -p multibot_demo

bench: environment
	@$(ENV) exec "$$VENV/bin/python" bench/run.py

docs: environment
	@$(ENV) exec "$$VENV/bin/python" docs/generate.py

clean:
	rm -rf build dist .venv *.egg-info .mypy_cache .ruff_cache
