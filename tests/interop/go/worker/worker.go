// Package worker is a small worker on nothing but the generated stubs.
//
// docs/worker-protocol.md explains each step. A Worker holds leases, whatever happens to its streams:
// it opens the next one, presents what it holds and repeats the answers that were not confirmed.
package worker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"

	pb "example.com/workerqueue-worker/gen/workerqueue/v1"
)

const (
	shortestBackoff = 500 * time.Millisecond
	longestBackoff  = 5 * time.Second
	// A stream that lived this long was a good one.
	stable         = 10 * time.Second
	welcomeTimeout = 15 * time.Second
	// Frames must stay under 4 MiB, and one answer has at most a little over 1 MiB.
	frameBytes   = 2 << 20
	frameAnswers = 1000
)

// Handler does the work of one task. Its result (which may be nil) is stored with the task. An error
// makes the next attempt; see Failure. The context ends when the lease does.
type Handler func(ctx context.Context, task *Task) (proto.Message, error)

// Failure is an error that says how to go on. Any other error is retried with the kind's backoff.
type Failure struct {
	Type, Message string
	RetryAfter    *durationpb.Duration
	Permanent     bool
}

func (f *Failure) Error() string { return f.Type + ": " + f.Message }

// Events tell what happens. Each field must be set; calls come from several goroutines.
type Events struct {
	Ready    func()
	Finished func(*pb.LeasedTask)
	Stopped  func(*pb.LeasedTask, pb.CancellationReason)
}

// Worker takes tasks from queues and has a Handler do them.
type Worker struct {
	Address string
	// Transport credentials and, where the server wants one, the token; see Access.
	Access []grpc.DialOption
	ID     string
	Queues []string
	// How many tasks it handles at once.
	Window  int32
	Handler Handler
	Events  Events

	mu        sync.Mutex
	leases    map[string]*lease
	outgoing  []*lease
	draining  bool
	heartbeat time.Duration
	wake      chan struct{}
}

type lease struct {
	task *pb.LeasedTask
	stop context.CancelFunc
	// At most one is set, once the work is done; the server has not confirmed it yet.
	ack  *pb.AckRequest
	nack *pb.NackRequest

	checkpoint *anypb.Any
	stored     chan struct{}
	nextBeat   time.Time
}

func (l *lease) answered() bool { return l.ack != nil || l.nack != nil }

// Task is a task in a handler's hands.
type Task struct {
	*pb.LeasedTask
	worker *Worker
	lease  *lease
}

