#!/bin/sh
# Set up and pass every check: lint, types on three platforms, tests. Needs git, Python 3.10+, a C compiler and a package index.
# As root the tests also run as an ordinary user, whom they make; the environment is then put where that user can read it.
# Arguments go to pytest.
set -eu
cd "$(dirname "$0")/.."

find_python() {
    for candidate in "${PYTHON:-}" /usr/bin/python3 python3; do
        if [ -n "$candidate" ] && "$candidate" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    echo "no Python 3.10 or newer with the venv module: apt-get install python3-venv" >&2
    exit 1
}

python=$(find_python)
place=$(mktemp -d /var/tmp/vsbox-tests.XXXXXX)
trap 'rm -rf "$place"' EXIT
chmod 755 "$place"
"$python" -m venv "$place/venv"
"$place/venv/bin/pip" install --quiet --disable-pip-version-check ".[test]"
PATH="$place/venv/bin:$PATH"
export PATH

echo "== lint"
ruff check .
echo "== types"
for platform in linux darwin win32; do
    mypy --platform "$platform"
done
echo "== tests"
# xdist wants every worker to collect the same tests: some are parametrised by sets
export PYTHONDONTWRITEBYTECODE=1 PYTHONHASHSEED=0
if [ -n "${VSBOX_VM_SCENARIOS:-}" ]; then
    (cd tests && python -m vm fetch)
fi
"$place/venv/bin/python" -m pytest -p no:cacheprovider -n 3 --dist loadfile --no-loadscope-reorder "$@"
