#!/bin/sh
# Makes environments of the packages that kernels.py compares with, each in DIR/<name>.
#
#   sh benchmarks/peers/make.sh DIR [tiatoolbox] [cellpose] [stardist]
#
# cellpose and tiatoolbox are run on a CPU; tiatoolbox asks for an older torch than it needs, hence
# the override, which pip does not know.
set -eu
dir=$1
shift
[ $# -gt 0 ] || set -- tiatoolbox cellpose stardist
torch=torch==2.13.0
for peer; do
  bin=$dir/$peer/bin
  "${PYTHON:-python3}" -m venv "$dir/$peer"
  case $peer in
    stardist) "$bin/pip" install stardist==0.9.2 ;;
    cellpose) "$bin/pip" install cellpose==3.1.1.3 "$torch" ;;
    tiatoolbox)
      "$bin/pip" install uv
      echo "$torch" > "$dir/override.txt"
      "$bin/uv" pip install --python "$bin/python" --override "$dir/override.txt" tiatoolbox==2.1.3
      ;;
    *) echo "no peer $peer: tiatoolbox, cellpose or stardist" >&2 && exit 2 ;;
  esac
done
