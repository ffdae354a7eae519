#!/usr/bin/env bash
# Checks and measures Crescendo on an NVIDIA card, in parts of under four minutes, with programs that
# were built elsewhere. Each part adds rows to a table, so that several short sittings complete it.
set -u

usage() {
    cat <<'TEXT'
Usage: CRESCENDO=PROGRAM bench/gpu.sh PART [NUMBER...] [PART [NUMBER...]]...

Parts, each of under four minutes; one that fails does not keep the next from running:
  check              the conformance suite on the card; compute-sanitizer's memcheck and racecheck on small
                     networks, where it is installed; two runs with one bit pattern; kill and resume
  speed [BATCH...]   images a second beside PyTorch, in turns, and the time of each step (125 and 1000)
  fast94 [SEED...]   the recipe fast94 on CIFAR-10 (seeds 0 1 2); fast95 and fast96 the same
  epochs SEED...     the paper's 90 epochs on CIFAR-10; a run that is not finished goes on the next time
  compare NAME       a built-in comparison on CIFAR-10, such as grow-or-decay-paper; it goes on the next time, too
  table              print the rows so far, the latest of each

Environment:
  CRESCENDO          the program (target/release/crescendo)
  CONFORMANCE        the tests of the card, compiled, for check:
                     cargo test --release -p crescendo-cuda --test card --no-run
  CRESCENDO_DATA     the folder of CIFAR-10, for fast94 and epochs
  PYTHON             a Python that has PyTorch, for speed (python3)
  PYTORCH            which configurations of PyTorch, as run.py's --only has it (bf16,compile); empty for all of them,
                     which takes longer
  RESULTS            the table (gpu-results.tsv)
  RUNS               where runs are kept (gpu-runs)
  VERSION            what the rows call this build (what the program says)
  PART_SECONDS       when a part ends (225)
  DEVICE             cpu tries this script without a card (cuda)
TEXT
}

HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
CRESCENDO=${CRESCENDO:-$HERE/../target/release/crescendo}
CONFORMANCE=${CONFORMANCE:-}
PYTHON=${PYTHON:-python3}
PYTORCH=${PYTORCH-bf16,compile}
RESULTS=${RESULTS:-gpu-results.tsv}
RUNS=${RUNS:-gpu-runs}
PART_SECONDS=${PART_SECONDS:-225}
DEVICE=${DEVICE:-cuda}
export CRESCENDO_DATA=${CRESCENDO_DATA:-}

part=gpu.sh
begin=0

say() { printf '%s: %s\n' "$part" "$*" >&2; }

# fail WORDS: says why, and is false.
fail() {
    say "$*"
    return 1
}

# Runs a command for as long as the part has left, or at most $LIMIT seconds; then it is asked to stop.
limited() {
    local left=$((PART_SECONDS - (SECONDS - begin)))
    if [ "${LIMIT:-$left}" -lt "$left" ]; then left=$LIMIT; fi
    if [ "$left" -lt 2 ]; then
        fail "no time is left of $PART_SECONDS seconds"
        return 124
    fi
    timeout -s INT -k 15 "$left" "$@"
}

# row QUANTITY VALUE: adds a row to the table.
row() {
    if [ ! -s "$RESULTS" ]; then
        printf 'date\tversion\tcard\tdriver\tpart\tquantity\tvalue\n' >"$RESULTS" || return 1
    fi
    printf '%s\t%s\t%s\t%s\t%s\t%s\t%s\n' "$(date -u +%Y-%m-%dT%H:%M)" "$version" "$card" "$driver" \
        "$part" "$1" "$2" >>"$RESULTS"
    say "$1: $2"
}

# Why no card can be used, in a line; empty if one can. Asked once.
problem=unknown
card_problem() {
    if [ "$problem" != unknown ]; then return; fi
    problem=
    if [ ! -x "$CRESCENDO" ]; then
        problem="CRESCENDO names no program: $CRESCENDO"
    elif ! problem=$("$CRESCENDO" bench quick --device "$DEVICE" --batch 4 --seconds 0.01 \
        --set 'network.widths=[4,4,4]' 2>&1 >/dev/null); then
        problem=$(printf '%s\n' "$problem" | grep -v '^$' | head -n 1)
        problem=${problem:-the program ended without a message}
    else
        problem=
    fi
}

