#!/usr/bin/env bash
# Build an image, tag it, and push it to the registry that you name. Log in there first (docker login).
#   bash deploy/push.sh registry.example.org/shop/gru4rec            the server, tagged with the commit
#   bash deploy/push.sh registry.example.org/shop/gru4rec 1.2        the same, tagged 1.2
#   bash deploy/push.sh registry.example.org/shop/gru4rec-train 1.2 train    SageMaker's training jobs
# It prints the name by digest under which machines should fetch the image.
set -euo pipefail
cd "$(dirname "$0")/.."
image=${1:-} tag=${2:-} target=${3:-serve}
if [[ ! $image =~ ^[a-z0-9.-]+(:[0-9]+)?(/[a-z0-9._-]+)+$ ]] || [ $# -gt 3 ]; then
  echo "usage: bash deploy/push.sh REGISTRY/NAME [TAG] [serve | train], found ${*:-nothing}" >&2
  exit 2
fi
if [[ $target != serve && $target != train ]]; then
  echo "push.sh: found the target $target, expected serve or train" >&2
  exit 2
fi
if ! command -v docker > /dev/null; then echo "push.sh: found no docker, expected Docker's client" >&2; exit 2; fi
if [ -z "$tag" ]; then
  if [ -n "$(git status --porcelain --untracked-files=no)" ]; then
    echo "push.sh: found changes that are not committed, expected none, or a tag" >&2
    exit 2
  fi
  tag=$(git rev-parse --short=12 HEAD)
fi
docker build --file deploy/Dockerfile --target "$target" --tag "$image:$tag" .
docker push "$image:$tag"
docker inspect --format '{{index .RepoDigests 0}}' "$image:$tag"
