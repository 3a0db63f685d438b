// Uploads a file with `tus-js-client`, as a browser or a server would.
//
// Reads {"endpoint", "token", "file", "how"} from stdin, and prints the address of the upload. `how` is "whole",
// "broken" (cut off in the middle, and resumed by what the client has remembered), or "parallel" (in parts that are
// put together). With "draft" in front, by the draft of the IETF instead of tus.
const { createReadStream, mkdtempSync, readFileSync, rmSync, statSync } = require("node:fs");
const { tmpdir } = require("node:os");
const { join } = require("node:path");
const tus = require("tus-js-client");

const { endpoint, token, file, how: asked } = JSON.parse(readFileSync(0, "utf8"));
const draft = asked.startsWith("draft");
const how = asked.replace(/^draft ?/, "") || "whole";
const memory = mkdtempSync(join(tmpdir(), "salebell-tus-"));

function upload(onProgress) {
  return new Promise((resolve, reject) => {
    const one = new tus.Upload(createReadStream(file), {
      endpoint,
      headers: { Authorization: `Bearer ${token}` },
      metadata: { filename: "from-node.bin", filetype: "application/x-test" },
      uploadSize: how === "parallel" ? undefined : statSync(file).size,
      chunkSize: 300_000,
      protocol: draft ? "ietf-draft-05" : "tus-v1",
      uploadDataDuringCreation: draft,
      parallelUploads: how === "parallel" ? 3 : 1,
      retryDelays: [0, 100, 500],
      urlStorage: new tus.FileUrlStorage(join(memory, "urls.json")),
      fingerprint: async () => "the-same-file",
      onProgress: (sent) => onProgress?.(sent, one, resolve),
      onError: reject,
      onSuccess: () => resolve(one.url),
    });
    one.findPreviousUploads().then((previous) => {
      if (previous.length > 0) one.resumeFromPreviousUpload(previous[0]);
      one.start();
    }, reject);
  });
}

async function main() {
  if (how === "broken") {
    await upload((sent, one, resolve) => {
      if (sent > 500_000) one.abort().then(resolve);
    });
  }
  console.log(await upload());
}

main().then(
  () => rmSync(memory, { recursive: true }),
  (error) => {
    console.error(String(error));
    process.exit(1);
  },
);
