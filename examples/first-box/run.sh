#!/bin/sh
# The main job from nothing: install vsbox, make a box, install real packages, run a real program on real data, and see three
# attacks fail in the box that succeed outside of it. Everything it makes is removed at the end.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
python=${PYTHON:-python3}
work=$(mktemp -d)
canaries=$(mktemp -d "$HOME/vsbox-canaries.XXXXXX")
victim=
trap '${victim:+kill "$victim"} 2>/dev/null || true; rm -rf "$work" "$canaries"' EXIT

say() { printf '\n== %s\n' "$*"; }

make_canaries() {
    echo "a private key" >"$canaries/id_ed25519"
    echo "# startup file" >"$canaries/bashrc"
    sleep 300 >/dev/null 2>&1 &
    victim=$!
}

end_canaries() {
    kill "$victim" 2>/dev/null || true
    victim=
}

expect() { # WORD COUNT FILE: the word stands in the file that many times
    found=$(grep -c "$1" "$3" || true)
    [ "$found" -eq "$2" ] || { echo "expected $2 attacks $1, saw $found" >&2; exit 1; }
}

say "install vsbox"
"$python" -m venv "$work/tool" || {
    echo "Python has no venv module: apt-get install python3-venv" >&2
    exit 1
}
"$work/tool/bin/pip" install --quiet --disable-pip-version-check "$here/../.."

say "make a box and install packages into it"
"$work/tool/bin/vsbox" "$work/env"
"$work/env/bin/pip" install --quiet --disable-pip-version-check pandas vega_datasets

say "run a program on real data"
"$work/env/bin/python" "$here/weather.py"

say "three attacks without vsbox"
make_canaries
"$python" "$here/attacks.py" "$canaries" "$victim" | tee "$work/outside"
end_canaries
expect SUCCEEDED 3 "$work/outside"

say "the same attacks in the box"
make_canaries
"$work/env/bin/python" "$here/attacks.py" "$canaries" "$victim" | tee "$work/inside"
end_canaries
expect denied 3 "$work/inside"

say "done: the box stopped all three"
