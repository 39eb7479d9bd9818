#!/usr/bin/env bash
# Fetch Pascal VOC 2007 and 2012, unpack, and make the annotations: cd tools && bash get_pascal_voc.sh [DEST]
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@" # called by sh
set -eu
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/../scripts/common.sh"

USAGE="usage: bash get_pascal_voc.sh [DEST](optional, default ../data beside this script)
Makes DEST/voc: images/, annotations/pascal_trainval0712.json and pascal_test2007.json, VOCdevkit/. Needs 3 GB to fetch, 6 GB in all.
In the environment: VOC_BASE_URL (a mirror; default http://host.robots.ox.ac.uk/pascal/VOC), VOC_ARCHIVES (folder of the archives, default
DEST/voc/archives; those that lie there are not fetched), VOC_MD5SUMS (list of the archives' MD5, default names/voc_md5.txt)."

[ $# -le 1 ] || usage_error "$USAGE"
[ "${1:-}" != --help ] || { echo "$USAGE"; exit 0; }
[[ "${1:-}" != -* ]] || usage_error "$USAGE"
voc="${1:-$ROOT/data}/voc"
base=${VOC_BASE_URL:-http://host.robots.ox.ac.uk/pascal/VOC}
archives=${VOC_ARCHIVES:-$voc/archives}
sums=${VOC_MD5SUMS:-$ROOT/tools/names/voc_md5.txt}
[ -f "$sums" ] || usage_error "VOC_MD5SUMS is no file: $sums"
mkdir -p "$voc/annotations" "$voc/images" "$archives"

# is_whole FILE NAME: whether FILE has the MD5 that the list gives for NAME.
is_whole() { [ "$(md5sum "$1" | cut -d ' ' -f 1)" = "$(awk -v name="$2" '$2 == name { print $1 }' "$sums")" ]; }

# fetch FOLDER NAME: have NAME in the archives, whole.
fetch() {
    local file="$archives/$2"
    if [ ! -f "$file" ]; then
        command -v curl > /dev/null || { echo "error: curl is not installed; it fetches $base/$1/$2" >&2; exit 2; }
        echo "fetching $base/$1/$2"
        if ! curl --fail --location --show-error --retry 3 --connect-timeout 30 --continue-at - --output "$file.part" "$base/$1/$2"; then
            echo "error: $base/$1/$2 could not be fetched whole. Run the script again to go on where it stopped; VOC_BASE_URL names a mirror," \
                "or put the archive into $archives" >&2
            exit 2
        fi
        if ! is_whole "$file.part" "$2"; then
            mv "$file.part" "$file.damaged"
            echo "error: $2 was fetched and has another MD5 than it should; it is kept as $file.damaged. Run the script again, or name a mirror" >&2
            exit 2
        fi
        mv "$file.part" "$file"
    elif [ ! -f "$voc/VOCdevkit/.unpacked-$2" ] && ! is_whole "$file" "$2"; then
        echo "error: $file has another MD5 than it should; remove it to have it fetched" >&2
        exit 2
    fi
}

# unpack NAME: its VOCdevkit/ into the folder, once.
unpack() {
    [ ! -f "$voc/VOCdevkit/.unpacked-$1" ] || return 0
    if [ -d "$voc/VOCdevkit" ] && ! compgen -G "$voc/VOCdevkit/.unpack*" > /dev/null; then
        echo "error: $voc/VOCdevkit is there already, and was not unpacked by this script: it is not overwritten; move it away, or name" \
            "another DEST" >&2
        exit 2
    fi
    mkdir -p "$voc/VOCdevkit"
    touch "$voc/VOCdevkit/.unpacking"
    echo "unpacking $1"
    tar -xf "$archives/$1" -C "$voc" || { echo "error: $archives/$1 could not be unpacked" >&2; exit 2; }
    touch "$voc/VOCdevkit/.unpacked-$1"
}

# annotate YEAR SPLIT: its annotation file.
annotate() {
    [ ! -f "$voc/annotations/pascal_$2$1.json" ] || return 0
    "$PYTHON" "$ROOT/tools/voc_to_coco.py" --voc_dir "$voc/VOCdevkit/VOC$1" --split "$2" \
        --output "$voc/annotations/pascal_$2$1.json"
}

for archive in voc2007/VOCtrainval_06-Nov-2007.tar voc2007/VOCtest_06-Nov-2007.tar voc2012/VOCtrainval_11-May-2012.tar; do
    fetch "${archive%/*}" "${archive#*/}"
    unpack "${archive#*/}"
done
# Ready-made annotations that lie there are taken as they are; the images are put in place all the same.
for year in VOC2007 VOC2012; do
    cp -lrn "$voc/VOCdevkit/$year/JPEGImages/." "$voc/images/" 2> /dev/null || cp -rn "$voc/VOCdevkit/$year/JPEGImages/." "$voc/images/"
done
if [ ! -f "$voc/annotations/pascal_trainval0712.json" ]; then
    annotate 2007 trainval
    annotate 2012 trainval
    "$PYTHON" "$ROOT/tools/merge_pascal_json.py" --output "$voc/annotations/pascal_trainval0712.json" \
        --inputs "$voc/annotations/pascal_trainval2007.json" "$voc/annotations/pascal_trainval2012.json"
fi
[ -f "$voc/annotations/pascal_test2017.json" ] || annotate 2007 test
echo "done: $voc"