describe_machine() {
    version=${VERSION:-$("$CRESCENDO" --version 2>/dev/null | head -n 1)}
    version=${version:-unknown}
    card=unknown
    driver=unknown
    if [ "$DEVICE" != cuda ]; then
        card=$DEVICE
    elif command -v nvidia-smi >/dev/null; then
        card=$(nvidia-smi --query-gpu=name --format=csv,noheader 2>/dev/null | head -n 1)
        driver=$(nvidia-smi --query-gpu=driver_version --format=csv,noheader 2>/dev/null | head -n 1)
    fi
}

# --- check ----------------------------------------------------------------------------------------

conformance() {
    if [ ! -x "$CONFORMANCE" ]; then
        fail "CONFORMANCE names no compiled tests: the suite is left out"
        return
    fi
    local log=$RUNS/conformance.log result
    LIMIT=100 limited "$CONFORMANCE" --ignored >"$log" 2>&1
    local code=$?
    result=$(grep '^test result:' "$log" | tail -n 1)
    if [ "$code" -ne 0 ]; then
        grep -E '^test .*(FAILED|failed)' "$log" | head -n 20 >&2
        row conformance "failed: ${result:-exit code $code}"
        fail "the suite's output is in $log"
        return
    fi
    row conformance "$(printf '%s\n' "$result" | sed -E 's/^test result: ok\. ([0-9]+ passed).*/\1/')"
}

sanitize() {
    local tool=$1 log=$RUNS/$1.log
    if ! command -v compute-sanitizer >/dev/null; then
        say "compute-sanitizer is not installed: $tool is left out"
        return 0
    fi
    [ -x "$CONFORMANCE" ] || return 1
    LIMIT=45 limited compute-sanitizer --tool "$tool" --error-exitcode 9 "$CONFORMANCE" --ignored \
        --test-threads 1 updates_of_residual_networks updates_of_airbench_networks >"$log" 2>&1
    local code=$?
    local summary
    summary=$(grep -E '(ERROR|RACECHECK) SUMMARY' "$log" | tail -n 1 | sed -E 's/^=+ *//')
    row "$tool" "${summary:-no summary, exit code $code}"
    [ "$code" -eq 0 ] || fail "$tool's output is in $log"
}

# A short run in the folder $1, or the rest of it.
short_run() {
    local folder=$1
    shift
    limited "$CRESCENDO" train "$@" --quiet >"$folder.log" 2>&1
}

# So long that it can be killed in the middle, on a card; saved after every epoch.
EPOCHS=60
if [ "$DEVICE" = cpu ]; then EPOCHS=3; fi
SHORT=(quick --data shapes:3000,100 --epochs "$EPOCHS" --seed 7 --set train.save_every_minutes=0)

hash_of() { sha256sum "$1/weights/last.safetensors" 2>/dev/null | cut -d ' ' -f 1; }

same_bits() {
    local first=$RUNS/check-1 second=$RUNS/check-2 killed=$RUNS/check-3 pid rows
    rm -rf "$first" "$second" "$killed"
    local folder
    for folder in "$first" "$second"; do
        short_run "$folder" "${SHORT[@]}" --device "$DEVICE" --out "$folder" ||
            fail "a run failed: $(tail -n 1 "$folder.log")" || return
    done
    local expected
    expected=$(hash_of "$first")
    if [ -n "$expected" ] && [ "$(hash_of "$second")" = "$expected" ]; then
        row 'two runs' 'the same bits'
    else
        row 'two runs' 'OTHER BITS'
        return 1
    fi

    # Killed after the first epoch, or later if the run is faster than this loop.
    "$CRESCENDO" train "${SHORT[@]}" --device "$DEVICE" --out "$killed" --quiet >"$killed.log" 2>&1 &
    pid=$!
    while kill -0 "$pid" 2>/dev/null; do
        rows=$(wc -l 2>/dev/null <"$killed/epochs.csv" || echo 0)
        if [ "$rows" -ge 2 ] || [ $((SECONDS - begin)) -ge "$PART_SECONDS" ]; then break; fi
        sleep 0.02
    done
    kill -KILL "$pid" 2>/dev/null
    wait "$pid" 2>/dev/null
    if [ "$(hash_of "$killed")" = "$expected" ]; then
        fail "the run ended before it was killed"
        return
    fi
    short_run "$killed" --resume "$killed" || fail "resuming failed: $(tail -n 1 "$killed.log")" || return
    if [ "$(hash_of "$killed")" = "$expected" ]; then
        row 'killed and resumed' 'the same bits'
    else
        row 'killed and resumed' 'OTHER BITS'
        return 1
    fi
}

