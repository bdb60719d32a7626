#!/bin/sh
# Install bubblewrap and let it start, where this user may; otherwise one sentence says what is
# missing. Never fails.
set -u
as_root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo -n "$@"; fi; }
starts() { bwrap --unshare-user --unshare-net --ro-bind / / true >/dev/null 2>&1; }

if ! command -v bwrap >/dev/null 2>&1 && command -v apt-get >/dev/null 2>&1; then
    (as_root apt-get -qq install -y bubblewrap ||
        { as_root apt-get -qq update && as_root apt-get -qq install -y bubblewrap; }) >/dev/null 2>&1
fi
if ! command -v bwrap >/dev/null 2>&1; then
    echo "bubblewrap is not installed and could not be: trials run with reduced isolation until 'apt install bubblewrap'."
    exit 0
fi
starts && exit 0
# Ubuntu from 24.04 on forbids user namespaces to programs without a profile
setting=/proc/sys/kernel/apparmor_restrict_unprivileged_userns
if [ "$(cat "$setting" 2>/dev/null)" = 1 ]; then
    profile=/etc/apparmor.d/bwrap
    printf 'abi <abi/4.0>,\ninclude <tunables/global>\nprofile bwrap %s flags=(unconfined) {\n  userns,\n}\n' \
        "$(command -v bwrap)" | as_root tee "$profile" >/dev/null 2>&1 &&
        as_root apparmor_parser -r "$profile" >/dev/null 2>&1
    starts && exit 0
    echo "bubblewrap may not start: AppArmor forbids user namespaces (kernel.apparmor_restrict_unprivileged_userns=1) and $profile could not be loaded; trials run with reduced isolation."
    exit 0
fi
echo "bubblewrap may not start ($(bwrap --unshare-user --unshare-net --ro-bind / / true 2>&1 | tail -n 1)): trials run with reduced isolation; in a container, allow user namespaces."
exit 0
