// Command worker works on the kinds of the conformance kit and on two of the built-in catalog.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	conformance "example.com/workerqueue-worker/gen/workerqueue/conformance/v1"
	tasks "example.com/workerqueue-worker/gen/workerqueue/tasks/v1"
	pb "example.com/workerqueue-worker/gen/workerqueue/v1"
	"example.com/workerqueue-worker/worker"
)

func main() {
	window, err := strconv.ParseInt(os.Getenv("CONFORMANCE_WINDOW"), 10, 32)
	if err != nil {
		log.Fatalf("CONFORMANCE_WINDOW: %v", err)
	}
	access, err := worker.Access()
	if err != nil {
		log.Fatal(err)
	}
	w := &worker.Worker{
		Address: os.Getenv("WORKERQUEUE_ADDRESS"),
		Access:  access,
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

// handle reads the payload as the message that it is, and does the work of that kind.
func handle(ctx context.Context, task *worker.Task) (proto.Message, error) {
	say(about("started", task.LeasedTask))
	payload, err := task.Payload.UnmarshalNew()
	if err != nil {
		return nil, &worker.Failure{Type: "WrongPayload", Message: err.Error(), Permanent: true}
	}
	switch payload := payload.(type) {
	case *tasks.ScheduleEmail:
		return report(task, payload.To+": "+payload.Subject), nil
	case *tasks.RegisterJob:
		return report(task, payload.EndpointId+": "+payload.Job.Fields["name"].GetStringValue()), nil
	case *conformance.Order:
		total := int64(0)
		for _, line := range payload.Lines {
			total += int64(line.Count) * line.Cents
		}
		return report(task, fmt.Sprintf("%d: %d", payload.Number, total)), nil
	case *conformance.Script:
		return perform(ctx, task, payload)
	default:
		return nil, &worker.Failure{Type: "UnknownKind", Message: task.Kind, Permanent: true}
	}
}

// perform does what the script says.
func perform(ctx context.Context, task *worker.Task, script *conformance.Script) (proto.Message, error) {
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
	result := report(task, script.Text)
	mark := &conformance.Mark{}
	if task.Checkpoint != nil && task.Checkpoint.UnmarshalTo(mark) == nil {
		result.Checkpoint = mark.Text
	}
	return result, nil
}

func report(task *worker.Task, text string) *conformance.Report {
	return &conformance.Report{Text: text, Attempt: task.Attempt}
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
