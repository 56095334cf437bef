#!/usr/bin/env bash
# bash tests/sanitize.sh [PYTEST_ARGS]: the kernels' tests, with the address and undefined-behaviour sanitizers (gcc).
# PYTHON chooses the interpreter. Nothing is left in the user's cache.
set -euo pipefail
cd "$(dirname "$0")/.."
RNNBENCH_KERNEL_DIR=$(mktemp -d)
trap 'rm -rf "$RNNBENCH_KERNEL_DIR"' EXIT
export RNNBENCH_KERNEL_DIR
export CXX=${CXX:-g++}
export RNNBENCH_KERNEL_FLAGS="-fsanitize=address,undefined -fno-sanitize-recover=all -O1 -g -DSANITIZE"
# Python and torch are not built with them, and keep memory to the end.
export ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1
LD_PRELOAD=$("$CXX" -print-file-name=libasan.so) \
  "${PYTHON:-.venv/bin/python}" -m pytest -n 0 --timeout 900 tests/test_kernels.py tests/test_engines.py "$@"
