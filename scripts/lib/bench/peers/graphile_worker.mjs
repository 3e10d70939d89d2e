// graphile-worker under measurement: node graphile_worker.mjs ACTION DSN TASKS, run in the folder
// that it is installed in. Prints what it did as JSON.
import { createRequire } from "node:module";
import { join } from "node:path";

const load = createRequire(join(process.cwd(), "index.js"));
const { makeWorkerUtils, run, runMigrations, Logger } = load("graphile-worker");
const pg = load("pg");

const [action, dsn, count] = process.argv.slice(2);
const tasks = Number(count);
const IN_FLIGHT = 64;
const BATCH = 1000;
// What its documentation recommends for throughput: jobs fetched and completed in batches.
const CONCURRENT_JOBS = 100;
const LOCAL_QUEUE = 500;
const payload = { id: "run_01J9Z3M8V4T6Q2X7C5B1N0K8P9-000001" };

const silent = new Logger(() => () => {});
const pgPool = new pg.Pool({ connectionString: dsn, max: 16 });
// Which its pool asks for, and which nothing here needs.
pgPool.on("error", () => {});
pgPool.on("connect", (client) => client.on("error", () => {}));
const batching = {
  worker: {
    concurrentJobs: CONCURRENT_JOBS,
    localQueue: { size: LOCAL_QUEUE },
    completeJobBatchDelay: 0,
    failJobBatchDelay: 0,
  },
};

async function single(utils) {
  let left = tasks;
  const started = performance.now();
  const call = async () => {
    while (left-- > 0) await utils.addJob("noop", payload);
  };
  await Promise.all(Array.from({ length: IN_FLIGHT }, call));
  return { seconds: (performance.now() - started) / 1000 };
}

async function bulk(utils) {
  const specs = Array.from({ length: BATCH }, () => ({ identifier: "noop", payload }));
  const started = performance.now();
  for (let done = 0; done < tasks; done += BATCH) await utils.addJobs(specs);
  return { seconds: (performance.now() - started) / 1000 };
}

async function work(noop, preset) {
  return run({ pgPool, logger: silent, noHandleSignals: true, taskList: { noop }, preset });
}

async function drain() {
  let done = 0;
  const started = performance.now();
  const finished = new Promise((resolve) => {
    const noop = async () => {
      if (++done === tasks) resolve();
    };
    work(noop, batching).then((runner) => {
      globalThis.runner = runner;
    });
  });
  await finished;
  // Stopping waits until the last completions are written.
  await globalThis.runner.stop();
  return { seconds: (performance.now() - started) / 1000 };
}

async function latency(utils) {
  const latencies = [];
  let arrived;
  const runner = await work(
    async (job) => {
      latencies.push(performance.now() - job.started);
      arrived();
    },
    { worker: { concurrentJobs: 10 } },
  );
  for (let sent = 0; sent < tasks; sent++) {
    await new Promise((resolve) => setTimeout(resolve, 5 + Math.random() * 20));
    const next = new Promise((resolve) => (arrived = resolve));
    await utils.addJob("noop", { started: performance.now() });
    await next;
  }
  await runner.stop();
  return { latencies };
}

if (action === "prepare") await runMigrations({ pgPool });
const utils = await makeWorkerUtils({ pgPool, logger: silent });
const actions = { prepare: async () => ({}), single, bulk, drain, latency };
const report = await actions[action](utils);
await utils.release();
await pgPool.end();
process.stdout.write(JSON.stringify(report) + "\n");
