// Works on the kinds of the conformance kit and on two of the built-in catalog.

import { setTimeout as sleep } from "node:timers/promises";

import { Any } from "../gen/google/protobuf/any.js";
import { Mark, Order, Report, Script, Turn } from "../gen/workerqueue/conformance/v1/conformance.js";
import { RegisterJob, ScheduleEmail } from "../gen/workerqueue/tasks/v1/tasks.js";
import { CancellationReason, cancellationReasonToJSON, LeasedTask } from "../gen/workerqueue/v1/lease.js";
import { Failure, milliseconds, type Task, Worker } from "./worker.js";

const PREFIX = "type.googleapis.com/workerqueue.conformance.v1.";

/** Reads the payload as the message that it is, and does the work of that kind. */
async function handle(task: Task): Promise<Any> {
  say("started", task);
  const { typeUrl, value } = task.payload!;
  switch (typeUrl.slice(typeUrl.lastIndexOf("/") + 1)) {
    case "workerqueue.tasks.v1.ScheduleEmail": {
      const email = ScheduleEmail.decode(value);
      return report(task, `${email.to}: ${email.subject}`);
    }
    case "workerqueue.tasks.v1.RegisterJob": {
      const { endpointId, job } = RegisterJob.decode(value);
      return report(task, `${endpointId}: ${job?.name}`);
    }
    case "workerqueue.conformance.v1.Order": {
      const order = Order.decode(value);
      const total = order.lines.reduce((sum, line) => sum + line.count * line.cents, 0);
      return report(task, `${order.number}: ${total}`);
    }
    case "workerqueue.conformance.v1.Script":
      return perform(task, Script.decode(value));
    default:
      throw new Failure("UnknownKind", task.kind, { permanent: true });
  }
}

async function perform(task: Task, script: Script): Promise<Any> {
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
  return report(task, script.text, task.checkpoint ? Mark.decode(task.checkpoint.value).text : "");
}

function report(task: Task, text: string, checkpoint = ""): Any {
  const message: Report = { text, checkpoint, attempt: task.attempt };
  return { typeUrl: `${PREFIX}Report`, value: Buffer.from(Report.encode(message).finish()) };
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
