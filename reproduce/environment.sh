# Sourced by the pipelines: `python` becomes one that has Paddle; .venv is set up where the caller's own has none.
if ! python -c 'import sys, importlib.util as i; sys.exit(i.find_spec("paddle") is None)' 2>/dev/null; then
  bash setup.sh .venv requirements.txt
  PATH=$PWD/.venv/bin:$PATH
fi
