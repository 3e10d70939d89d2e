// A small worker on nothing but the generated stubs; docs/worker-protocol.md explains each step.
//
// A Worker holds leases, whatever happens to its streams: it opens the next one, presents what it
// holds and repeats the answers that were not confirmed.

import { type ClientDuplexStream, type ServiceError, status } from "@grpc/grpc-js";
import { setTimeout as sleep } from "node:timers/promises";

import { Any } from "../gen/google/protobuf/any.js";
import { Duration } from "../gen/google/protobuf/duration.js";
import {
  AckRequest,
  CancellationReason,
  Fail,
  HeartbeatRequest,
  LeasedTask,
  LeaseOperation,
  LeaseRequest,
  LeaseResponse,
  LeaseResult,
  NackRequest,
  Welcome,
} from "../gen/workerqueue/v1/lease.js";
import { WorkerQueueClient } from "../gen/workerqueue/v1/worker_queue.js";
import { access } from "./access.js";

export const channelOptions = {
  "grpc.keepalive_time_ms": 10_000,
  "grpc.keepalive_timeout_ms": 3_000,
  "grpc.keepalive_permit_without_calls": 1,
};

const SHORTEST_BACKOFF_MS = 500;
const LONGEST_BACKOFF_MS = 5_000;
// A stream that lived this long was a good one.
const STABLE_MS = 10_000;
const WELCOME_MS = 15_000;
// Frames must stay under 4 MiB, and one answer has at most a little over 1 MiB.
const FRAME_BYTES = 2 * 1024 * 1024;
const FRAME_ANSWERS = 1_000;

const FATAL: status[] = [
  status.INVALID_ARGUMENT,
  status.FAILED_PRECONDITION,
  status.UNAUTHENTICATED,
  status.PERMISSION_DENIED,
];
const RETRYABLE: status[] = [
  status.UNAVAILABLE,
  status.RESOURCE_EXHAUSTED,
  status.DEADLINE_EXCEEDED,
  status.CANCELLED,
  status.UNKNOWN,
  status.INTERNAL,
];

/** Does the work of one task. Its result, if any, is stored; throw to fail the attempt. */
export type Handler = (task: Task) => Promise<Any | undefined>;

/** A failure that says how to go on. Any other error is retried with the kind's backoff. */
export class Failure extends Error {
  constructor(
    readonly type: string,
    message: string,
    readonly options: { retryAfter?: Duration | undefined; permanent?: boolean } = {},
  ) {
    super(message);
  }
}

/** A task in a handler's hands. */
export interface Task extends LeasedTask {
  /** Aborted when the lease is over: stop the work. */
  signal: AbortSignal;
  /** Stores what the next attempt receives if this one does not finish; resolves when the server has it. */
  saveCheckpoint(checkpoint: Any): Promise<void>;
}

export interface WorkerOptions {
  address: string;
  workerId: string;
  queues: string[];
  /** How many tasks are handled at once. */
  window: number;
  handler: Handler;
  onReady(): void;
  onFinished(task: LeasedTask): void;
  onStopped(task: LeasedTask, reason: CancellationReason): void;
}

interface Lease {
  task: LeasedTask;
  controller: AbortController;
  /** The work is done, and the server has not confirmed this yet. */
  answer?: { ack: AckRequest } | { nack: NackRequest };
  checkpoint?: Any;
  onStored?: (() => void) | undefined;
  nextBeat: number;
}

type Stream = ClientDuplexStream<LeaseRequest, LeaseResponse>;

export class Worker {
  readonly #options: WorkerOptions;
  /** By lease token, in hex. */
  readonly #leases = new Map<string, Lease>();
  #outgoing: Lease[] = [];
  #heartbeatMs = 10_000;
  #draining = false;
  /** Says that there may be something to write. */
  #wake: () => void = () => {};

  constructor(options: WorkerOptions) {
    this.#options = options;
  }

  /** Takes no more tasks; `run` returns when those that are held are finished. */
  drain(): void {
    this.#draining = true;
    this.#wake();
  }

