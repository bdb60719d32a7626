#!/bin/sh
# Score what pack.sh left: its size in bytes, if gzip gives the same lines back, in any order. Frozen during a run.
set -eu
place=$(mktemp -d)
LC_ALL=C sort access.log >"$place/wanted"
gzip -dc packed.gz | LC_ALL=C sort >"$place/given"
cmp "$place/wanted" "$place/given"
echo "bytes: $(wc -c <packed.gz)"
