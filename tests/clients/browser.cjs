// Opens the pages for readers in Chromium, as a reader would.
//
// Reads {"browser", "url", "token", "folder"} from stdin: the program, the address of the API, a token of it, and a folder
// for files. Prints what it has found as JSON:
//   pages       for each page its path, status and title, what its policy has refused, requests to other hosts, errors of
//               scripts, and what axe finds wrong with it in light and in dark colours (Swagger UI's page: not looked at)
//   operations  those that Swagger UI shows, as "GET /v1/me"
//   tried       what it shows after a request without and one with a token, and what it has kept of that token
const { spawn } = require("node:child_process");
const { mkdtempSync, readFileSync } = require("node:fs");
const { join } = require("node:path");

const { browser, url, token, folder } = JSON.parse(readFileSync(0, "utf8"));
const axe = readFileSync(require.resolve("axe-core/axe.min.js"), "utf8");

/** Limit of each wait in milliseconds, sized for a busy machine. */
const PATIENCE = 60_000;

// The pipe needs no port and no library for WebSockets, which Node has from version 22 on. Names of hosts lead nowhere: the
// test sees that one was asked for.
const chromium = spawn(
  browser,
  [
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--disable-default-apps", "--window-size=1280,1000",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1", "--remote-debugging-pipe",
    `--user-data-dir=${mkdtempSync(join(folder, "profile-"))}`, "about:blank",
  ],
  { stdio: ["ignore", "ignore", "ignore", "pipe", "pipe"], env: { ...process.env, HOME: folder } },
);
chromium.on("error", (error) => fail(error));
chromium.on("exit", () => fail(new Error("the browser has ended")));

function fail(error) {
  console.error(error.stack);
  chromium.kill("SIGKILL");
  process.exit(1);
}

const waiting = new Map();
let listen = () => {};
let last = 0;
let rest = "";
chromium.stdio[4].setEncoding("utf8").on("data", (data) => {
  const messages = (rest + data).split("\0");
  rest = messages.pop();
  for (const text of messages) {
    const message = JSON.parse(text);
    if (message.id === undefined) listen(message);
    else {
      const { resolve, reject } = waiting.get(message.id);
      waiting.delete(message.id);
      message.error ? reject(new Error(message.error.message)) : resolve(message.result);
    }
  }
});

function call(method, params = {}, sessionId = undefined) {
  return new Promise((resolve, reject) => {
    last += 1;
    waiting.set(last, { resolve, reject });
    chromium.stdio[3].write(`${JSON.stringify({ id: last, method, params, sessionId })}\0`);
  });
}

/** A page in a tab of its own. */
class Tab {
  static async open(path) {
    const { targetId } = await call("Target.createTarget", { url: "about:blank" });
    const { sessionId } = await call("Target.attachToTarget", { targetId, flatten: true });
    const tab = new Tab();
    Object.assign(tab, { sessionId, targetId, path, refused: [], foreign: [], errors: [], status: 0 });
    listen = (message) => message.sessionId === sessionId && tab.hear(message);
    for (const domain of ["Page", "Runtime", "Network", "Log", "Audits"]) await tab.call(`${domain}.enable`);
    const loaded = new Promise((resolve) => (tab.onLoad = resolve));
    await tab.call("Page.navigate", { url: url + path });
    await loaded;
    return tab;
  }

  call(method, params) {
    return call(method, params, this.sessionId);
  }

  hear({ method, params }) {
    if (method === "Page.loadEventFired") this.onLoad();
    if (method === "Network.requestWillBeSent") {
      const { protocol, origin } = new URL(params.request.url);
      if (!["data:", "blob:"].includes(protocol) && origin !== url) this.foreign.push(params.request.url);
    }
    if (method === "Network.responseReceived" && params.type === "Document") this.status = params.response.status;
    if (method === "Audits.issueAdded" && params.issue.code === "ContentSecurityPolicyIssue") {
      this.refused.push(params.issue.details.contentSecurityPolicyIssueDetails);
    }
    if (method === "Log.entryAdded" && params.entry.level === "error") this.errors.push(params.entry.text);
    if (method === "Runtime.exceptionThrown") this.errors.push(params.exceptionDetails.exception?.description);
  }

