#!/usr/bin/env bash
# tus-js-client 4.3.1 (npm), node: with `protocol: "ietf-draft-05"` and `uploadDataDuringCreation: true` the POST that
# creates an upload has `Content-Type: application/partial-upload`, which the draft defines for the PATCH of an append; in
# a creation the Content-Type is that of the representation. A server that believes it stores a file of that type. The
# real type comes in `Upload-Metadata`, the header of tus 1.0, which the draft does not know.
#
# Output seen:
#   POST content-type=application/partial-upload complete=?1 metadata=filetype dGV4dC9jc3Y= interop=6
#
# Exits with 1 when the client behaves otherwise.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
npm install --silent --no-audit --no-fund --no-package-lock tus-js-client@4.3.1 >&2
cat > client.cjs <<'JS'
const http = require("node:http");
const tus = require("tus-js-client");
const server = http.createServer((request, response) => {
  const of = (name) => request.headers[name];
  console.log(
    `${request.method} content-type=${of("content-type")} complete=${of("upload-complete")}` +
      ` metadata=${of("upload-metadata")} interop=${of("upload-draft-interop-version")}`,
  );
  request.resume();
  request.on("end", () => {
    response.writeHead(201, { Location: "/files/1", "Upload-Offset": 5, "Upload-Complete": "?1" });
    response.end();
  });
});
server.listen(0, "127.0.0.1", () => {
  const upload = new tus.Upload(Buffer.from("a,b,c"), {
    endpoint: `http://127.0.0.1:${server.address().port}/files`,
    metadata: { filetype: "text/csv" },
    protocol: "ietf-draft-05",
    uploadDataDuringCreation: true,
    retryDelays: null,
    onSuccess: () => process.exit(0),
    onError: (error) => {
      console.error(String(error));
      process.exit(2);
    },
  });
  upload.start();
});
JS
seen=$(timeout 60 node client.cjs)
echo "$seen"
[ "$seen" = "POST content-type=application/partial-upload complete=?1 metadata=filetype dGV4dC9jc3Y= interop=6" ]