part_check() {
    local failed=0
    conformance || failed=1
    sanitize memcheck || failed=1
    sanitize racecheck || failed=1
    same_bits || failed=1
    return "$failed"
}

# --- speed ----------------------------------------------------------------------------------------

# The rows of run.py's result, one a line: quantity, tab, value.
READ_RESULT='
import json, sys
result = json.load(open(sys.argv[1]))
batch, median = result["batch"], result["median"]
def told(name, value): print(f"{name}, batch {batch}\t{value}")
ours = median["ours"]
told("training, images/s", round(ours["train"]))
told("inference, images/s", round(ours["infer"]))
told("memory of training, GiB", round(ours["peak_memory_bytes"] / 2**30, 2))
if "floor_seconds" in ours:
    told("floor of training, images/s", round(batch / ours["floor_seconds"]))
    told("products, TFLOP/s", round(ours["product_gflops"] / 1e3, 1))
    told("copies, GB/s", round(ours["copy_gb_per_second"]))
for peer, ratio in median["ratio"].items():
    config = result["peers"][peer]["config"]
    name = " ".join([peer, config.get("dtype", ""), config.get("mode", "")])
    told(f"{name}: training, images/s", round(median[peer]["train"]))
    told(f"{name}: inference, images/s", round(median[peer]["infer"]))
    told(f"{name}: memory of training, GiB", round(median[peer]["peak_memory_bytes"] / 2**30, 2))
    told(f"training, ratio to {name}", round(ratio["train"], 3))
    told(f"inference, ratio to {name}", round(ratio["infer"], 3))
for warning in result["warnings"]:
    told("NOT FAIR", warning)
'

part_speed() {
    local failed=0 batch log name value
    for batch in "$@"; do
        log=$RUNS/speed-$batch
        # The table of the steps is worth keeping beside the rows.
        limited "$CRESCENDO" bench report --device "$DEVICE" --batch "$batch" --seconds 3 >"$log.txt" 2>&1 ||
            fail "bench at batch $batch: $(tail -n 1 "$log.txt")" || { failed=1; continue; }
        local command=("$PYTHON" "$HERE/run.py" --device "$DEVICE" --ours "$CRESCENDO" --peers pytorch)
        command+=(--batch "$batch" --rounds 3 --seconds 3 --no-save --json --python "$PYTHON")
        if [ -n "$PYTORCH" ]; then command+=(--only "$PYTORCH"); fi
        limited "${command[@]}" >"$log.json" 2>"$log.log" ||
            fail "run.py at batch $batch: $(tail -n 1 "$log.log")" || { failed=1; continue; }
        while IFS=$'\t' read -r name value; do
            row "$name" "$value"
        done < <("$PYTHON" -c "$READ_RESULT" "$log.json")
        say "the time of each step is in $log.txt"
    done
    return "$failed"
}

# --- runs -----------------------------------------------------------------------------------------

need_data() { [ -n "$CRESCENDO_DATA" ] || fail "CRESCENDO_DATA names no folder of CIFAR-10"; }

# Seconds of training of the run in the folder $1, from its table.
seconds_of() {
    awk -F , 'NR == 1 { for (i = 1; i <= NF; i++) if ($i == "seconds") at = i }
        NR > 1 { sum += $at } END { printf "%.2f", sum }' "$1/epochs.csv"
}

accuracy_of() { sed -n 's/^Test accuracy: //p' "$1" | tail -n 1; }

# fast RECIPE SEED...
fast() {
    need_data || return
    local failed=0 recipe=$1 seed folder accuracy
    shift
    for seed in "$@"; do
        folder=$RUNS/$recipe-$seed
        rm -rf "$folder"
        limited "$CRESCENDO" train "$recipe" --data "$CRESCENDO_DATA" --device "$DEVICE" --seed "$seed" \
            --out "$folder" --quiet >"$folder.log" 2>&1
        accuracy=$(accuracy_of "$folder.log")
        if [ -z "$accuracy" ]; then
            fail "seed $seed is not finished: $(tail -n 1 "$folder.log")"
            failed=1
            continue
        fi
        row "test accuracy, seed $seed" "$accuracy"
        row "seconds of training, seed $seed" "$(seconds_of "$folder")"
    done
    return "$failed"
}

part_fast94() { fast fast94 "$@"; }
part_fast95() { fast fast95 "$@"; }
part_fast96() { fast fast96 "$@"; }

