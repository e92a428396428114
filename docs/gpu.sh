#!/bin/sh
# One call on a machine with a GPU: see gpu.md.
#   sh docs/gpu.sh check               facts, checks and speed
#   sh docs/gpu.sh run NAME MINUTES    the lines of an experiment, all at once, and what they leave
# datasets/ holds packages/ and cifar10.tar.xz. Results go to the folder $OUT.
set -u
out=${OUT:-out} images=/tmp/cifar10
export PYTHONPATH="$PWD/datasets/packages" PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
mkdir -p "$out" "$images"
[ -d "$images/train" ] || tar -xJf datasets/cifar10.tar.xz -C "$images"

check() {
  { nvidia-smi; command -v nvidia-cuda-mps-control
    python3 -c 'import sys, torch; print(sys.version, torch.__version__)'; } >"$out/facts.txt" 2>&1
  # Four processes side by side. A test may turn the first signal into a failure and go on to the
  # next, so the second one kills.
  for part in replayed_steps "float32 or batches or replayed_meas or captures or wait" \
      "runs_are or traces or goes_on" "resumed or metrics or faster"; do
    timeout -k 3 "${SECONDS_FOR_CHECKS:-200}" python3 -m pytest -q -s tests/test_cuda.py \
      -k "not compile and ($part)" >"$out/checks-${part%% *}.txt" 2>&1 &
  done
  wait
  for precision in fp32 tf32; do
    timeout -k 3 90 python3 benchmark.py --width 32 --rounds 1 \
      --precision $precision --data_path "$images" >"$out/speed-$precision.txt" 2>&1
  done
}

run() {
  # Under MPS the kernels of several processes run side by side; without it they take turns.
  export CUDA_MPS_PIPE_DIRECTORY=/tmp/mps CUDA_MPS_LOG_DIRECTORY=/tmp/mps
  mkdir -p /tmp/mps
  timeout 20 nvidia-cuda-mps-control -d &&
    timeout 60 python3 -c 'import torch; torch.ones(1, device="cuda").item()' && echo "MPS is on" ||
    { quit_mps; unset CUDA_MPS_PIPE_DIRECTORY CUDA_MPS_LOG_DIRECTORY; echo "no MPS"; }
  python3 run_train_and_test.py --experiment "$1" --image_folder "$images" --jobs 8 --time "$2"
  quit_mps
  tar -czf - Experiments/"$1" | split -b 15m - "$out/$1.tgz."
}

quit_mps() {
  echo quit | timeout 20 nvidia-cuda-mps-control >/dev/null 2>&1
}

"$@"
