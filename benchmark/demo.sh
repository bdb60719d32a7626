#!/bin/sh
# The demo: the main job on the embedded default data, in a few minutes on two processor cores.
# Works in a clone of its own, so that the checkout stays as it is; interrupted, it goes on where it was.
set -eu
here=$(git rev-parse --show-toplevel)
place=${DEMO_DIRECTORY:-$here/.autoresearch/demo}
if [ ! -d "$place/.git" ]; then
    mkdir -p "$(dirname "$place")"
    git clone -q "$here" "$place"
elif [ "$(git -C "$place" rev-parse HEAD)" != "$(git -C "$here" rev-parse HEAD)" ]; then
    git -C "$place" fetch -q "$here" HEAD # the checkout has moved on: what is measured moves with it
    git -C "$place" reset -q --hard FETCH_HEAD
fi
cd "$place"
unset AUTORESEARCH_DATA # the brief says where the data are
autoresearch run --program benchmark/demo.md --agent optuna --slots 2 --max-experiments "${DEMO_EXPERIMENTS:-5}" --max-minutes "${DEMO_MINUTES:-20}"
printf '\nThe pull request that would be opened: %s\n' "$place/.autoresearch/PULL_REQUEST.md"
