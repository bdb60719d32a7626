#!/usr/bin/env bash
# The harness's own environment: a private venv, hash-locked, kept by the lock's hash; nothing of the user's is touched.
# With "trials" as its word it also lets bubblewrap start, on GitHub's own machines.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
lock=$here/requirements.txt

python=""
for name in python3.13 python3.12 python3.11 python3 python; do
    if command -v "$name" >/dev/null 2>&1 && "$name" -I -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
        python=$name
        break
    fi
done
if [ -z "$python" ]; then
    echo "::error::autoresearch needs Python 3.11 or newer with its venv module on this runner (Debian: apt install python3-venv)."
    exit 3
fi

key=$("$python" -I -c 'import hashlib, sys; print(hashlib.sha256(open(sys.argv[1], "rb").read() + sys.version.encode()).hexdigest()[:16])' "$lock")
for place in "${RUNNER_TOOL_CACHE:-}" "${RUNNER_TEMP:-}" /tmp; do
    store=$place/autoresearch
    [ -n "$place" ] && mkdir -p "$store" 2>/dev/null && [ -w "$store" ] && break
done
if [ -n "${RUNNER_TOOL_CACHE:-}" ] && [ "$place" != "$RUNNER_TOOL_CACHE" ]; then
    echo "::notice::$RUNNER_TOOL_CACHE cannot be written, so $place is used: where it does not outlive the job, neither does the environment or a run's state."
fi
venv=$store/$key
if [ ! -e "$venv/ready" ]; then
    exec 9>"$store/$key.lock"
    flock 9
    if [ ! -e "$venv/ready" ]; then
        rm -rf "$venv"
        "$python" -I -m venv "$venv"
        "$venv/bin/python" -I -m pip install -q --disable-pip-version-check --no-input --require-hashes -r "$lock"
        touch "$venv/ready"
    fi
fi
echo "python=$venv/bin/python" >>"$GITHUB_OUTPUT"
if [ "${1:-}" = trials ] && [ "${RUNNER_ENVIRONMENT:-}" = github-hosted ]; then
    sh "$here/.github/install-bubblewrap.sh"
fi
