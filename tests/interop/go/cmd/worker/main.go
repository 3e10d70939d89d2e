// Command worker runs the scripts of the conformance kit.
package main

import (
	"context"
	"encoding/json"
	"io"
	"log"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	conformance "example.com/workerqueue-worker/gen/workerqueue/conformance/v1"
	pb "example.com/workerqueue-worker/gen/workerqueue/v1"
	"example.com/workerqueue-worker/worker"
)

func main() {
	window, err := strconv.ParseInt(os.Getenv("CONFORMANCE_WINDOW"), 10, 32)
	if err != nil {
		log.Fatalf("CONFORMANCE_WINDOW: %v", err)
	}
	w := &worker.Worker{
		Address: os.Getenv("WORKERQUEUE_ADDRESS"),
		ID:      os.Getenv("CONFORMANCE_WORKER_ID"),
		Queues:  []string{os.Getenv("CONFORMANCE_QUEUE")},
		Window:  int32(window),
		Handler: handle,
		Events: worker.Events{
			Ready:    func() { say(line{Event: "ready"}) },
			Finished: func(task *pb.LeasedTask) { say(about("finished", task)) },
			Stopped: func(task *pb.LeasedTask, reason pb.CancellationReason) {
				stopped := about("stopped", task)
				stopped.Reason = strings.TrimPrefix(reason.String(), "CANCELLATION_REASON_")
				say(stopped)
			},
		},
	}
	go func() {
		io.Copy(io.Discard, os.Stdin)
		w.Drain()
	}()
	if err := w.Run(context.Background()); err != nil {
		log.Fatal(err)
	}
}

// handle does what the payload says.
func handle(ctx context.Context, task *worker.Task) (proto.Message, error) {
	say(about("started", task.LeasedTask))
	script := &conformance.Script{}
	if err := task.Payload.UnmarshalTo(script); err != nil {
		return nil, &worker.Failure{Type: "WrongPayload", Message: err.Error(), Permanent: true}
	}
	turn := &conformance.Turn{}
	if count := len(script.Turns); count > 0 {
		turn = script.Turns[min(int(task.Attempt), count)-1]
	}
	if turn.Checkpoint != "" {
		if err := task.SaveCheckpoint(ctx, &conformance.Mark{Text: turn.Checkpoint}); err != nil {
			return nil, err
		}
	}
	select {
	case <-time.After(turn.Work.AsDuration()):
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if fail := turn.GetFail(); fail != nil {
		return nil, &worker.Failure{
			Type:       "ScriptedFailure",
			Message:    fail.Message,
			RetryAfter: fail.RetryAfter,
			Permanent:  fail.Permanent,
		}
	}
	report := &conformance.Report{Text: script.Text, Attempt: task.Attempt}
	mark := &conformance.Mark{}
	if task.Checkpoint != nil && task.Checkpoint.UnmarshalTo(mark) == nil {
		report.Checkpoint = mark.Text
	}
	return report, nil
}

type line struct {
	Event   string `json:"event"`
	TaskID  string `json:"task_id,omitempty"`
	Attempt int32  `json:"attempt,omitempty"`
	Reason  string `json:"reason,omitempty"`
}

func about(event string, task *pb.LeasedTask) line {
	return line{Event: event, TaskID: task.TaskId, Attempt: task.Attempt}
}

var (
	outputLock sync.Mutex
	output     = json.NewEncoder(os.Stdout)
)

func say(what line) {
	outputLock.Lock()
	defer outputLock.Unlock()
	if err := output.Encode(what); err != nil {
		log.Fatal(err)
	}
}