  /** Works until it has drained. Throws if the server refuses the subscription. */
  async run(): Promise<void> {
    let backoff = SHORTEST_BACKOFF_MS;
    while (!(this.#draining && this.#leases.size === 0)) {
      const opened = Date.now();
      try {
        await this.#stream();
      } catch (error) {
        if (FATAL.includes((error as ServiceError).code)) throw error;
        console.error(`the stream ended: ${error}`);
      }
      if (Date.now() - opened > STABLE_MS) backoff = SHORTEST_BACKOFF_MS;
      await sleep(Math.random() * backoff);
      backoff = Math.min(LONGEST_BACKOFF_MS, 2 * backoff);
    }
  }

  /**
   * Opens one stream and stays with it to its end. It gets a connection of its own, because the last
   * server may be draining.
   */
  async #stream(): Promise<void> {
    const { address, workerId, queues, window } = this.#options;
    const client = new WorkerQueueClient(address, access(), {
      ...channelOptions,
      "grpc.use_local_subchannel_pool": 1,
    });
    const stream = client.lease();
    const impatience = setTimeout(() => stream.cancel(), WELCOME_MS);
    const stopWriting = new AbortController();
    let writing: Promise<void> | undefined;
    try {
      stream.write(
        LeaseRequest.fromPartial({
          subscribe: {
            workerId,
            queues,
            maxInFlight: window,
            protocolVersion: 1,
            heldLeaseTokens: [...this.#leases.values()].map((lease) => lease.task.leaseToken),
          },
        }),
      );
      for await (const frame of stream as AsyncIterable<LeaseResponse>) {
        if (frame.welcome) {
          clearTimeout(impatience);
          this.#onWelcome(frame.welcome);
          writing = this.#write(stream, stopWriting.signal);
        }
        this.#onFrame(frame);
      }
    } finally {
      clearTimeout(impatience);
      stopWriting.abort();
      this.#wake();
      await writing;
      client.close();
    }
  }

  /** Writes answers and heartbeats as they fall due, as many in a frame as are ready. */
  async #write(stream: Stream, stop: AbortSignal): Promise<void> {
    let saidDrain = false;
    while (!stop.aborted) {
      const woken = new Promise<void>((resolve) => (this.#wake = resolve));
      const { frame, waitMs } = this.#nextFrame();
      if (this.#draining && !saidDrain) frame.drain = saidDrain = true;
      if (frame.drain || frame.acks.length + frame.nacks.length + frame.heartbeats.length > 0) {
        await new Promise<void>((resolve) => stream.write(frame, () => resolve()));
        continue;
      }
      const timer = setTimeout(this.#wake, waitMs);
      await woken;
      clearTimeout(timer);
    }
  }

  /** What is to be said now, and how long to wait if that is nothing. */
  #nextFrame(): { frame: LeaseRequest; waitMs: number } {
    const frame = LeaseRequest.fromPartial({});
    let bytes = 0;
    while (bytes < FRAME_BYTES && frame.acks.length + frame.nacks.length < FRAME_ANSWERS) {
      const answer = this.#outgoing.shift()?.answer;
      if (answer === undefined) break;
      if ("ack" in answer) {
        frame.acks.push(answer.ack);
        bytes += answer.ack.result?.value.length ?? 0;
      } else {
        frame.nacks.push(answer.nack);
      }
    }
    const now = Date.now();
    let due = now + 60_000;
    for (const lease of this.#leases.values()) {
      if (lease.answer) continue;
      if (lease.nextBeat <= now && bytes < FRAME_BYTES) {
        lease.nextBeat = now + this.#beatMs(lease.task);
        const { leaseToken } = lease.task;
        frame.heartbeats.push(HeartbeatRequest.fromPartial({ leaseToken, checkpoint: lease.checkpoint }));
        bytes += lease.checkpoint?.value.length ?? 0;
      }
      due = Math.min(due, lease.nextBeat);
    }
    return { frame, waitMs: Math.max(1, due - now) };
  }

  /** How often to prolong a task's lease, which may be shorter than the welcome allows for. */
  #beatMs(task: LeasedTask): number {
    return Math.min(this.#heartbeatMs, milliseconds(task.leaseDuration) / 3);
  }

  /** Settles what became of the leases held over from the last stream. */
  #onWelcome(welcome: Welcome): void {
    this.#heartbeatMs = milliseconds(welcome.heartbeatInterval);
    for (const held of welcome.heldLeases) {
      const lease = this.#leases.get(held.leaseToken.toString("hex"));
      if (lease && !held.alive && !lease.answer) {
        this.#lose(held.leaseToken, CancellationReason.CANCELLATION_REASON_LEASE_LOST);
      }
    }
    this.#outgoing = [...this.#leases.values()].filter((lease) => lease.answer);
    for (const lease of this.#leases.values()) lease.nextBeat = 0;
    this.#options.onReady();
  }

  #onFrame(frame: LeaseResponse): void {
    for (const task of frame.tasks) this.#start(task);
    for (const result of frame.results) this.#onResult(result);
    for (const { leaseToken, reason } of frame.cancellations) this.#lose(leaseToken, reason);
    // frame.drain needs nothing: the server ends the stream when all is answered.
    this.#wake();
  }

  #start(leased: LeasedTask): void {
    const controller = new AbortController();
    const lease: Lease = { task: leased, controller, nextBeat: Date.now() + this.#beatMs(leased) };
    this.#leases.set(leased.leaseToken.toString("hex"), lease);
    const task: Task = {
      ...leased,
      signal: controller.signal,
      saveCheckpoint: (checkpoint) =>
        new Promise((resolve) => {
          lease.checkpoint = checkpoint;
          lease.onStored = resolve;
          lease.nextBeat = 0;
          this.#wake();
        }),
    };
    void this.#handle(lease, task);
  }

  async #handle(lease: Lease, task: Task): Promise<void> {
    const { leaseToken } = task;
    try {
      const result = await this.#options.handler(task);
      lease.answer = { ack: { leaseToken, result } };
    } catch (error) {
      lease.answer = { nack: { leaseToken, action: { $case: "fail", fail: describe(error) } } };
    }
    this.#send(lease);
  }

  /** Puts an answer out, unless its lease is over. */
  #send(lease: Lease): void {
    if (this.#leases.get(lease.task.leaseToken.toString("hex")) === lease) {
      this.#outgoing.push(lease);
      this.#wake();
    }
  }

