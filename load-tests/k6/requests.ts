// What every script asks of a Portcullis that runs conf/portcullis.yaml, and what it expects to hear.

import { check, group } from "k6";
import http from "k6/http";
import { Rate } from "k6/metrics";

/** Where the gateway is. */
export const BASE_URL = (__ENV.BASE_URL ?? "http://127.0.0.1:8080").replace(/\/+$/, "");

/** The path of a route with an upstream; `none` leaves it out, for a gateway without an origin. */
export const UPSTREAM_PATH = __ENV.UPSTREAM_PATH ?? "/upstream/";

/** Answers that were not as expected, the status of a refusal included. */
export const wrong = new Rate("wrong_answers");

/** The gateway's own answers bear an id that finds them in the log. */
const REQUEST_ID = /^[A-Za-z0-9._-]{1,64}$/;

function hasRequestId(headers: Record<string, string>): boolean {
  return REQUEST_ID.test(headers["X-Request-Id"] ?? "");
}

/** A route that answers by itself: the cost of the gateway alone. */
export function hello(): void {
  const answer = http.get(`${BASE_URL}/hello`, { tags: { name: "hello" } });
  const right = check(answer, {
    "hello: 200": (r) => r.status === 200,
    "hello: the body": (r) => r.json("hello") === "world",
    "hello: a request id": (r) => hasRequestId(r.headers),
  });
  wrong.add(!right);
}

/** A route that says what the gateway saw: the query, a header and the body arrive as sent. */
export function echo(bodyBytes: number): void {
  const answer = http.post(`${BASE_URL}/echo?tea=green`, "x".repeat(bodyBytes), {
    headers: { "Content-Type": "text/plain", "X-Load-Test": "k6" },
    tags: { name: "echo" },
  });
  const right = check(answer, {
    "echo: 200": (r) => r.status === 200,
    "echo: the method": (r) => r.json("method") === "POST",
    "echo: the query": (r) => r.json("query") === "tea=green",
    "echo: the header": (r) => r.json("headers.x-load-test") === "k6",
    "echo: every byte of the body": (r) => r.json("body_bytes") === bodyBytes,
  });
  wrong.add(!right);
}

/** A route that forwards. */
export function upstream(): void {
  if (UPSTREAM_PATH === "none") {
    return;
  }
  const answer = http.get(`${BASE_URL}${UPSTREAM_PATH}`, { tags: { name: "upstream" } });
  const right = check(answer, {
    "upstream: 200": (r) => r.status === 200,
    "upstream: a request id": (r) => hasRequestId(r.headers),
  });
  wrong.add(!right);
}

/** A refusal is an answer too: at once, with a problem document, and nothing about the inside. */
export function refused(): void {
  const answer = http.get(`${BASE_URL}/no-such-route`, {
    tags: { name: "refused" },
    responseCallback: http.expectedStatuses(404),
  });
  const right = check(answer, {
    "refused: 404": (r) => r.status === 404,
    "refused: a problem document": (r) => (r.headers["Content-Type"] ?? "").startsWith("application/problem+json"),
    "refused: not kept by caches": (r) => (r.headers["Cache-Control"] ?? "").includes("no-store"),
  });
  wrong.add(!right);
}

/** What a visit asks: mostly what is forwarded, a little of everything else. */
export function visit(): void {
  group("visit", () => {
    hello();
    upstream();
    upstream();
    echo(1024);
  });
}
