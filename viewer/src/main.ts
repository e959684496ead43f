/**
 * Where the script begins, in the page and in its worker (data/client.ts tells why they are one script).
 * No module may touch the document while it is being imported: a worker has none.
 */

import { serve, type WorkerScope } from "./data/worker.ts";
import { startPage } from "./page.ts";

if (typeof document === "undefined") serve(self as unknown as WorkerScope);
else startPage();