part_compare() {
    need_data || return
    [ $# -gt 0 ] || fail "which comparison? for example: compare grow-or-decay-paper" || return
    local folder=$RUNS/compare-$1 code
    limited "$CRESCENDO" compare "$1" --data "$CRESCENDO_DATA" --device "$DEVICE" --out "$folder" \
        >"$folder.log" 2>&1
    code=$?
    if [ -s "$folder/results.csv" ]; then row "$1: runs" "$(($(wc -l <"$folder/results.csv") - 1))"; fi
    if [ "$code" -ne 0 ]; then
        fail "$1 is not finished: run the part again, with the same RUNS ($(tail -n 1 "$folder.log"))"
        return
    fi
    say "the table is in $folder"
}

part_epochs() {
    need_data || return
    [ $# -gt 0 ] || fail "which seed? for example: epochs 0" || return
    local failed=0 seed folder accuracy finished
    for seed in "$@"; do
        folder=$RUNS/report-$seed
        if [ -d "$folder" ]; then
            limited "$CRESCENDO" train --resume "$folder" --data "$CRESCENDO_DATA" --quiet >"$folder.log" 2>&1
        else
            limited "$CRESCENDO" train report --data "$CRESCENDO_DATA" --device "$DEVICE" --seed "$seed" \
                --out "$folder" --quiet >"$folder.log" 2>&1
        fi
        finished=$(($(wc -l 2>/dev/null <"$folder/epochs.csv" || echo 1) - 1))
        accuracy=$(accuracy_of "$folder.log")
        if [ "$finished" -gt 0 ]; then
            row "epochs, seed $seed" "$finished"
            row "seconds of training, seed $seed" "$(seconds_of "$folder")"
        fi
        if [ -z "$accuracy" ]; then
            fail "seed $seed is not finished ($finished epochs): run the part again, with the same RUNS ($(tail -n 1 "$folder.log"))"
            failed=1
            continue
        fi
        row "test accuracy, seed $seed" "$accuracy"
    done
    return "$failed"
}

# The latest row of each quantity, in the order in which they first came.
part_table() {
    [ -s "$RESULTS" ] || fail "there are no rows in $RESULTS yet" || return
    awk -F '\t' '
        { key = NR == 1 ? "" : $2 FS $3 FS $4 FS $5 FS $6
          if (!(key in row)) order[n++] = key
          row[key] = $0
          for (i = 1; i <= NF; i++) if (length($i) > width[i]) width[i] = length($i) }
        END { for (k = 0; k < n; k++) {
                  fields = split(row[order[k]], field, "\t")
                  for (i = 1; i < fields; i++) printf "%-" width[i] "s  ", field[i]
                  print field[fields] } }' "$RESULTS"
}

# --- the parts in order ---------------------------------------------------------------------------

if [ $# -eq 0 ]; then
    usage >&2
    exit 2
fi
for word in "$@"; do
    case $word in
    -h | --help)
        usage
        exit 0
        ;;
    check | speed | fast94 | fast95 | fast96 | epochs | compare | table) previous=$word ;;
    *)
        if [ "${previous:-}" = compare ]; then
            previous=
            continue
        fi
        if ! [[ $word =~ ^[0-9]+$ && $1 != "$word" ]]; then
            printf 'error: there is no part %s; see bench/gpu.sh --help\n' "$word" >&2
            exit 2
        fi
        ;;
    esac
done

mkdir -p "$RUNS" || exit 1
all_failed=0
while [ $# -gt 0 ]; do
    part=$1
    shift
    numbers=()
    while [ $# -gt 0 ] && [[ $1 =~ ^[0-9]+$ ]]; do
        numbers+=("$1")
        shift
    done
    # The comparison's name.
    if [ "$part" = compare ] && [ $# -gt 0 ]; then
        numbers=("$1")
        shift
    fi
    begin=$SECONDS
    if [ "$part" = table ]; then
        part_table || all_failed=1
        continue
    fi
    card_problem
    if [ -n "$problem" ]; then
        fail "$problem" || all_failed=1
        continue
    fi
    describe_machine
    if [ ${#numbers[@]} -eq 0 ]; then
        case $part in
        speed) numbers=(125 1000) ;;
        fast94 | fast95 | fast96) numbers=(0 1 2) ;;
        esac
    fi
    "part_$part" ${numbers[@]+"${numbers[@]}"} || all_failed=1
    say "ended after $((SECONDS - begin)) s"
done
exit "$all_failed"
