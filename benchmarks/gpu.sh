#!/usr/bin/env bash
# Everything that one modern NVIDIA GPU can tell, in one call of under ten minutes.
#
#     CAPSULE_LIGHTNING_DATA=/path/to/data benchmarks/gpu.sh
#
# JSON files, tables and logs go to $OUT. Each part has its own time limit, and one that fails stops no other; the status
# is 1 where any failed. $PYTHON is the interpreter, $ACCURACY the options of the run to accuracy.
set -u
cd "$(dirname "$0")/.."
OUT=${OUT:-benchmarks/results/gpu}
PYTHON=${PYTHON:-python}
recipe=mnist_fast.yaml
[ -f "configs/$recipe" ] || recipe=mnist.yaml
ACCURACY=${ACCURACY:---config $recipe --config trainer/gpu.yaml --set trainer.max_epochs=3}
export WANDB_MODE=${WANDB_MODE:-offline}
mkdir -p "$OUT"
failed=()

part() { # NAME SECONDS COMMAND...
    local name=$1 seconds=$2 before=$SECONDS status=0
    shift 2
    timeout --kill-after=2 "$seconds" "$@" >"$OUT/$name.log" 2>&1 || status=$?
    echo "== $name: status $status after $((SECONDS - before)) s: $*"
    tail -n 15 "$OUT/$name.log"
    [ "$status" -eq 0 ] || failed+=("$name")
}

benchmark() { # NAME SECONDS SCRIPT OPTIONS...
    local name=$1 seconds=$2 script=$3
    shift 3
    part "$name" "$seconds" "$PYTHON" "benchmarks/$script.py" --device cuda --out "$OUT/$name.json" "$@"
}

part device 10 nvidia-smi
benchmark step 90 step
benchmark step_compiled 110 step --compile reduce-overhead
benchmark routing 50 routing --backends torch triton --num_in 1152 4608 --num_out 10 50 --dims 8x16 --repeats 5
# shellcheck disable=SC2086  # words of a command line
benchmark time_to_accuracy 75 time_to_accuracy --seeds 0 $ACCURACY
benchmark floor 35 floor
export OMP_NUM_THREADS=1  # tests run side by side
part kernels 90 "$PYTHON" -m pytest tests/kernels -m "not slow" -n auto
part configs 130 "$PYTHON" -m pytest tests/configs -m nightly -k gpu -n auto

if [ "${#failed[@]}" -gt 0 ]; then
    echo "failed: ${failed[*]}; see the logs in $OUT"
    exit 1
fi
echo "all in $OUT"
