// An ordinary day: requests arrive at a steady rate whether or not answers come, as they do from the internet.
// RATE requests a second (default 500) for DURATION (default 5m).

import type { Options } from "k6/options";
import { visit } from "./requests.ts";

/** A visit is about four requests. */
const visitsPerSecond = Math.max(1, Math.round(Number(__ENV.RATE ?? "500") / 4));

export const options: Options = {
  scenarios: {
    day: {
      executor: "ramping-arrival-rate",
      startRate: 1,
      timeUnit: "1s",
      preAllocatedVUs: 50,
      maxVUs: 1000,
      stages: [
        { duration: "30s", target: visitsPerSecond },
        { duration: __ENV.DURATION ?? "5m", target: visitsPerSecond },
        { duration: "10s", target: 0 },
      ],
    },
  },
  thresholds: {
    checks: ["rate>0.999"],
    wrong_answers: ["rate<0.001"],
    http_req_failed: ["rate<0.001"],
    "http_req_duration{name:hello}": ["p(95)<50", "p(99)<150"],
    "http_req_duration{name:upstream}": ["p(95)<100", "p(99)<300"],
    // A generator that cannot keep up measures itself.
    dropped_iterations: ["count<10"],
  },
};

export default function load(): void {
  visit();
}
