// A crowd out of nowhere: from a trickle to PEAK requests a second (default 5000) within ten seconds, twice. The gateway
// may answer 503 while it is full; it may not break connections, and is itself again as soon as the crowd has gone.

import type { Options } from "k6/options";
import { hello, upstream } from "./requests.ts";

/** An iteration is two requests. */
const peak = Math.max(1, Math.round(Number(__ENV.PEAK ?? "5000") / 2));
const trickle = Math.max(1, Math.round(peak / 50));

export const options: Options = {
  scenarios: {
    crowd: {
      executor: "ramping-arrival-rate",
      startRate: trickle,
      timeUnit: "1s",
      preAllocatedVUs: 200,
      maxVUs: 4000,
      stages: [
        { duration: "20s", target: trickle },
        { duration: "10s", target: peak },
        { duration: "30s", target: peak },
        { duration: "5s", target: trickle },
        { duration: "20s", target: trickle },
        { duration: "10s", target: peak },
        { duration: "30s", target: peak },
        { duration: "5s", target: trickle },
        { duration: "20s", target: trickle },
      ],
    },
  },
  thresholds: {
    http_req_failed: ["rate<0.01"],
    wrong_answers: ["rate<0.01"],
    http_req_duration: ["p(99)<2000"],
  },
};

export default function spike(): void {
  hello();
  upstream();
}
