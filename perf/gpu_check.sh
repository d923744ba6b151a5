#!/usr/bin/env bash
# Checks and speed on one CUDA GPU, from a bare machine with Python 3.11 and torch 2.11 or newer.
#
#   perf/gpu_check.sh WORK_FOLDER [SHAPE ...]        shapes: 0.5B 1B 8B (default: all three)
#
# Without vLLM beside the given torch it unpacks what a planned pass needs of vLLM 0.26.0's wheel (for torch 2.11) into
# WORK_FOLDER: the Python files, the stable-ABI library and FlashAttention 3, not FlashAttention 2 and the mixture-of-
# experts kernels. The wheel is looked for in WORK_FOLDER/wheels first, then fetched with pip. Nothing of the given
# environment is changed: packages that are missing go to WORK_FOLDER/packages.
# WORK_FOLDER/report.txt keeps all that is printed. Exit status: 0 only if every step passed.
set -euo pipefail

if [ "$#" -lt 1 ]; then
    sed -n '2,10p' "$0"
    exit 2
fi
work=$(mkdir -p "$1" && cd "$1" && pwd)
shift
shapes=("$@")
if [ "${#shapes[@]}" -eq 0 ]; then
    shapes=(0.5B 1B 8B)
fi
root=$(cd "$(dirname "$0")/.." && pwd)
python=${PYTHON:-python3}
version=0.26.0
packages="$work/packages"
mkdir -p "$packages" "$work/wheels"
export PYTHONPATH="$packages:$(dirname "$root")${PYTHONPATH:+:$PYTHONPATH}"
export TRANSFERGRID_CACHE="$work/cache"

if [ "$(basename "$root")" != transfergrid ]; then
    echo "the checkout is called '$(basename "$root")'; expected 'transfergrid', which is the package's name" >&2
    exit 2
fi
"$python" -c 'import torch; assert torch.cuda.is_available(), "torch sees no CUDA device"; print(torch.__version__)'

has() { "$python" -c "import importlib.util, sys; sys.exit(importlib.util.find_spec('$1') is None)"; }

if ! has vllm; then
    wheel=$(find "$work/wheels" -name "vllm-$version*.whl" -print -quit)
    if [ -z "$wheel" ]; then
        "$python" -m pip download --no-deps --dest "$work/wheels" "vllm==$version"
        wheel=$(find "$work/wheels" -name "vllm-$version*.whl" -print -quit)
    fi
    "$python" - "$wheel" "$packages" <<'PY'
import sys, zipfile

left_out = ("_moe_C", "vllm_flash_attn/_vllm_fa2_C", "_flashmla", "_qutlass")
with zipfile.ZipFile(sys.argv[1]) as wheel:
    for name in wheel.namelist():
        if not any(part in name for part in left_out):
            wheel.extract(name, sys.argv[2])
PY
fi
missing=()
for pair in pydantic msgspec zmq:pyzmq fastapi starlette openai openai_harmony:openai-harmony cachetools cbor2 \
    pybase64 partial_json_parser:partial-json-parser transformers peft safetensors polars click rich psutil yaml:pyyaml; do
    if ! has "${pair%%:*}"; then
        missing+=("${pair##*:}")
    fi
done
if [ "${#missing[@]}" -gt 0 ]; then
    "$python" -m pip install --no-deps --target "$packages" "${missing[@]}"
fi

status=0
run() {
    echo "== $*"
    if ! "$python" -m "$@"; then
        echo "FAILED: $*"
        status=1
    fi
}
check() {
    nvidia-smi || echo "nvidia-smi is not here"
    run transfergrid.perf.gpu checks
    for shape in "${shapes[@]}"; do
        run transfergrid.perf.gpu speed --shape "$shape"
    done
    run transfergrid.perf.peak
    return "$status"
}
check 2>&1 | tee "$work/report.txt"
