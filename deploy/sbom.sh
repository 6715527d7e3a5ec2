#!/usr/bin/env bash
# Write what Python packages an image holds, with their licences, as a CycloneDX SBOM in JSON.
#   bash deploy/sbom.sh sbom.json                          the server's image
#   bash deploy/sbom.sh sbom-train.json requirements.txt   that of the target `train`
# It installs the pinned packages as the Dockerfile does, in a directory that it removes again. What Debian's base image
# holds is not among them: `docker buildx build --sbom=true` adds that to an image that it pushes.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
requirements=${2:-$root/requirements-serve.txt}
if [ $# -lt 1 ] || [ $# -gt 2 ]; then
  echo "usage: bash deploy/sbom.sh OUTPUT.json [REQUIREMENTS_FILE], found ${*:-nothing}" >&2
  exit 2
fi
if [ ! -d "$(dirname "$1")" ] || [ -d "$1" ]; then
  echo "sbom.sh: found no directory for a file $1, expected one" >&2
  exit 2
fi
if [ ! -s "$requirements" ] || [ -d "$requirements" ]; then
  echo "sbom.sh: found no file $requirements, or an empty one, expected pinned requirements" >&2
  exit 2
fi
environment=$root/.venv-sbom
bash "$root/setup.sh" "$environment" "$root/requirements-sbom.txt"
packages=$(mktemp -d)
trap 'rm -rf "$packages"' EXIT
"$environment/bin/python" -m venv --without-pip "$packages"
"$environment/bin/python" -m pip --python "$packages/bin/python" install --disable-pip-version-check --quiet \
  --require-hashes --requirement "$requirements"
"$environment/bin/cyclonedx-py" environment --output-reproducible --output-file "$1" "$packages/bin/python"
echo "wrote $1"
