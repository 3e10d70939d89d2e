#!/usr/bin/env bash
# A worker in shell: grpcurl and jq, no generated code. It polls with half-closed streams, answers
# quick tasks in bulk with the next poll, and gives each long task a process of its own.
set -uo pipefail

grpcurl=${GRPCURL:-grpcurl}
address=$WORKERQUEUE_ADDRESS
queue=$CONFORMANCE_QUEUE
worker_id=$CONFORMANCE_WORKER_ID
window=$CONFORMANCE_WINDOW

# grpcurl exits with 64 + the status code.
readonly INVALID_ARGUMENT=67 FAILED_PRECONDITION=73

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
echo '[]' >"$folder/pending"

# What a task's script asks for, and the answer that ends the attempt.
readonly definitions='
  def turn: (.payload.turns // []) as $turns
    | if $turns == [] then {} else $turns[([.attempt, ($turns | length)] | min) - 1] end;
  # What each kind asks for. 64-bit numbers are strings in JSON.
  def text: .payload
    | (."@type" | split("/") | last) as $name
    | if $name == "workerqueue.tasks.v1.ScheduleEmail" then "\(.to): \(.subject)"
      elif $name == "workerqueue.tasks.v1.RegisterJob" then "\(.endpoint_id): \(.job.name)"
      elif $name == "workerqueue.conformance.v1.Order" then
        "\(.number // "0"): \([.lines[]? | (.count // 0) * (.cents // "0" | tonumber)] | add // 0)"
      else .text // "" end;
  def report: {
    "@type": "type.googleapis.com/workerqueue.conformance.v1.Report",
    text: text, checkpoint: (.checkpoint.text // ""), attempt: .attempt};
  def answer: turn.fail as $fail
    | if $fail == null then {acks: [{lease_token, result: report}]}
      else {nacks: [{lease_token, fail: (
        {error: {type: "ScriptedFailure", message: ($fail.message // "")}}
        + ($fail | with_entries(select(.key == "retry_after" or .key == "permanent"))))}]} end;
  def is_quick: (turn | (.work // .checkpoint) == null) and (.payload.text // "" | length) < 50000;
  def line($event): {event: $event, task_id: .task_id, attempt: .attempt};
'

# call METHOD: the request comes from standard input.
call() {
  "$grpcurl" -plaintext -max-time 10 -d @ "$address" "workerqueue.v1.WorkerQueue/$1" \
    2>"$folder/error.$BASHPID"
}

# poll WINDOW: sends the pending answers, takes tasks, starts them.
poll() {
  local answer="$folder/answer"
  jq -c --arg id "$worker_id" --arg queue "$queue" --argjson window "$1" '
    {subscribe: {workerId: $id, queues: [$queue], maxInFlight: $window, protocolVersion: 1},
     acks: (map(.acks // []) | add), nacks: (map(.nacks // []) | add)}' "$folder/pending" |
    call Lease >"$answer.raw"
  local code=$?
  # Of a call that broke off, what did arrive counts.
  jq -cs '{tasks: (map(.tasks // []) | add // []), results: (map(.results // []) | add // [])}' \
    "$answer.raw" >"$answer" 2>/dev/null || return 1
  settle "$answer"
  jq -c --unbuffered "$definitions"' .tasks[] | line("started")' "$answer"
  jq -c "$definitions"' .tasks | map(select(is_quick) | answer + {task_id, attempt, lease_token})' \
    "$answer" >"$folder/quick"
  jq -cs add "$folder/pending" "$folder/quick" >"$folder/both"
  mv "$folder/both" "$folder/pending"
  local task
  while IFS= read -r task; do
    printf '%s' "$task" >"$folder/task"
    local own
    own=$(mktemp "$folder/long.XXXXXX")
    mv "$folder/task" "$own"
    handle "$own" </dev/null &
  done < <(jq -c "$definitions"' .tasks[] | select(is_quick | not)' "$answer")
  return "$code"
}

# settle ANSWER: reports the pending answers that have a result and forgets them.
settle() {
  jq -c --unbuffered --slurpfile said "$1" "$definitions"'
    INDEX($said[0].results[]; .lease_token) as $results
    | .[] | $results[.lease_token] as $result
    | if $result == null then empty
      elif $result.error == null then line("finished")
      elif ($result.error.code | IN(3, 9)) then line("stopped") + {reason: "LEASE_LOST"}
      else empty end' "$folder/pending"
  jq -c --slurpfile said "$1" '
    INDEX($said[0].results[]; .lease_token) as $results
    | map(select($results[.lease_token] as $result
        | $result == null or ($result.error != null and ($result.error.code | IN(3, 9) | not))))' \
    "$folder/pending" >"$folder/left"
  mv "$folder/left" "$folder/pending"
}

# handle FILE: one long task, in a process of its own.
handle() {
  local file=$1 seconds pause
  # Prolong a lease three times in its duration.
  pause=$(jq -r '.lease_duration | rtrimstr("s") | tonumber / 3' "$file")
  if jq -e "$definitions turn.checkpoint" "$file" >/dev/null; then
    until beat "$file"; do sleep 0.5; done
  fi
  seconds=$(jq -r "$definitions"' turn.work // "0s" | rtrimstr("s") | tonumber' "$file")
  local end
  end=$(jq -n "now + $seconds")
  while pause=$(jq -rn "[$pause, $end - now] | min") && [[ $pause != -* && $pause != 0 ]]; do
    sleep "$pause"
    beat "$file"
    pause=$(jq -r '.lease_duration | rtrimstr("s") | tonumber / 3' "$file")
  done
  local method=Ack
  jq -e "$definitions turn.fail" "$file" >/dev/null && method=Nack
  until jq -c "$definitions"' answer | (.acks // .nacks)[0]' "$file" | call "$method" >/dev/null; do
    give_up_if_lost "$file" $?
    sleep 0.5
  done
  jq -c "$definitions"' line("finished")' "$file"
}

# beat FILE: one heartbeat, with the script's checkpoint. Ends the process if the lease is over.
beat() {
  jq -c "$definitions"' {lease_token} + (turn.checkpoint as $text | if $text == null then {} else
      {checkpoint: {"@type": "type.googleapis.com/workerqueue.conformance.v1.Mark", text: $text}}
    end)' "$1" | call Heartbeat >/dev/null
  local code=$?
  give_up_if_lost "$1" $code
  return $code
}

give_up_if_lost() {
  if (($2 == FAILED_PRECONDITION || $2 == INVALID_ARGUMENT)); then
    jq -c "$definitions"' line("stopped") + {reason: "LEASE_LOST"}' "$1"
    exit 0
  fi
}

exec 3<&0
{ cat <&3 >/dev/null; touch "$folder/drain"; } &
watcher=$!

said_ready=false
while true; do
  running=$(jobs -rp | grep -vcx "$watcher")
  if [[ -e $folder/drain ]]; then
    ((running == 0)) && [[ $(<"$folder/pending") == '[]' ]] && exit 0
    room=0
  else
    room=$((window - running - $(jq length "$folder/pending")))
    # Answers under way make room in the server's count, so a full batch may be asked for again.
    ((room < window - running)) && room=$((window - running))
  fi
  if poll "$room"; then
    $said_ready || echo '{"event":"ready"}'
    said_ready=true
  else
    cat "$folder/error."* >&2 2>/dev/null
    sleep 0.5
  fi
  [[ $(<"$folder/pending") == '[]' ]] && sleep 0.2
done
