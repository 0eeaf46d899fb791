#!/bin/bash
# Measures anew what docs/findings.md says, as after a new miniature, on CPU cores:
#
#     benchmarks/remeasure.sh WORK [JOB...]
#
# JOBs are those below; by default all of them, PROCESSES (2) at once, in their order. Each leaves its table in
# WORK/JOB.log, and goes on where it was interrupted. On two cores, eval takes two hours and a half, frames16 half an
# hour, the others between 5 and 30 minutes. ORIGINAL (a checkout) and ORIGINAL_PYTHON are for the job original; see
# README.md. Then copy WORK/eval/eval.* and, as docs/eval-16-frames.json, WORK/frames16/eval.json to docs, run
# `python benchmarks/findings.py` and `python benchmarks/pictures.py WORK`, and put the figures of the other jobs in by
# hand.
set -euo pipefail
work=${1:?"Usage: $0 WORK [JOB...]"}
shift
mkdir -p "$work"
export OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE MALLOC_MMAP_THRESHOLD_=2000000000 MALLOC_TRIM_THRESHOLD_=4000000000
export WORK=$work

declare -A job
order=()
add() { order+=("$1") && job[$1]=$2; }

kept="'structure 0.8, layout 0.4, mask true'"
shares="plain 'structure 0.4' 'structure 0.6' 'structure 0.8' 'structure 1.0' 'features 0.6' 'attention 0.6' \
    'with temporal 0.6' 'layout 0.4' 'layout 1.0' 'mask true' 'structure 0.8, layout 0.0, mask true' $kept \
    'structure 0.8, layout 0.8, mask true' 'structure 1.0, layout 0.4, mask true' \
    'structure 1.0, layout 1.0, mask true' 'structure 0.8, layout 0.4, mask word'"
guidance="'structure 0.8, layout 0.0, mask true' $kept 'structure 0.8, layout 0.4, mask word' \
    'guidance 4, structure 0.8, layout 0.0, mask true' 'guidance 4, structure 0.8, layout 0.4, mask' \
    'guidance 7.5, structure 0.8, layout 0.0, mask true'"
eight="line arc walk wave leave circle behind two"
tables="python benchmarks/keeping.py --threads 1 --work $work/keeping"
add eval "tav eval -o $work/eval --processes ${PROCESSES:-2}"
add frames16 "tav eval -o $work/frames16 --frames 16 --processes ${PROCESSES:-2} \
    --variant full --variant no-tuning --variant keep-all"
add original "python benchmarks/original_quality.py --threads 1 --work $work/original --json $work/original.json \
    --original ${ORIGINAL-} --original-python ${ORIGINAL_PYTHON-}"
add trace "python benchmarks/inversion_trace.py --clips 4"
add seed1 "tav eval -o $work/seed1 --seed 1 --variant full --variant keep-all"
add shares "$tables --json $work/shares.json --clips line circle --only $shares"
up=up_blocks
add blocks "$tables --json $work/blocks.json --clips line --only \
    'features $up.0.resnets.0 0.6' 'features $up.0.resnets.1 0.6' \
    'features $up.1.resnets.0 0.6' 'features $up.1.resnets.1 0.6'"
add hard "$tables --json $work/hard.json --clips leave two --only plain 'structure 0.8' $kept"
add guidance "$tables --json $work/guidance.json --clips arc walk leave two --only $guidance"
add reweight "$tables --json $work/reweight.json --clips $eight --only reweight $kept"
known="python benchmarks/known_frames.py --plain --tuning-steps 100 --trust 0.6 0.95"
add between "$known --json $work/between.json --tasks between --clips line arc walk"
add onwards "$known --json $work/onwards.json --tasks onwards backwards --clips line arc walk circle two walk-past"
add null-text "python benchmarks/null_text.py --work $work/null-text --json $work/null-text.json --clips arc walk"
add windows "python benchmarks/windows.py --json $work/windows.json 32:0 32:8"
add long "python benchmarks/windows.py --json $work/long.json 16:0 64:16 128:16"
miniature=tav_core/demo/miniature
add sibling "tav demo -o $work/sibling/demo && tav edit $work/sibling/demo/clip.mp4 -o $work/sibling/edits \
    -w $work/sibling/demo/tuned.safetensors -c $miniature --lora $miniature/paper-lora.safetensors \
    -p 'a red ball is moving on the grass' -p 'a yellow star is moving on the grass' \
    --steps 20 --inversion-steps 20 --guidance 2.5 --keep-structure 0.8 --keep-layout 0.4"

one() { echo "$1: $(date +%H:%M)" && bash -c "$2" > "$WORK/$1.log" 2> "$WORK/$1.errors" || echo "$1 failed; see $WORK/$1.errors"; }
export -f one

chosen=("${@:-${order[@]}}")
others=()
for name in "${chosen[@]}"; do
    [ -n "${job[$name]-}" ] || { echo "There is no job $name; there are: ${order[*]}" >&2 && exit 2; }
    case $name in
    eval | frames16) one "$name" "${job[$name]}" ;; # takes all processes itself
    *) others+=("$name" "${job[$name]}") ;;
    esac
done
[ ${#others[@]} = 0 ] || printf '%s\0' "${others[@]}" | xargs -0 -n 2 -P "${PROCESSES:-2}" bash -c 'one "$@"' _
