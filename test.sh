#!/usr/bin/env bash
# ruff and the test suite, in a virtual environment of their own. Further arguments go to pytest.
#   bash test.sh            on paddlepaddle 3.3.1
#   bash test.sh 2.6.2      on paddlepaddle 2.6.2, the newest that PyPI has for GPUs too
set -euo pipefail
cd "$(dirname "$0")"
case "${1:-3.3.1}" in
  2.6.2) environment=.venv-test-2.6.2 requirements=requirements-2.6.2.txt ;;
  *)     environment=.venv-test requirements=requirements.txt ;;
esac
case "${1:-}" in 2.6.2 | 3.3.1) shift ;; esac
bash setup.sh "$environment" "$requirements" requirements-dev.txt
"$environment/bin/python" -m ruff check --quiet .
"$environment/bin/python" -m pytest -q "$@"
