#!/usr/bin/env bash
# Every GPU measurement in one call of at most nine minutes, for a machine with Python, torch, triton
# and numpy and perhaps no network. Results: $OUT/gpu-<device>.json (default benchmarks/results).
#
#   bash benchmarks/gpu.sh pack       # where there is a network: four small packages into .gpu/
#   OUT=out COMMIT=$(git rev-parse --short=12 HEAD) bash benchmarks/gpu.sh
#   bash benchmarks/gpu.sh --device cpu --quick --out out     # tries the program without a GPU
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}

if [[ "${1:-}" == pack ]]; then
    exec "$python" -m pip install -q --no-deps --upgrade --target .gpu jaxtyping wadler-lindig tqdm safetensors
fi

# What the machine has comes first: .gpu only fills gaps.
export PYTHONPATH="$PWD:$PWD/kernels${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
missing=$("$python" -c 'import importlib.util as u
print(*[n for n in ("jaxtyping", "tqdm", "safetensors") if u.find_spec(n) is None])')
if [[ -n "$missing" && ! -d .gpu ]]; then
    echo "missing here: $missing; run 'bash benchmarks/gpu.sh pack' where there is a network, and bring .gpu along" >&2
    exit 2
fi
[[ -z "$missing" ]] || export PYTHONPATH="$PYTHONPATH:$PWD/.gpu"
exec timeout 540 "$python" -m benchmarks.gpu --out "${OUT:-benchmarks/results}" "$@"
