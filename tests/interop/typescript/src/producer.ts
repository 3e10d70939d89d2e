// Enqueues one task of the kit's kind and one of the catalog.

import { Metadata, type ServiceError, status } from "@grpc/grpc-js";
import { setTimeout as sleep } from "node:timers/promises";

import { Script } from "../gen/workerqueue/conformance/v1/conformance.js";
import { StartRun } from "../gen/workerqueue/tasks/v1/tasks.js";
import {
  enqueueOutcomeToJSON,
  EnqueueRequest,
  EnqueueResponse,
  WorkerQueueClient,
} from "../gen/workerqueue/v1/worker_queue.js";
import { access } from "./access.js";
import { channelOptions } from "./worker.js";

const RETRYABLE: status[] = [status.UNAVAILABLE, status.DEADLINE_EXCEEDED, status.RESOURCE_EXHAUSTED];

const client = new WorkerQueueClient(
  process.env.WORKERQUEUE_ADDRESS!,
  access(),
  channelOptions,
);

/** Repeats the call until the server has answered: with a task id, that makes one task only. */
async function enqueue(request: EnqueueRequest): Promise<EnqueueResponse> {
  for (;;) {
    try {
      return await new Promise((resolve, reject) =>
        client.enqueue(request, new Metadata(), { deadline: Date.now() + 5_000 }, (error, response) =>
          error ? reject(error) : resolve(response),
        ),
      );
    } catch (error) {
      if (!RETRYABLE.includes((error as ServiceError).code)) throw error;
      await sleep(200);
    }
  }
}

const queue = process.env.CONFORMANCE_QUEUE!;
const script = Script.fromPartial({ text: process.env.CONFORMANCE_TEXT! });
const { task, outcome } = await enqueue(
  EnqueueRequest.fromPartial({
    taskId: process.env.CONFORMANCE_TASK_ID!,
    payloadForm: {
      $case: "payload",
      payload: {
        typeUrl: "type.googleapis.com/workerqueue.conformance.v1.Script",
        value: Buffer.from(Script.encode(script).finish()),
      },
    },
    options: { queue },
  }),
);
console.log(
  JSON.stringify({
    event: "enqueued",
    task_id: task!.taskId,
    outcome: enqueueOutcomeToJSON(outcome).replace("ENQUEUE_OUTCOME_", ""),
  }),
);

await enqueue(
  EnqueueRequest.fromPartial({
    payloadForm: {
      $case: "payload",
      payload: {
        typeUrl: "type.googleapis.com/workerqueue.tasks.v1.StartRun",
        value: Buffer.from(StartRun.encode(StartRun.fromPartial({ id: "run_1" })).finish()),
      },
    },
    options: { queue, when: { $case: "delay", delay: { seconds: 3600, nanos: 0 } }, tags: ["example"] },
  }),
);
client.close();