  /** Runs an expression in the page, also one that its policy would refuse to a script. */
  async run(expression) {
    const answer = await this.call("Runtime.evaluate", { expression, awaitPromise: true, returnByValue: true });
    if (answer.exceptionDetails) throw new Error(`${expression.slice(0, 300)}: ${answer.exceptionDetails.exception.description}`);
    return answer.result.value;
  }

  /** Waits until an expression is true. */
  async until(expression) {
    const end = Date.now() + PATIENCE;
    while (!(await this.run(expression))) {
      if (Date.now() > end) throw new Error(`never true at ${this.path}: ${expression}`);
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
  }

  async click(selector) {
    const found = `document.querySelector(${JSON.stringify(selector)})`;
    await this.until(`${found} !== null`);
    await this.run(`${found}.click()`);
  }

  /** Types into a field as React notices it. */
  async type(selector, text) {
    const found = `document.querySelector(${JSON.stringify(selector)})`;
    await this.until(`${found} !== null`);
    await this.run(`(() => {
      const setter = Object.getOwnPropertyDescriptor(HTMLInputElement.prototype, "value").set;
      setter.call(${found}, ${JSON.stringify(text)});
      ${found}.dispatchEvent(new Event("input", { bubbles: true }));
    })()`);
  }

  /** What axe finds wrong in one colour scheme. */
  async faults(scheme) {
    await this.call("Emulation.setEmulatedMedia", { features: [{ name: "prefers-color-scheme", value: scheme }] });
    await this.run(`typeof axe === "undefined" ? (0, eval)(${JSON.stringify(axe)}) && undefined : undefined`);
    const found = await this.run(`axe.run(document, { resultTypes: ["violations"], preload: false }).then((result) =>
      result.violations.map((one) => one.id + ": " + one.help + " " + one.nodes.slice(0, 3).map((node) => node.html).join(" ")))`);
    return found.map((fault) => `${scheme}: ${fault}`);
  }

  /** Closes the tab; returns what it has seen. */
  async close(faults = undefined) {
    const { path, status, refused, foreign, errors } = this;
    const title = await this.run("document.title");
    await call("Target.closeTarget", { targetId: this.targetId });
    return { path, status, title, refused, foreign, errors, faults };
  }
}

/** Sends the request of an operation with Swagger UI; returns the status and the body that it shows. */
async function send(tab, tag, id) {
  const block = `#operations-${tag}-${id}`;
  await tab.click(`${block} .opblock-summary-control`);
  await tab.click(`${block} .try-out__btn`);
  await tab.click(`${block} .execute`);
  const shown = `${block} .live-responses-table .response`;
  await tab.until(`document.querySelector(${JSON.stringify(`${shown} .highlight-code`)}) !== null`);
  const part = (selector) => tab.run(`document.querySelector(${JSON.stringify(`${shown} ${selector}`)}).innerText`);
  return { status: await part(".response-col_status"), body: await part(".highlight-code") };
}

async function main() {
  const pages = [];
  for (const path of ["/", "/docs", "/problems", "/problems/invalid"]) {
    const tab = await Tab.open(path);
    // What the page does by itself, before axe looks at it.
    const refused = [...tab.refused];
    const faults = [...(await tab.faults("light")), ...(await tab.faults("dark"))];
    pages.push({ ...(await tab.close(faults)), refused });
  }
  const tab = await Tab.open("/docs/try");
  await tab.until(`document.querySelectorAll(".opblock").length > 0`);
  const operations = await tab.run(`[...document.querySelectorAll(".opblock-tag-section .opblock-summary")].map((one) =>
    one.querySelector(".opblock-summary-method").innerText + " " + one.querySelector("[data-path]").dataset.path)`);
  const stores = await send(tab, "catalogue", "list_stores");
  await tab.click(".auth-wrapper .authorize");
  await tab.type(".auth-container input", token);
  await tab.click(".auth-container .authorize");
  await tab.click(".auth-container .btn-done");
  const me = await send(tab, "account", "get_me");
  const kept = await tab.run(`JSON.stringify([{ ...localStorage }, { ...sessionStorage }, document.cookie])`);
  pages.push(await tab.close());
  return { pages, operations, tried: { stores, me, kept } };
}

main().then((found) => {
  process.stdout.write(JSON.stringify(found), () => {
    chromium.kill("SIGKILL");
    process.exit(0);
  });
}, fail);
