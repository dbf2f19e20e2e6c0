#!/usr/bin/env bash
# Measures at true shapes: builds a bundle with the sizes of MiniCPM-o 4.5 and random weights, compares it with PyTorch, and lets
# 1 to 64 sessions talk on a forced schedule. README.md beside this file says how it is used on a machine that lends minutes.
#
#   run.sh [--device cuda|cpu] [--layers N] [--sessions 1,2,4] [--precisions fp16,int4] [--schedule PATTERN] [--first-words N]
#          [--units N] [--warm-up N] [--kv-capacity N] [--threads N] [--kit DIR] [--work DIR] [--out DIR] [--seconds N] [--until STEP] [--dims SPEC]
#
# Steps that are done are not done again: call it once more and it goes on where it stopped. It ends after --seconds (570 on a GPU)
# with 75 (EX_TEMPFAIL) when something is left, and so it does when the kit's part that the next step needs is not there.
set -euo pipefail
# One command, so that the file may change while it runs.
{

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
device=cuda layers='' sessions=1,2,4,8,16,32,64 precisions='' dims=release seconds='' until=''
schedule=listen=1,speak=3,tokens=5,codes=25 first_words=0 units=8 warm_up=4 kv_capacity=8192
kit=$root/out/gpu/kit work='' out=${OUT:-} threads=1 patience=1
while (($#)); do
  case $1 in
    --device | --layers | --sessions | --precisions | --schedule | --first-words | --units | --warm-up | --kv-capacity | --threads | --kit | \
      --work | --out | --seconds | --until | --dims)
      name=${1#--}
      declare "${name//-/_}=${2:?$1 needs a value}" && shift 2 ;;
    *) echo "error: $1 is no option; the head of $0 lists them" >&2 && exit 2 ;;
  esac
done
case $device in
  # The steps' limits are those of a GPU machine.
  cpu) target=cpu precisions=${precisions:-int8} seconds=${seconds:-86400} patience=20 ;;
  cuda*) target=cuda precisions=${precisions:-fp16,int4} seconds=${seconds:-570} ;;
  *) echo "error: --device $device: cpu or cuda" >&2 && exit 2 ;;
esac
work=${work:-$root/out/gpu/$target${layers:+-$layers}}
out=${out:-$work/results}
mkdir -p "$work/done" "$out"
export ORT_DISABLE_TELEMETRY=1 PYTHONUNBUFFERED=1

# What was built with other sizes must not be measured as these.
settings="$dims layers=${layers:-all} kv=$kv_capacity target=$target"
if [[ -f $work/settings && $(<"$work/settings") != "$settings" ]]; then
  echo "error: $work was made with '$(<"$work/settings")', not '$settings'; name another --work or delete it" >&2
  exit 2
fi
echo "$settings" >"$work/settings"

if [[ $target == cuda ]]; then
  python=${PYTHON:-python3}
  programs=$work/kit/bin
  export PYTHONPATH=$work/kit/python${PYTHONPATH:+:$PYTHONPATH}
  # PyTorch's own CUDA and cuDNN libraries serve ONNX Runtime too.
  libraries=$(find -L $("$python" -c 'import sys; print(*sys.path[1:])') -maxdepth 4 -type d -path '*/nvidia/*/lib' 2>/dev/null || true)
  export LD_LIBRARY_PATH=$programs:${libraries//$'\n'/:}${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
else
  python=${PYTHON:-$root/models/.venv/bin/python}
  programs=$root/target/release
fi

# pause REASON: what is left is for the next call; what there is already is shown.
pause() {
  ! compgen -G "$out/load-*.json" >/dev/null || "$python" "$here/table.py" "$out" || true
  echo "== paused: $1; call again to go on"
  exit 75
}

# step NAME LIMIT COMMAND...: runs a step that is not done yet for at most LIMIT seconds, and remembers that it is.
step() {
  local name=$1 limit=$(($2 * patience)) left begin=$SECONDS status=0
  shift 2
  if [[ ! -e $work/done/$name ]]; then
    left=$((seconds - SECONDS))
    ((left > 5)) || pause "$seconds seconds are over before $name"
    echo "== $name"
    timeout --kill-after=5 $((left < limit ? left : limit)) "$@" || status=$?
    echo "== $name: $((SECONDS - begin)) s, status $status"
    case $status in
      0) touch "$work/done/$name" ;;
      124 | 137) ((left > limit)) || pause "$seconds seconds are over in $name" && failed+=" $name" ;;
      *) failed+=" $name" ;;
    esac
  fi
  [[ $name != "$until" ]] || pause "--until $name"
  return "$status"
}

unpack() {
  local part
  for part in "$kit"/kit-*.tar.xz; do
    [[ -e $part && ! -e $work/done/$(basename "$part") ]] || continue
    mkdir -p "$work/kit" && tar -xJf "$part" -C "$work/kit" && touch "$work/done/$(basename "$part")"
  done
  # Python's package looks for the providers in its own folder.
  if [[ -d $work/kit/python ]]; then
    ln -sf ../../../bin/libonnxruntime_providers_{cuda,shared}.so "$work/kit/python/onnxruntime/capi/"
  fi
}

doctor() {
  [[ $target == cpu ]] || nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader
  "$programs/duologue" doctor --device "$device"
}
export -f doctor
export programs target device

failed=''
if [[ $target == cuda ]]; then
  unpack
  [[ -e $work/done/kit-2.tar.xz ]] || pause "kit-2.tar.xz is not in $kit"
fi
# What the later steps are made of: without it there is nothing to go on with.
step checkpoint 240 "$python" "$here/true_shapes.py" checkpoint --work "$work" ${layers:+--layers "$layers"} --dims "$dims" \
  --device "$target" || exit 1
for precision in ${precisions//,/ }; do
  step "bundle-$precision" 400 "$python" "$here/true_shapes.py" bundle --work "$work" --precision "$precision" \
    --target "$target" --kv-capacity "$kv_capacity" || exit 1
done
if [[ $target == cuda && ! -e $work/done/kit-1.tar.xz ]]; then
  pause "kit-1.tar.xz is not in $kit"
fi
step doctor 60 bash -c doctor || exit 1
# These do not need each other: what fails is named at the end.
for precision in ${precisions//,/ }; do
  step "load-$precision" 300 "$programs/engine_load" --bundle "$work/bundle-$precision" --device "$device" --threads "$threads" \
    --sessions "$sessions" --schedule "$schedule" --first-words "$first_words" --units "$units" --warm-up "$warm_up" --out "$out/load-$precision.json" || true
  step "verify-$precision" 200 "$python" "$here/check.py" --work "$work" --precision "$precision" \
    --json "$out/verify-$precision.json" || true
done
echo "== results in $out"
"$python" "$here/table.py" "$out"
[[ -z $failed ]] || { echo "error: failed:$failed" >&2 && exit 1; }
exit 0
}
