#!/usr/bin/env bash
# tus-js-client 4.3.1 (npm), node: with `protocol: "ietf-draft-05"` a file that is read as a stream is never said to be
# complete. The client learns that a stream is at its end only by reading behind the last byte, which it does not do once
# it has sent as many bytes as `uploadSize`; so the last PATCH says `Upload-Complete: ?0`, and the client reports success.
# By the draft such an upload is not complete, whatever its length. Of a Buffer the last PATCH says `?1`.
#
# Output seen:
#   stream: POST ?0, PATCH ?0, PATCH ?0, success
#   buffer: POST ?0, PATCH ?0, PATCH ?1, success
#
# Exits with 1 when the client behaves otherwise.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
npm install --silent --no-audit --no-fund --no-package-lock tus-js-client@4.3.1 >&2
cat > client.cjs <<'JS'
const http = require("node:http");
const { createReadStream, writeFileSync } = require("node:fs");
const tus = require("tus-js-client");
let seen = [];
let offset = 0;
const server = http.createServer((request, response) => {
  seen.push(`${request.method} ${request.headers["upload-complete"]}`);
  request.on("data", (bytes) => (offset += bytes.length));
  request.on("end", () => {
    const status = request.method === "POST" ? 201 : 204;
    response.writeHead(status, { Location: "/files/1", "Upload-Offset": offset });
    response.end();
  });
});
function upload(source) {
  seen = [];
  offset = 0;
  return new Promise((resolve, reject) => {
    new tus.Upload(source, {
      endpoint: `http://127.0.0.1:${server.address().port}/files`,
      uploadSize: 6,
      chunkSize: 3,
      protocol: "ietf-draft-05",
      retryDelays: null,
      onSuccess: () => resolve(`${seen.join(", ")}, success`),
      onError: reject,
    }).start();
  });
}
server.listen(0, "127.0.0.1", async () => {
  writeFileSync("file", "abcdef");
  console.log(`stream: ${await upload(createReadStream("file"))}`);
  console.log(`buffer: ${await upload(Buffer.from("abcdef"))}`);
  process.exit(0);
});
JS
seen=$(timeout 60 node client.cjs)
echo "$seen"
[ "$seen" = "stream: POST ?0, PATCH ?0, PATCH ?0, success
buffer: POST ?0, PATCH ?0, PATCH ?1, success" ]
