test: .venv/ready
	PYTHONPATH=. .venv/bin/python -m pytest -q tests

.venv/ready:
	python3 -m venv .venv
	.venv/bin/pip install -q pydantic pyyaml click pytest
	touch $@

.PHONY: test
