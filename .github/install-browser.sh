#!/bin/sh
# Install Chromium, in which a test looks at report.html, where this user may. Never fails: the test says when it is left out.
set -u
for name in chromium chromium-browser google-chrome; do command -v "$name" >/dev/null 2>&1 && exit 0; done
if command -v apt-get >/dev/null 2>&1; then
    if [ "$(id -u)" = 0 ]; then
        (apt-get -qq install -y chromium || { apt-get -qq update && apt-get -qq install -y chromium; }) >/dev/null 2>&1
    elif command -v sudo >/dev/null 2>&1 && sudo -n true 2>/dev/null; then
        (sudo -n apt-get -qq install -y chromium || { sudo -n apt-get -qq update && sudo -n apt-get -qq install -y chromium; }) >/dev/null 2>&1
    fi
fi
command -v chromium >/dev/null 2>&1 || echo "Chromium is not installed and could not be: report.html is tested without a browser."
exit 0