// SaveCheckpoint stores what the next attempt receives if this one does not finish. It returns when the
// server has it.
func (t *Task) SaveCheckpoint(ctx context.Context, message proto.Message) error {
	packed, err := anypb.New(message)
	if err != nil {
		return err
	}
	stored := make(chan struct{})
	t.worker.mu.Lock()
	t.lease.checkpoint, t.lease.stored, t.lease.nextBeat = packed, stored, time.Time{}
	t.worker.mu.Unlock()
	t.worker.nudge()
	select {
	case <-stored:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Drain takes no more tasks; Run returns when those that are held are finished.
func (w *Worker) Drain() {
	w.mu.Lock()
	w.draining = true
	w.mu.Unlock()
	w.nudge()
}

// Run works until it has drained, the context ends, or the server refuses the subscription.
func (w *Worker) Run(ctx context.Context) error {
	w.mu.Lock()
	w.leases, w.wake = map[string]*lease{}, make(chan struct{}, 1)
	w.heartbeat = 10 * time.Second
	w.mu.Unlock()
	backoff := shortestBackoff
	for !w.drained() {
		opened := time.Now()
		if err := w.stream(ctx); err != nil {
			switch status.Code(err) {
			case codes.InvalidArgument, codes.FailedPrecondition, codes.Unauthenticated, codes.PermissionDenied:
				return err
			}
			log.Printf("the stream ended: %v", err)
		}
		if time.Since(opened) > stable {
			backoff = shortestBackoff
		}
		select {
		case <-time.After(rand.N(backoff)):
		case <-ctx.Done():
			return ctx.Err()
		}
		backoff = min(longestBackoff, 2*backoff)
	}
	return nil
}

func (w *Worker) drained() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.draining && len(w.leases) == 0
}

func (w *Worker) nudge() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// stream opens one stream, on a connection of its own because the last server may be draining, and
// stays with it to its end.
func (w *Worker) stream(ctx context.Context) error {
	conn, err := grpc.NewClient(w.Address, append([]grpc.DialOption{
		grpc.WithKeepaliveParams(keepalive.ClientParameters{
			Time: 10 * time.Second, Timeout: 3 * time.Second, PermitWithoutStream: true,
		}),
	}, w.Access...)...)
	if err != nil {
		return err
	}
	defer conn.Close()
	streamCtx, cancel := context.WithCancel(ctx)
	var writing sync.WaitGroup
	defer writing.Wait()
	defer cancel()

	stream, err := pb.NewWorkerQueueClient(conn).Lease(streamCtx)
	if err != nil {
		return err
	}
	if err := stream.Send(&pb.LeaseRequest{Subscribe: w.subscription()}); err != nil && err != io.EOF {
		return err
	}
	impatience := time.AfterFunc(welcomeTimeout, cancel)
	for {
		frame, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if frame.Welcome != nil {
			impatience.Stop()
			w.onWelcome(frame.Welcome)
			writing.Go(func() { w.write(streamCtx, stream) })
		}
		w.onFrame(ctx, frame)
	}
}

func (w *Worker) subscription() *pb.Subscribe {
	w.mu.Lock()
	defer w.mu.Unlock()
	subscribe := &pb.Subscribe{
		WorkerId: w.ID, Queues: w.Queues, MaxInFlight: w.Window, ProtocolVersion: 1,
	}
	for token := range w.leases {
		subscribe.HeldLeaseTokens = append(subscribe.HeldLeaseTokens, []byte(token))
	}
	return subscribe
}

// write sends answers and heartbeats as they fall due, as many in a frame as are ready.
func (w *Worker) write(ctx context.Context, stream pb.WorkerQueue_LeaseClient) {
	saidDrain := false
	for {
		frame, wait := w.nextFrame(&saidDrain)
		if frame != nil {
			if stream.Send(frame) != nil {
				return // Recv has the reason.
			}
			continue
		}
		select {
		case <-w.wake:
		case <-time.After(wait):
		case <-ctx.Done():
			return
		}
	}
}

// nextFrame is what is to be said now, or else how long to wait for the next heartbeat.
func (w *Worker) nextFrame(saidDrain *bool) (*pb.LeaseRequest, time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	frame, size, now := &pb.LeaseRequest{}, 0, time.Now()
	for len(w.outgoing) > 0 && len(frame.Acks)+len(frame.Nacks) < frameAnswers && size < frameBytes {
		next := w.outgoing[0]
		w.outgoing = w.outgoing[1:]
		if next.ack != nil {
			frame.Acks = append(frame.Acks, next.ack)
			size += proto.Size(next.ack)
		} else {
			frame.Nacks = append(frame.Nacks, next.nack)
			size += proto.Size(next.nack)
		}
	}
	due := now.Add(time.Minute)
	for token, held := range w.leases {
		if held.answered() {
			continue
		}
		if !held.nextBeat.After(now) && size < frameBytes {
			held.nextBeat = now.Add(w.interval(held.task))
			beat := &pb.HeartbeatRequest{LeaseToken: []byte(token), Checkpoint: held.checkpoint}
			frame.Heartbeats = append(frame.Heartbeats, beat)
			size += proto.Size(beat)
		}
		if held.nextBeat.Before(due) {
			due = held.nextBeat
		}
	}
	if w.draining && !*saidDrain {
		frame.Drain, *saidDrain = true, true
	}
	if size == 0 && !frame.Drain {
		return nil, max(time.Millisecond, due.Sub(now))
	}
	return frame, 0
}

// interval is how often to prolong a task's lease, which may be shorter than the welcome allows for.
func (w *Worker) interval(task *pb.LeasedTask) time.Duration {
	return min(w.heartbeat, task.LeaseDuration.AsDuration()/3)
}

// onWelcome settles what became of the leases held over from the last stream.
func (w *Worker) onWelcome(welcome *pb.Welcome) {
	w.mu.Lock()
	w.heartbeat = welcome.HeartbeatInterval.AsDuration()
	w.mu.Unlock()
	for _, held := range welcome.HeldLeases {
		w.mu.Lock()
		known := w.leases[string(held.LeaseToken)]
		lost := known != nil && !held.Alive && !known.answered()
		w.mu.Unlock()
		if lost {
			w.lose(held.LeaseToken, pb.CancellationReason_CANCELLATION_REASON_LEASE_LOST)
		}
	}
	w.mu.Lock()
	w.outgoing = nil
	for _, held := range w.leases {
		held.nextBeat = time.Time{}
		if held.answered() {
			w.outgoing = append(w.outgoing, held)
		}
	}
	w.mu.Unlock()
	w.Events.Ready()
}

func (w *Worker) onFrame(ctx context.Context, frame *pb.LeaseResponse) {
	for _, task := range frame.Tasks {
		w.start(ctx, task)
	}
	for _, result := range frame.Results {
		w.onResult(result)
	}
	for _, cancellation := range frame.Cancellations {
		w.lose(cancellation.LeaseToken, cancellation.Reason)
	}
	// frame.Drain needs nothing: the server ends the stream when all is answered.
	w.nudge()
}

func (w *Worker) start(ctx context.Context, task *pb.LeasedTask) {
	ctx, stop := context.WithCancel(ctx)
	w.mu.Lock()
	held := &lease{task: task, stop: stop, nextBeat: time.Now().Add(w.interval(task))}
	w.leases[string(task.LeaseToken)] = held
	w.mu.Unlock()
	go func() {
		result, err := w.Handler(ctx, &Task{LeasedTask: task, worker: w, lease: held})
		w.finish(held, result, err)
	}()
}

func (w *Worker) finish(held *lease, result proto.Message, err error) {
	token := held.task.LeaseToken
	var packed *anypb.Any
	if err == nil && result != nil {
		packed, err = anypb.New(result)
	}
	w.mu.Lock()
	if err != nil {
		held.nack = &pb.NackRequest{LeaseToken: token, Action: &pb.NackRequest_Fail{Fail: describe(err)}}
	} else {
		held.ack = &pb.AckRequest{LeaseToken: token, Result: packed}
	}
	w.mu.Unlock()
	w.send(held)
}

func describe(err error) *pb.Fail {
	var failure *Failure
	if !errors.As(err, &failure) {
		return &pb.Fail{Error: &pb.TaskError{Type: fmt.Sprintf("%T", err), Message: err.Error()}}
	}
	return &pb.Fail{
		Error:      &pb.TaskError{Type: failure.Type, Message: failure.Message},
		RetryAfter: failure.RetryAfter,
		Permanent:  failure.Permanent,
	}
}

// send puts an answer out, unless its lease is over.
func (w *Worker) send(held *lease) {
	w.mu.Lock()
	if w.leases[string(held.task.LeaseToken)] == held {
		w.outgoing = append(w.outgoing, held)
	}
	w.mu.Unlock()
	w.nudge()
}

func (w *Worker) onResult(result *pb.LeaseResult) {
	w.mu.Lock()
	held := w.leases[string(result.LeaseToken)]
	if held == nil {
		w.mu.Unlock()
		return
	}
	heartbeat := result.Operation == pb.LeaseOperation_LEASE_OPERATION_HEARTBEAT
	finished := result.Error == nil && !heartbeat
	if finished {
		delete(w.leases, string(result.LeaseToken))
		held.stop()
	}
	if result.Error == nil && heartbeat && held.stored != nil {
		close(held.stored)
		held.stored = nil
	}
	w.mu.Unlock()
	switch {
	case finished:
		w.Events.Finished(held.task)
	case result.Error == nil:
	case !retryable(codes.Code(result.Error.Code)):
		// LEASE_LOST, or an answer that no repetition can mend.
		w.lose(result.LeaseToken, pb.CancellationReason_CANCELLATION_REASON_LEASE_LOST)
	case !heartbeat:
		time.AfterFunc(time.Second, func() { w.send(held) })
	}
}

func retryable(code codes.Code) bool {
	switch code {
	case codes.Unavailable, codes.ResourceExhausted, codes.DeadlineExceeded, codes.Canceled,
		codes.Unknown, codes.Internal:
		return true
	}
	return false
}

// lose stops the work of a lease that is over; nothing is answered.
func (w *Worker) lose(token []byte, reason pb.CancellationReason) {
	w.mu.Lock()
	held := w.leases[string(token)]
	delete(w.leases, string(token))
	w.mu.Unlock()
	if held != nil {
		held.stop()
		w.Events.Stopped(held.task, reason)
	}
}
