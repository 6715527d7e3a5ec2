#!/usr/bin/env bash
# Pin everything with hashes: requirements.in and one Paddle each -> requirements*.txt. Needs uv (pip install uv).
set -euo pipefail
cd "$(dirname "$0")"
lock() {  # lock OUTPUT PLATFORM_FLAGS 'ONE PACKAGE PER LINE'
  printf '%s\n' "$3" | uv pip compile --quiet $2 --python-version 3.11 --generate-hashes --no-annotate --no-emit-index-url \
    --custom-compile-command 'bash lock.sh' --output-file "$1" -
}
needs=$(cat requirements.in)
lock requirements.txt --universal "$needs"$'\n''paddlepaddle==3.3.1'
# Paddle 2.6 was built against NumPy 1, which newer pyarrow refuses without saying so in its metadata.
old_numpy=$'numpy<2\npyarrow<22'
lock requirements-2.6.2.txt '--python-platform x86_64-manylinux_2_28' "$needs"$'\n''paddlepaddle==2.6.2'$'\n'"$old_numpy"
lock requirements-gpu.txt '--python-platform x86_64-manylinux_2_28' "$needs"$'\n''paddlepaddle-gpu==2.6.2'$'\n'"$old_numpy"
serving=$'starlette\nuvicorn\nuvloop; sys_platform != "win32"\nhttptools\nmsgspec\nprometheus-client\nredis\nhiredis'
lock requirements-serve.txt --universal $'numpy\nsafetensors\n'"$serving"
# Installed beside either Paddle: what both have is taken as it is there.
lock requirements-dev.txt '--universal --constraint requirements.txt --constraint requirements-2.6.2.txt' \
  $'pytest\nhypothesis\nhttpx\nschemathesis\n'"$serving"
