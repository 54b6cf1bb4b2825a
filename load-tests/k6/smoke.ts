// Does it work at all? One visitor, some seconds: after a deployment, or before a longer script.

import type { Options } from "k6/options";
import { refused, visit } from "./requests.ts";

export const options: Options = {
  vus: 1,
  iterations: 10,
  thresholds: {
    checks: ["rate==1"],
    http_req_failed: ["rate==0"],
    http_req_duration: ["p(95)<500"],
  },
};

export default function smoke(): void {
  visit();
  refused();
}
