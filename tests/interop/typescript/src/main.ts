// Runs the scripts of the conformance kit.

import { setTimeout as sleep } from "node:timers/promises";

import { Any } from "../gen/google/protobuf/any.js";
import { Mark, Report, Script, Turn } from "../gen/workerqueue/conformance/v1/conformance.js";
import { CancellationReason, cancellationReasonToJSON, LeasedTask } from "../gen/workerqueue/v1/lease.js";
import { Failure, milliseconds, type Task, Worker } from "./worker.js";

const PREFIX = "type.googleapis.com/workerqueue.conformance.v1.";

async function handle(task: Task): Promise<Any> {
  say("started", task);
  const script = Script.decode(task.payload!.value);
  const turn = script.turns[Math.min(task.attempt, script.turns.length) - 1] ?? Turn.fromPartial({});
  if (turn.checkpoint) {
    const value = Buffer.from(Mark.encode({ text: turn.checkpoint }).finish());
    await task.saveCheckpoint({ typeUrl: `${PREFIX}Mark`, value });
  }
  const work = milliseconds(turn.work);
  if (work > 0) await sleep(work, undefined, { signal: task.signal });
  if (turn.end?.$case === "fail") {
    const { message, retryAfter, permanent } = turn.end.fail;
    throw new Failure("ScriptedFailure", message, { retryAfter, permanent });
  }
  const report = Report.fromPartial({
    text: script.text,
    attempt: task.attempt,
    checkpoint: task.checkpoint ? Mark.decode(task.checkpoint.value).text : "",
  });
  return { typeUrl: `${PREFIX}Report`, value: Buffer.from(Report.encode(report).finish()) };
}

function say(event: string, task?: LeasedTask, reason?: string): void {
  const line = { event, task_id: task?.taskId, attempt: task?.attempt, reason };
  process.stdout.write(`${JSON.stringify(line)}\n`);
}

function reasonName(reason: CancellationReason): string {
  return cancellationReasonToJSON(reason).replace("CANCELLATION_REASON_", "");
}

const worker = new Worker({
  address: process.env.WORKERQUEUE_ADDRESS!,
  workerId: process.env.CONFORMANCE_WORKER_ID!,
  queues: [process.env.CONFORMANCE_QUEUE!],
  window: Number(process.env.CONFORMANCE_WINDOW),
  handler: handle,
  onReady: () => say("ready"),
  onFinished: (task) => say("finished", task),
  onStopped: (task, reason) => say("stopped", task, reasonName(reason)),
});
process.stdin.on("end", () => worker.drain()).resume();
await worker.run();
process.exit(0);
