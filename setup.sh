#!/usr/bin/env bash
# Make a virtual environment with what the given requirements files pin, or leave it as it is if it has that already.
#   bash setup.sh .venv requirements.txt
# PYTHON names the interpreter (Python 3.11 to 3.13); without it python3.11, python3.12, python3.13 and python3 are tried.
set -euo pipefail
environment=$1
shift

supported='import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))'
interpreter=
for candidate in ${PYTHON:-python3.11 python3.12 python3.13 python3}; do
  if "$candidate" -c "$supported" 2>/dev/null; then interpreter=$candidate; break; fi
done
if [ -z "$interpreter" ]; then
  echo "setup.sh: found no Python among ${PYTHON:-python3.11 python3.12 python3.13 python3}, expected 3.11 to 3.13 (set PYTHON)" >&2
  exit 2
fi

wanted="$("$interpreter" -VV) $(cat "$@" | cksum)"
stamp=$environment/.installed
if [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ]; then exit 0; fi
rm -rf "$environment"
echo "setting up $environment with $*"
"$interpreter" -m venv "$environment"
files=()
for file in "$@"; do files+=(--requirement "$file"); done
"$environment/bin/python" -m pip install --quiet --disable-pip-version-check --require-hashes "${files[@]}"
echo "$wanted" > "$stamp"
