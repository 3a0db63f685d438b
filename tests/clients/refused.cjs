// Sends bodies that are refused before they have arrived, with the client of node's standard library.
//
// refused.cjs URL TOKEN: prints, a line a try, the status that it saw, or the error in its place.
const [, , address, token] = process.argv;
const url = new URL(address);
const { request } = require(url.protocol === "https:" ? "node:https" : "node:http");

const bearer = { Authorization: `Bearer ${token}` };
// What is wrong, in the order of the statuses: too large, of no known type, without a token, malformed, unknown.
const REQUESTS = [
  ["POST", "/v1/watches", { "Content-Type": "application/json", ...bearer }],
  ["POST", "/v1/watches", { "Content-Type": "text/html", ...bearer }],
  ["POST", "/v1/prices", { "Content-Type": "application/x-ndjson" }],
  ["POST", "/v1/prices?backfill=what", { "Content-Type": "application/x-ndjson", ...bearer }],
  ["PUT", "/v1/nothing", {}],
];
const body = Buffer.alloc(5 << 20, "x");

const ask = (method, path, headers) =>
  new Promise((resolve) => {
    const options = { method, headers: { "Content-Length": body.length, ...headers }, agent: false, rejectUnauthorized: false };
    const asked = request(new URL(path, url), options, (answer) => {
      answer.resume();
      answer.on("end", () => resolve(answer.statusCode));
    });
    asked.on("error", (error) => resolve(String(error)));
    asked.end(body);
  });

(async () => {
  for (const [method, path, headers] of REQUESTS) {
    for (let at = 0; at < 4; at++) console.log(await ask(method, path, headers));
  }
})();
