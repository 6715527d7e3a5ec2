#!/usr/bin/env bash
# ruff and the test suite, in a virtual environment of their own: first what can run two at a time, then the rest.
# Further arguments go to pytest.
#   bash test.sh            on paddlepaddle 3.3.1
#   bash test.sh 2.6.2      on paddlepaddle 2.6.2, the newest that PyPI has for GPUs too
set -euo pipefail
cd "$(dirname "$0")"
case "${1:-3.3.1}" in
  2.6.2) environment=.venv-test-2.6.2 requirements=requirements-2.6.2.txt ;;
  *)     environment=.venv-test requirements=requirements.txt ;;
esac
case "${1:-}" in 2.6.2 | 3.3.1) shift ;; esac
case "${1:--}" in
  -*) ;;
  *) if [ ! -e "${1%%::*}" ]; then
       echo "test.sh: found $1, expected 2.6.2 or 3.3.1, then flags of pytest or files in tests/" >&2
       exit 2
     fi ;;
esac
bash setup.sh "$environment" "$requirements" requirements-dev.txt
"$environment/bin/python" -m ruff check --quiet .
run() {  # 5: none of the tests that were asked for is of this kind
  "$environment/bin/python" -m pytest -q "$@" || [ $? = 5 ]
}
status=0
run -m "not alone" --numprocesses 2 --dist worksteal "$@" || status=1
run -m alone "$@" || status=1
exit $status
