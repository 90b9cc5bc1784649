#!/usr/bin/env bash
# What full-size training costs on one card, in parts of at most ten minutes each, and one table of all.
#
#   scripts/bench/gpu.sh                    every part, then the table
#   scripts/bench/gpu.sh sdxl flux          these parts, then the table of all that were run so far
#   scripts/bench/gpu.sh --tiny             narrow networks, also on a CPU: proves that everything runs
#
# Results are in OUT (bench-gpu): a file for each part, table.md and table.json. Nothing is downloaded. Packages that are
# missing are named and nothing is run (exit 3). Where there is no package index, fetch wheels elsewhere and install them:
#   pip download --no-deps -d wheels -c constraints.txt diffusers peft …;  pip install --no-index --no-deps wheels/*.whl
set -u
here=$(cd "$(dirname "$0")" && pwd)
out=${OUT:-bench-gpu}
options=() parts=()
for word in "$@"; do
  case $word in
    --*) options+=("$word") ;;
    *) parts+=("$word") ;;
  esac
done
[ ${#parts[@]} -gt 0 ] || parts=(sdxl sdxl-faster sd35 sd35-faster sd35-compiled flux wan)
export OMP_WAIT_POLICY=passive PYTHONPATH=$here/../..${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1
failed=0
for part in "${parts[@]}"; do
  echo "== $part"
  timeout 600 "${PYTHON:-python}" "$here/gpu.py" "$part" --out "$out" ${options[@]+"${options[@]}"}
  code=$?
  [ $code -ne 3 ] || exit 3
  [ $code -eq 0 ] || { echo "$part ended with $code (124: ten minutes were not enough; rows measured by then are kept)"; failed=1; }
done
"${PYTHON:-python}" "$here/gpu.py" table --out "$out" && exit $failed
