#!/bin/sh
# Pack the lines of access.log. This is the file that the agent edits.
set -eu
gzip -1 -n <access.log >packed.gz
