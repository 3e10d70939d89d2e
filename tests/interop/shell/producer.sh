#!/usr/bin/env bash
# A producer in shell: grpcurl and jq. With a task id, a repeated call makes one task only.
set -uo pipefail

grpcurl=${GRPCURL:-grpcurl}

# enqueue REQUEST: repeats the call until the server has answered.
enqueue() {
  local code
  until "$grpcurl" -plaintext -max-time 5 -d @ "$WORKERQUEUE_ADDRESS" \
    workerqueue.v1.WorkerQueue/Enqueue <<<"$1"; do
    code=$?
    # 64 + INVALID_ARGUMENT: no repetition can mend the request.
    ((code == 67)) && exit 1
    sleep 0.2
  done
}

answer=$(enqueue "$(jq -n '{
  taskId: env.CONFORMANCE_TASK_ID,
  dynamic: {kind: "conformance.script", args: {text: env.CONFORMANCE_TEXT}},
  options: {queue: env.CONFORMANCE_QUEUE}}')")
jq -c '{event: "enqueued", task_id: .task.task_id,
  outcome: (.outcome | ltrimstr("ENQUEUE_OUTCOME_"))}' <<<"$answer"

enqueue "$(jq -n '{
  dynamic: {kind: "startRun", args: {id: "run_1"}},
  options: {queue: env.CONFORMANCE_QUEUE, delay: "3600s", tags: ["example"]}}')" >/dev/null
