// Hours of the same: what grows? Watch process_resident_memory_bytes, process_open_fds and portcullis_connections on the
// status address beside it. VUS visitors (default 50) for DURATION (default 4h), with bodies of several sizes.

import { sleep } from "k6";
import type { Options } from "k6/options";
import { echo, refused, visit } from "./requests.ts";

export const options: Options = {
  scenarios: {
    hours: {
      executor: "constant-vus",
      vus: Number(__ENV.VUS ?? "50"),
      duration: __ENV.DURATION ?? "4h",
    },
  },
  thresholds: {
    checks: ["rate>0.9999"],
    wrong_answers: ["rate<0.0001"],
    http_req_failed: ["rate<0.0001"],
    http_req_duration: ["p(99)<500"],
  },
};

const BODY_BYTES = [0, 1, 4096, 65_536, 262_144];

export default function soak(): void {
  visit();
  refused();
  echo(BODY_BYTES[__ITER % BODY_BYTES.length] ?? 0);
  sleep(0.2 + Math.random() * 0.6);
}
