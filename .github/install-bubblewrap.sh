#!/bin/sh
# Install bubblewrap where this user may; otherwise one sentence says what is missing. Never fails.
set -u
command -v bwrap >/dev/null 2>&1 && exit 0
if command -v apt-get >/dev/null 2>&1; then
    if [ "$(id -u)" = 0 ]; then
        (apt-get -qq install -y bubblewrap || { apt-get -qq update && apt-get -qq install -y bubblewrap; }) >/dev/null 2>&1
    elif command -v sudo >/dev/null 2>&1 && sudo -n true 2>/dev/null; then
        (sudo -n apt-get -qq install -y bubblewrap || { sudo -n apt-get -qq update && sudo -n apt-get -qq install -y bubblewrap; }) >/dev/null 2>&1
    fi
fi
command -v bwrap >/dev/null 2>&1 ||
    echo "bubblewrap is not installed and could not be: trials run with reduced isolation until 'apt install bubblewrap'."
exit 0
