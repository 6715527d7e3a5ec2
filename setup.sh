#!/usr/bin/env bash
# Make a virtual environment with the packages that the given requirements files pin. If it has them already, leave it.
#   bash setup.sh .venv requirements.txt
# PYTHON names the interpreter (Python 3.11 to 3.13). Without it, python3.11, python3.12, python3.13 and python3 are
# tried in turn.
set -euo pipefail
if [ $# -lt 2 ]; then
  echo "usage: bash setup.sh ENVIRONMENT REQUIREMENTS_FILE..." >&2
  exit 2
fi
environment=$1
shift
for file in "$@"; do
  if [ ! -f "$file" ]; then echo "setup.sh: found no file $file, expected pinned requirements" >&2; exit 2; fi
done
if [ -e "$environment" ] && [ ! -e "$environment/pyvenv.cfg" ]; then  # never delete that
  echo "setup.sh: found $environment, which is no virtual environment, expected one or nothing" >&2
  exit 2
fi

supported='import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))'
interpreter=
candidates=${PYTHON:-python3.11 python3.12 python3.13 python3}
for candidate in $candidates; do
  if "$candidate" -c "$supported" 2>/dev/null; then interpreter=$candidate; break; fi
done
if [ -z "$interpreter" ]; then
  echo "setup.sh: found no Python among $candidates, expected 3.11 to 3.13 (set PYTHON)" >&2
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
