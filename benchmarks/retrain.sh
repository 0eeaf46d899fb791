#!/bin/bash
# Trains the miniature further on a GPU, and measures the method with it:
#
#     benchmarks/retrain.sh train WORK     VAE, then UNet and text encoder
#     benchmarks/retrain.sh rest WORK      LoRAs, ControlNet and adapter; install it; tav eval -o WORK/eval
#
# Each should take less than ten minutes on an H100 with 16 CPU cores. VAE, UNET, DECODER, LORA and CONTROL change how
# long each is trained (45s, or 2000 for steps), IMAGES on how many images, START from which miniature. Every line is
# stamped with the seconds since the start.
set -euo pipefail
case ${1-} in train | rest) ;; *) echo "Usage: $0 train|rest WORK" >&2 && exit 2 ;; esac
work=${2:?"Usage: $0 train|rest WORK"}
mkdir -p "$work"
export OMP_NUM_THREADS=1 PYTHONUNBUFFERED=1 TORCHINDUCTOR_CACHE_DIR="$work/inductor"
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
python3 -c "import av" 2> /dev/null || PYTHONPATH="$PYTHONPATH:$PWD/benchmarks/stand_ins"  # tav eval reads no video
start=${START:-tav_core/demo/miniature}

trap 'kill $(jobs -p) 2> /dev/null || true' EXIT

stamped() { while IFS= read -r line; do echo "[$SECONDS s] $line"; done; }

train() {
    python3 benchmarks/train_miniature.py --start "$start" \
        --vae-batch "${VAE_BATCH:-32}" --decoder-batch "${VAE_BATCH:-32}" --unet-batch "${UNET_BATCH:-128}" \
        --lora-steps "${LORA:-600}" --control-steps "${CONTROL:-2000}" --decoder-steps "${DECODER:-15s}" "$@" 2>&1 | stamped
}

lengths=(--images "${IMAGES:-40000}" --vae-whole-steps "${VAE:-45s}" --unet-steps "${UNET:-380s}")
case $1 in
train)
    # compiles the UNet's training meanwhile, so that it is in the cache when its turn comes
    train --work "$work/compiling" --images 700 --vae-whole-steps 0 --unet-steps 3 --compile unet --until unet \
        > "$work/compiling.log" &
    (
        until [ -e "$work/run/other-images.npy" ]; do sleep 1; done
        train --work "$work/run" "${lengths[@]}" --until images > "$work/drawing.log" # for the additions
    ) &
    train --work "$work/run" "${lengths[@]}" --compile unet --until decoder | tee "$work/train.log"
    wait
    ;;
rest)
    train --work "$work/run" "${lengths[@]}" --install | tee "$work/rest.log"
    mkdir -p "$work/eval"
    python3 -m tav_core.cli eval -o "$work/eval" --processes "${PROCESSES:-12}" 2>&1 | stamped > "$work/eval.log"
    tail -n 5 "$work/eval.log"
    ;;
esac
