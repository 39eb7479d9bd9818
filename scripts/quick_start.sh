#!/usr/bin/env bash
# Train, evaluate and export a detector on this machine's CPU, in minutes: of shapes, of stick figures and their keypoints
# (pose), or of objects with 3D boxes (ddd). All output goes to quick_start/, quick_start_pose/ or quick_start_ddd/;
# existing results are reused.
# usage: bash scripts/quick_start.sh [pose|ddd](optional)
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@" # called by sh
set -euo pipefail
cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/.."
case $* in
"" | pose | ddd) ;;
*) echo "usage: bash scripts/quick_start.sh [pose|ddd](optional)" >&2 && exit 2 ;;
esac
name=quick_start${1:+_$1}
bash scripts/setup_env.sh
SECONDS=0
python=.venv/bin/python
out=$name
config="--config_path configs/$name.yaml --device_target CPU"
mkdir -p "$out"

step() { printf '\n== %s\n' "$1"; }

if [ ! -d "$out/shapes" ]; then
    step "drawing the data set"
    case ${1:-} in
    ddd) $python tools/make_scenes_dataset.py --output "$out/shapes" \
        --size 384 192 --focal 420 --nearest 7 --farthest 15 --objects 4 ;;
    pose) $python tools/make_shapes_dataset.py --output "$out/shapes" \
        --keypoints --size 96 --objects 1 --smallest 64 --largest 90 --train 1000 ;;
    *) $python tools/make_shapes_dataset.py --output "$out/shapes" ;;
    esac
fi
if [ ! -f "$out/mindrecord/coco_det.train.mind.manifest.json" ]; then
    step "converting it to MindRecord"
    $python src/dataset.py $config --coco_data_dir "$out/shapes" --mindrecord_dir "$out/mindrecord"
fi
if [ ! -f "$out/loss.png" ]; then # the last file that training writes
    step "training from scratch: compiling the graph takes a minute (log: $out/training_log.txt)"
    resume=false
    ! ls "$out"/ckpt_0/*.ckpt > /dev/null 2>&1 || resume=true
    $python train.py $config --mindrecord_dir "$out/mindrecord" --run_dir "$out" \
        --resume $resume --log_interval 25 2>&1 | tee -ia "$out/training_log.txt"
fi
checkpoint=$out/last
if [ ! -f "$out/metrics.json" ]; then
    step "evaluating on the validation images"
    $python eval.py $config --data_dir "$out/shapes" --load_checkpoint_path "$checkpoint" \
        > "$out/eval_log.txt" 2>&1 ||
        { code=$?; cat "$out/eval_log.txt" >&2; exit $code; }
    cp "$out/val/metrics.json" "$out/metrics.json"
fi
if [ ! -f "$out/centernet.mindir" ]; then
    step "exporting MindIR"
    $python export.py $config --export_config.ckpt_file "$checkpoint" --export_config.export_name "$out/centernet"
fi
if [ ! -f "$out/centernet.onnx" ]; then
    step "exporting ONNX"
    $python export.py $config --export_config.ckpt_file "$checkpoint" --export_config.export_name "$out/centernet" \
        --export_config.export_format ONNX
fi
if [ ! -f "$out/contact_sheet.png" ]; then
    step "running the MindIR file on validation images"
    $python tools/contact_sheet.py --config_path "configs/$name.yaml" --mindir "$out/centernet.mindir" \
        --data_dir "$out/shapes" --output "$out/contact_sheet.png"
fi
if [ ! -d "$out/onnx" ]; then
    step "running the ONNX file on a validation image"
    $python tools/predict.py --onnx "$out/centernet.onnx" --input "$(find "$out/shapes" -path '*/val*' -name '*.[jp][pn]g' | sort | head -n 1)" \
        --output "$out/onnx"
fi

step "done in $((SECONDS / 60)) min $((SECONDS % 60)) s"
sed -n '/^overall performance/,$p' "$out/eval_log.txt" | grep -v '^results:'
cat <<END

checkpoint     $checkpoint ($(ls "$out"/ckpt_0/*.ckpt | tail -n 1))
MindIR         $out/centernet.mindir, $out/centernet.json
ONNX           $out/centernet.onnx (detections of the first validation image: $out/onnx/)
scores         $out/metrics.json
first batch    $out/train_batch.jpg (as network input)
loss curve     $out/loss.png
contact sheet  $out/contact_sheet.png (detections next to the ground truth)
END
