#!/bin/sh
# refresh.sh: fetches the built files of Swagger UI from the npm registry anew. Raise VERSION, run it (or go generate),
# look at the pages, commit dist as it is.
set -eu
VERSION=5.35.0
cd "$(dirname "$0")"
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
(cd "$tmp" && npm pack --silent "swagger-ui-dist@$VERSION" >/dev/null && tar xzf swagger-ui-dist-*.tgz)
rm -rf dist
mkdir dist
for f in LICENSE NOTICE swagger-ui-bundle.js swagger-ui-bundle.js.LICENSE.txt swagger-ui.css favicon-32x32.png; do
	cp "$tmp/package/$f" dist/
done
chmod 644 dist/*
cat >dist/THIRD_PARTY <<END
Third-party files: swagger-ui-dist $VERSION, built, from the npm registry. Licence: LICENSE, NOTICE and
swagger-ui-bundle.js.LICENSE.txt beside this file. Not to be edited; ../refresh.sh fetches them.
END
printf '* -text linguist-vendored linguist-generated\n' >dist/.gitattributes
