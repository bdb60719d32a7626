#!/usr/bin/env bash
# One release of this commit: the tag vX.Y.Z with its notes from CHANGELOG.md, and the moving tag vX.
# Reads VERSION and what a job knows (GITHUB_SHA, GITHUB_REF, GITHUB_REPOSITORY); writes through gh, which needs GH_TOKEN.
set -euo pipefail

refuse() {
    echo "::error::$1"
    exit 2
}

if [[ ! $VERSION =~ ^(0|[1-9][0-9]*)\.(0|[1-9][0-9]*)\.(0|[1-9][0-9]*)$ ]]; then
    refuse "The version must be three numbers like 1.0.0."
fi
[ "$GITHUB_REF" = refs/heads/main ] || refuse "Releases are made from main."
[ "$(sed -n 's/^__version__ = "\(.*\)"$/\1/p' autoresearch_action/__init__.py)" = "$VERSION" ] ||
    refuse "autoresearch_action/__init__.py has another __version__ than $VERSION."

notes=$(mktemp)
awk -v wanted="## $VERSION" '/^## /{inside = ($0 == wanted); next} inside' CHANGELOG.md >"$notes"
grep -q '[^[:space:]]' "$notes" || refuse "CHANGELOG.md has no entry '## $VERSION' (without the word unreleased)."

refs=repos/$GITHUB_REPOSITORY/git
tag=v$VERSION
major=v${VERSION%%.*}

commit_of() {
    gh api "$refs/ref/tags/$1" --jq .object.sha 2>/dev/null || true
}

make_tag() {
    gh api --method POST "$refs/refs" -f ref="refs/tags/$1" -f sha="$GITHUB_SHA" >/dev/null
}

case $(commit_of "$tag") in
"$GITHUB_SHA") ;; # an earlier click came this far
"") make_tag "$tag" ;;
*) refuse "$tag is there already, on another commit: a release is never moved." ;;
esac
gh release create "$tag" --verify-tag --title "$tag" --notes-file "$notes"
if [ -n "$(commit_of "$major")" ]; then
    gh api --method PATCH "$refs/refs/tags/$major" -f sha="$GITHUB_SHA" -F force=true >/dev/null
else
    make_tag "$major"
fi
echo "$tag is released, and $major points to it."
