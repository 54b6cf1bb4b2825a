// Runs every k6 script once without k6, so that they do not rot: compiles them, gives them stand-ins for k6's modules,
// and sends their requests to a tiny server of its own, or to the gateway that BASE_URL names. Also shows that their
// checks can fail: against a server that answers everything wrongly.

import { execFileSync } from "node:child_process";
import { cpSync, mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:http";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import { isMainThread, MessageChannel, receiveMessageOnPort, Worker, workerData } from "node:worker_threads";

const here = dirname(fileURLToPath(import.meta.url));
const ITERATIONS = 3;
const THRESHOLD = /^(p\(\d+(\.\d+)?\)|rate|count|avg|min|med|max|value)(<|<=|>|>=|==|!=)\d+(\.\d+)?$/;

// ── The server, in a thread of its own ──────────────────────────────────────────────────────────────────────────────

/** What a right gateway would answer. */
function answerRightly(request, body) {
  const url = new URL(request.url, "http://gateway");
  const headers = { "content-type": "application/json", "x-request-id": "0193-test" };
  if (url.pathname === "/hello") {
    return [200, headers, JSON.stringify({ hello: "world" })];
  }
  if (url.pathname === "/echo") {
    const seen = {
      method: request.method,
      path: url.pathname,
      query: url.search.slice(1),
      headers: request.headers,
      body_bytes: body.length,
    };
    return [200, headers, JSON.stringify(seen)];
  }
  if (url.pathname.startsWith("/upstream/")) {
    return [200, headers, "{}"];
  }
  const problem = { type: "urn:portcullis:problem:route-not-found", status: 404 };
  return [404, { ...headers, "content-type": "application/problem+json", "cache-control": "no-store" }, JSON.stringify(problem)];
}

const answerWrongly = () => [500, { "content-type": "application/json" }, "{}"];

function serve({ port, right }) {
  const server = createServer(async (request, response) => {
    const pieces = [];
    for await (const piece of request) {
      pieces.push(piece);
    }
    const [status, headers, body] = (right ? answerRightly : answerWrongly)(request, Buffer.concat(pieces));
    response.writeHead(status, headers).end(body);
  });
  server.listen(0, "127.0.0.1", () => port.postMessage(server.address().port));
}

// ── k6's requests block; Node's do not: a thread makes them while this one waits ────────────────────────────────────

function fetchForOthers({ port, signal }) {
  port.on("message", async ({ url, init }) => {
    let message;
    try {
      const answer = await fetch(url, { ...init, redirect: "manual" });
      message = { status: answer.status, headers: [...answer.headers], body: await answer.text() };
    } catch (error) {
      message = { status: 0, headers: [], body: "", error: String(error.cause ?? error) };
    }
    port.postMessage(message);
    Atomics.store(signal, 0, 1);
    Atomics.notify(signal, 0);
  });
}

function startThread(role, data, transfer) {
  const worker = new Worker(fileURLToPath(import.meta.url), { workerData: { role, ...data }, transferList: transfer });
  worker.on("error", (error) => {
    throw error;
  });
  return worker;
}

function blockingFetch() {
  const { port1, port2 } = new MessageChannel();
  const signal = new Int32Array(new SharedArrayBuffer(4));
  const worker = startThread("fetch", { port: port2, signal }, [port2]);
  const request = (url, init) => {
    Atomics.store(signal, 0, 0);
    port1.postMessage({ url, init });
    if (Atomics.wait(signal, 0, 0, 30_000) === "timed-out") {
      throw new Error(`no answer from ${url} within 30 s`);
    }
    return receiveMessageOnPort(port1).message;
  };
  return { request, stop: () => worker.terminate() };
}

async function startServer(right) {
  const { port1, port2 } = new MessageChannel();
  const worker = startThread("serve", { port: port2, right }, [port2]);
  const port = await new Promise((resolve) => port1.once("message", resolve));
  port1.close();
  return { url: `http://127.0.0.1:${port}`, stop: () => worker.terminate() };
}

// ── The stand-ins: as much of k6 as the scripts use ─────────────────────────────────────────────────────────────────

const STAND_INS = {
  "index.js": `
    export function check(value, sets) {
      let all = true;
      for (const [name, holds] of Object.entries(sets)) {
        let passed = false;
        try { passed = Boolean(holds(value)); } catch { passed = false; }
        globalThis.__k6.checks.push({ name, passed });
        all &&= passed;
      }
      return all;
    }
    export const group = (_name, body) => body();
    export const sleep = (seconds) => { if (!(seconds >= 0)) throw new Error("sleep: not a time"); };
    export const fail = (message) => { throw new Error(message); };
  `,
  "http.js": `
    // k6 writes header names as Go does.
    const canonical = (name) => name.replace(/(^|-)([a-z])/g, (all) => all.toUpperCase());
    function send(method, url, body, params = {}) {
      const init = { method, headers: params.headers ?? {} };
      if (body !== null && body !== undefined) init.body = body;
      const answer = globalThis.__k6.request(url, init);
      globalThis.__k6.requests += 1;
      return {
        status: answer.status,
        body: answer.body,
        error: answer.error ?? "",
        headers: Object.fromEntries(answer.headers.map(([name, value]) => [canonical(name), value])),
        json(path) {
          let value = JSON.parse(answer.body);
          for (const key of path ? path.split(".") : []) value = value?.[key];
          return value;
        },
      };
    }
    const http = {
      get: (url, params) => send("GET", url, null, params),
      post: (url, body, params) => send("POST", url, body, params),
      expectedStatuses: (...statuses) => ({ statuses }),
    };
    export default http;
  `,
  "metrics.js": `
    class Metric {
      constructor(name) { this.name = name; this.values = []; globalThis.__k6.metrics.add(name); }
      add(value) { this.values.push(value); }
    }
    export { Metric as Rate, Metric as Counter, Metric as Trend, Metric as Gauge };
  `,
};

function writeStandIns(directory) {
  const k6 = join(directory, "node_modules", "k6");
  mkdirSync(k6, { recursive: true });
  const exports = { ".": "./index.js", "./http": "./http.js", "./metrics": "./metrics.js" };
  writeFileSync(join(k6, "package.json"), JSON.stringify({ name: "k6", type: "module", exports }));
  for (const [name, text] of Object.entries(STAND_INS)) {
    writeFileSync(join(k6, name), text);
  }
  writeFileSync(join(directory, "package.json"), JSON.stringify({ type: "module" }));
}

function compile(directory) {
  const tsc = join(here, "node_modules", ".bin", "tsc");
  execFileSync(tsc, ["--project", here, "--outDir", directory, "--noEmit", "false"], { stdio: "inherit" });
}

// ── Running a script ────────────────────────────────────────────────────────────────────────────────────────────────

const BUILT_IN = new Set(["checks", "http_req_failed", "http_req_duration", "dropped_iterations", "http_reqs", "iterations"]);

function judgeOptions(name, options) {
  const wrong = [];
  const thresholds = Object.entries(options?.thresholds ?? {});
  if (thresholds.length === 0) {
    wrong.push("has no thresholds: it could not fail");
  }
  for (const [metric, conditions] of thresholds) {
    const base = metric.replace(/\{.*\}$/, "");
    if (!BUILT_IN.has(base) && !globalThis.__k6.metrics.has(base)) {
      wrong.push(`threshold on ${metric}, which nothing measures`);
    }
    wrong.push(...conditions.filter((text) => !THRESHOLD.test(text)).map((text) => `threshold ${text} cannot be read`));
  }
  return wrong.map((text) => `${name}: ${text}`);
}

/** Loads a compiled script anew (its modules read the environment once) and runs its default function. */
async function runScript(compiled, name, url, upstreamPath, request) {
  const copy = mkdtempSync(join(compiled, "run-"));
  for (const file of readdirSync(compiled).filter((file) => file.endsWith(".js"))) {
    cpSync(join(compiled, file), join(copy, file));
  }
  globalThis.__k6 = { checks: [], requests: 0, metrics: new Set(), request };
  globalThis.__ENV = { BASE_URL: url, ...(upstreamPath && { UPSTREAM_PATH: upstreamPath }) };
  globalThis.__VU = 1;
  const script = await import(pathToFileURL(join(copy, `${name}.js`)).href);
  for (globalThis.__ITER = 0; globalThis.__ITER < ITERATIONS; globalThis.__ITER += 1) {
    script.default();
  }
  return { options: script.options, ...globalThis.__k6 };
}

async function main() {
  const directory = mkdtempSync(join(tmpdir(), "portcullis-k6-"));
  const compiled = join(directory, "compiled");
  const fetcher = blockingFetch();
  const right = process.env.BASE_URL ? { url: process.env.BASE_URL, stop() {} } : await startServer(true);
  const wrong = await startServer(false);
  const faults = [];
  try {
    compile(compiled);
    writeStandIns(directory);
    const scripts = readdirSync(join(here, "k6")).filter((file) => file !== "requests.ts").map((file) => file.replace(/\.ts$/, ""));
    for (const name of scripts) {
      const good = await runScript(compiled, name, right.url, process.env.UPSTREAM_PATH, fetcher.request);
      const failed = [...new Set(good.checks.filter((entry) => !entry.passed).map((entry) => entry.name))];
      faults.push(...failed.map((check) => `${name}: check failed: ${check}`), ...judgeOptions(name, good.options));
      if (good.checks.length === 0) {
        faults.push(`${name}: checked nothing`);
      }
      const bad = await runScript(compiled, name, wrong.url, undefined, fetcher.request);
      const statuses = bad.checks.filter((entry) => /: \d{3}$/.test(entry.name));
      if (statuses.length === 0 || statuses.some((entry) => entry.passed)) {
        faults.push(`${name}: a server that answers 500 to everything passed`);
      }
      console.log(`${name}: ${good.requests} requests, ${good.checks.length} checks, ${failed.length} failed`);
    }
  } finally {
    await Promise.all([fetcher.stop(), right.stop(), wrong.stop()]);
    rmSync(directory, { recursive: true, force: true });
  }
  for (const fault of faults) {
    console.error(`error: ${fault}`);
  }
  return faults.length === 0 ? 0 : 1;
}

if (isMainThread) {
  process.exitCode = await main();
} else {
  ({ serve, fetch: fetchForOthers })[workerData.role](workerData);
}
