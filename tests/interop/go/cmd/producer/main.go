// Command producer enqueues one task of the kit's kind and one of the catalog.
package main

import (
	"context"
	"encoding/json"
	"log"
	"os"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"

	conformance "example.com/workerqueue-worker/gen/workerqueue/conformance/v1"
	tasks "example.com/workerqueue-worker/gen/workerqueue/tasks/v1"
	pb "example.com/workerqueue-worker/gen/workerqueue/v1"
	"example.com/workerqueue-worker/worker"
)

func main() {
	access, err := worker.Access()
	if err != nil {
		log.Fatal(err)
	}
	conn, err := grpc.NewClient(os.Getenv("WORKERQUEUE_ADDRESS"), access...)
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close()
	client := pb.NewWorkerQueueClient(conn)
	queue := os.Getenv("CONFORMANCE_QUEUE")

	response, err := enqueue(client, &conformance.Script{Text: os.Getenv("CONFORMANCE_TEXT")},
		os.Getenv("CONFORMANCE_TASK_ID"), &pb.TaskOptions{Queue: queue})
	if err != nil {
		log.Fatal(err)
	}
	json.NewEncoder(os.Stdout).Encode(map[string]string{
		"event":   "enqueued",
		"task_id": response.Task.TaskId,
		"outcome": strings.TrimPrefix(response.Outcome.String(), "ENQUEUE_OUTCOME_"),
	})

	// Without an id of ours the server makes one.
	_, err = enqueue(client, &tasks.StartRun{Id: "run_1"}, "", &pb.TaskOptions{
		Queue: queue,
		When:  &pb.TaskOptions_Delay{Delay: durationpb.New(time.Hour)},
		Tags:  []string{"example"},
	})
	if err != nil {
		log.Fatal(err)
	}
}

// enqueue repeats the call until the server has answered: with a task id, that makes one task only.
func enqueue(client pb.WorkerQueueClient, payload proto.Message, id string, options *pb.TaskOptions) (*pb.EnqueueResponse, error) {
	packed, err := anypb.New(payload)
	if err != nil {
		return nil, err
	}
	request := &pb.EnqueueRequest{
		TaskId:      id,
		PayloadForm: &pb.EnqueueRequest_Payload{Payload: packed},
		Options:     options,
	}
	for {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		response, err := client.Enqueue(ctx, request)
		cancel()
		switch status.Code(err) {
		case codes.Unavailable, codes.DeadlineExceeded, codes.ResourceExhausted:
			time.Sleep(200 * time.Millisecond)
		default:
			return response, err
		}
	}
}