  #onResult({ leaseToken, operation, error }: LeaseResult): void {
    const key = leaseToken.toString("hex");
    const lease = this.#leases.get(key);
    if (!lease) return;
    const heartbeat = operation === LeaseOperation.LEASE_OPERATION_HEARTBEAT;
    if (!error && heartbeat) {
      lease.onStored?.();
      lease.onStored = undefined;
    } else if (!error) {
      this.#leases.delete(key);
      this.#options.onFinished(lease.task);
    } else if (!RETRYABLE.includes(error.code)) {
      // LEASE_LOST, or an answer that no repetition can mend.
      this.#lose(leaseToken, CancellationReason.CANCELLATION_REASON_LEASE_LOST);
    } else if (!heartbeat) {
      setTimeout(() => this.#send(lease), 1_000);
    }
  }

  /** Stops the work of a lease that is over; nothing is answered. */
  #lose(token: Buffer, reason: CancellationReason): void {
    const key = token.toString("hex");
    const lease = this.#leases.get(key);
    if (!lease) return;
    this.#leases.delete(key);
    lease.controller.abort();
    this.#options.onStopped(lease.task, reason);
  }
}

export function milliseconds(duration: Duration | undefined): number {
  return duration ? duration.seconds * 1000 + duration.nanos / 1e6 : 0;
}

function describe(error: unknown): Fail {
  if (error instanceof Failure) {
    const { type, message, options } = error;
    return Fail.fromPartial({ error: { type, message }, ...options });
  }
  const { name, message, stack } = error instanceof Error ? error : new Error(String(error));
  return Fail.fromPartial({ error: { type: name, message, trace: stack ?? "" } });
}
