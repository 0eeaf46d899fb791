PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test lint comfyui

demo: .venv/installed
	$(BIN)/tav demo

test: .venv/installed comfyui
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

lint: .venv/installed
	$(BIN)/ruff check . && $(BIN)/ruff format --check .

.venv/installed: pyproject.toml tests/constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint tests/constraints.txt --editable ".[dev]"
	rm -f .venv/comfyui-requirements.txt
	touch $@

# What the ComfyUI that the tests run on needs, where there is one: once for each change of its list.
comfyui: .venv/installed
	@host="$$($(BIN)/python tests/find_comfyui.py)"; listed=.venv/comfyui-requirements.txt; \
	if [ -n "$$host" ] && ! cmp -s "$$host/requirements.txt" $$listed; then \
	    echo "Installing what $$host needs"; \
	    $(BIN)/python -m pip install --quiet --constraint tests/constraints.txt --requirement "$$host/requirements.txt" \
	        && cp "$$host/requirements.txt" $$listed; \
	fi
