#!/usr/bin/env bash
# Builds the three images: REGISTRY/flowstill-{operator,trainer,evaluator}:TAG, ready to be pushed.
# Settings: REGISTRY (prefix; default none), TAG (default: the chart's appVersion), BUILDER (podman, buildah or docker),
# BASE_IMAGE (any Debian or Ubuntu with Python 3.12 or newer, such as a CUDA runtime image; default: debian:trixie-slim),
# EXTRAS (of pyproject.toml, for trainer and evaluator, such as "trainer evaluator libero"; default: "trainer evaluator").
set -euo pipefail
cd "$(dirname "$0")/.."
tag=${TAG:-$(sed -n 's/^appVersion: *"\{0,1\}\([^"]*\)"\{0,1\}$/\1/p' helm/flowstill/Chart.yaml)}
prefix=${REGISTRY:+${REGISTRY%/}/}
base=(${BASE_IMAGE:+--build-arg BASE_IMAGE="$BASE_IMAGE"})
extras=(${EXTRAS:+--build-arg EXTRAS="$EXTRAS"})

builder=${BUILDER:-}
for candidate in podman buildah docker; do
  [ -n "$builder" ] || ! command -v "$candidate" >/dev/null || builder=$candidate
done
[ -n "$builder" ] || { echo "images: install podman, buildah or docker, or name one: make images BUILDER=..." >&2; exit 1; }

build() { "$builder" build "$@" .; }
build -f images/operator/Containerfile "${base[@]}" -t "${prefix}flowstill-operator:$tag"
build -f images/learning/Containerfile "${base[@]}" "${extras[@]}" -t "${prefix}flowstill-learning:$tag"
for part in trainer evaluator; do
  build -f images/child/Containerfile --target "$part" --build-arg LEARNING_IMAGE="${prefix}flowstill-learning:$tag" \
    -t "${prefix}flowstill-$part:$tag"
done
echo "images: ${prefix}flowstill-{operator,trainer,evaluator}:$tag; push them, then set the chart's values *.image.repository"
