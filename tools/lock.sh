#!/bin/sh
# Writes requirements.lock. In: the path of uv. Out: exact versions for every Python, Linux (x86-64, arm64), macOS (arm64)
# and Windows; it stops at a version that lacks a wheel for one of them.
#
# CUDA packages are left out, because torch's own metadata pins them where torch needs them. So a machine without a GPU,
# whose torch is a CPU build, does not download gigabytes.
set -eu
uv=$1
export MACOSX_DEPLOYMENT_TARGET=14.0  # the oldest that torch has wheels for
made=$(mktemp)
trap 'rm -f "$made" "$made.all"' EXIT
"$uv" pip compile --quiet --universal --python-version 3.11 --all-extras --no-annotate --no-header pyproject.toml > "$made.all"
grep -vE '^(nvidia-|cuda-|triton)' "$made.all" > "$made"
if grep -E '^[^;]*\+' "$made"; then echo "a version above exists on one index only; lock against the plain index" >&2; exit 1; fi
for platform in x86_64-manylinux_2_28 aarch64-manylinux_2_28 aarch64-apple-darwin x86_64-pc-windows-msvc; do
    "$uv" pip compile --quiet --python-platform $platform --python-version 3.11 --all-extras --only-binary :all: \
        --constraint "$made" pyproject.toml > /dev/null
done
{ echo "# Made by \`make lock\`. What \`make demo\` and \`make test\` install; requirements.txt has the ranges."; cat "$made"; } > requirements.lock
