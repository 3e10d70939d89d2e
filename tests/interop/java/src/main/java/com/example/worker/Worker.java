package com.example.worker;

import com.google.protobuf.Any;
import com.google.protobuf.ByteString;
import com.google.protobuf.Duration;
import io.grpc.ManagedChannel;
import io.grpc.Status;
import io.grpc.stub.ClientCallStreamObserver;
import io.grpc.stub.ClientResponseObserver;
import java.util.ArrayDeque;
import java.util.HashMap;
import java.util.Map;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.ThreadLocalRandom;
import java.util.concurrent.TimeUnit;
import workerqueue.v1.Lease.AckRequest;
import workerqueue.v1.Lease.CancellationReason;
import workerqueue.v1.Lease.Fail;
import workerqueue.v1.Lease.HeartbeatRequest;
import workerqueue.v1.Lease.LeaseOperation;
import workerqueue.v1.Lease.LeaseRequest;
import workerqueue.v1.Lease.LeaseResponse;
import workerqueue.v1.Lease.LeaseResult;
import workerqueue.v1.Lease.LeasedTask;
import workerqueue.v1.Lease.NackRequest;
import workerqueue.v1.Lease.Subscribe;
import workerqueue.v1.TaskOuterClass.TaskError;
import workerqueue.v1.Lease.Welcome;
import workerqueue.v1.WorkerQueueGrpc;

/**
 * A small worker on nothing but the generated stubs; docs/worker-protocol.md explains each step.
 *
 * <p>It holds leases, whatever happens to its streams: it opens the next one, presents what it holds and
 * repeats the answers that were not confirmed. The thread of {@link #run} owns all state; gRPC and the
 * handlers only put steps into its queue.
 */
public final class Worker {
  private static final long SHORTEST_BACKOFF_MS = 500;
  private static final long LONGEST_BACKOFF_MS = 5_000;
  /** A stream that lived this long was a good one. */
  private static final long STABLE_MS = 10_000;
  private static final long WELCOME_MS = 15_000;
  /** Frames must stay under 4 MiB, and one answer has at most a little over 1 MiB. */
  private static final int FRAME_BYTES = 2 << 20;
  private static final int FRAME_ANSWERS = 1_000;

  /** Does the work of one task; interrupted when the lease is over. */
  public interface Handler {
    /** Returns the result to store, or null. Throws {@link Failure}, or anything, to fail the attempt. */
    Any handle(Task task) throws Exception;
  }

  /** Hears what happens, in the thread of {@link #run}. */
  public interface Listener {
    void ready();

    void finished(LeasedTask task);

    void stopped(LeasedTask task, CancellationReason reason);
  }

  /** A failure that says how to go on. */
  public static final class Failure extends Exception {
    final Fail fail;

    public Failure(Fail fail) {
      super(fail.getError().getMessage());
      this.fail = fail;
    }
  }

  /** A task in a handler's hands. */
  public interface Task {
    LeasedTask leased();

    /** Stores what the next attempt receives if this one does not finish; returns when it is stored. */
    void saveCheckpoint(Any checkpoint) throws Exception;
  }

  private static final class Lease {
    final LeasedTask task;
    Future<?> work;
    /** One of the two is set once the work is done, while the server has not confirmed it. */
    AckRequest ack;
    NackRequest nack;
    Any checkpoint;
    CompletableFuture<Void> stored;
    long nextBeat;

    Lease(LeasedTask task) {
      this.task = task;
    }

    boolean isAnswered() {
      return ack != null || nack != null;
    }
  }

  private final String address;
  private final Subscribe subscribe;
  private final Handler handler;
  private final Listener listener;
  private final ExecutorService handlers = Executors.newCachedThreadPool();
  private final BlockingQueue<Runnable> steps = new LinkedBlockingQueue<>();
  private final Map<ByteString, Lease> leases = new HashMap<>();
  private final ArrayDeque<Lease> outgoing = new ArrayDeque<>();
  private long heartbeatMs = 10_000;
  private boolean draining;

  // The current stream.
  private boolean welcomed;
  private boolean saidDrain;
  private Status ended;

  public Worker(String address, Subscribe subscribe, Handler handler, Listener listener) {
    this.address = address;
    this.subscribe = subscribe;
    this.handler = handler;
    this.listener = listener;
  }

  /** Takes no more tasks; {@link #run} returns when those that are held are finished. */
  public void drain() {
    steps.add(() -> draining = true);
  }

  /** Works until it has drained. Throws if the server refuses the subscription. */
  public void run() throws InterruptedException {
    long backoff = SHORTEST_BACKOFF_MS;
    while (!(draining && leases.isEmpty())) {
      long opened = now();
      Status status = stream();
      switch (status.getCode()) {
        case OK -> {}
        case INVALID_ARGUMENT, FAILED_PRECONDITION, UNAUTHENTICATED, PERMISSION_DENIED ->
            throw status.asRuntimeException();
        default -> System.err.println("the stream ended: " + status);
      }
      if (now() - opened > STABLE_MS) {
        backoff = SHORTEST_BACKOFF_MS;
      }
      long until = now() + ThreadLocalRandom.current().nextLong(backoff);
      for (long left; (left = until - now()) > 0; ) {
        step(left);
      }
      backoff = Math.min(LONGEST_BACKOFF_MS, 2 * backoff);
    }
    handlers.shutdownNow();
  }

  /** Opens a channel with the keepalive that the protocol asks for. */
  public static ManagedChannel connect(String address) {
    return Access.channel(address)
        .keepAliveTime(10, TimeUnit.SECONDS)
        .keepAliveTimeout(3, TimeUnit.SECONDS)
        .keepAliveWithoutCalls(true)
        .build();
  }

  /**
   * Opens one stream, on a connection of its own because the last server may be draining, and stays with
   * it to its end; returns how it ended.
   */
  private Status stream() throws InterruptedException {
    welcomed = false;
    saidDrain = false;
    ended = null;
    ManagedChannel channel = connect(address);
    try {
      Frames frames = new Frames();
      WorkerQueueGrpc.newStub(channel).lease(frames);
      frames.out.onNext(
          LeaseRequest.newBuilder()
              .setSubscribe(subscribe.toBuilder().addAllHeldLeaseTokens(leases.keySet()))
              .build());
      long welcomeBy = now() + WELCOME_MS;
      while (ended == null) {
        long wait = welcomeBy - now();
        if (welcomed) {
          LeaseRequest frame = frames.out.isReady() ? nextFrame() : null;
          if (frame != null) {
            frames.out.onNext(frame);
            continue;
          }
          wait = Math.max(1, nextDue() - now());
        } else if (wait <= 0) {
          return Status.UNAVAILABLE.withDescription("no welcome");
        }
        step(wait);
      }
      return ended;
    } finally {
      channel.shutdownNow();
    }
  }

  /** Hands everything that gRPC says to the worker's thread. */
  private final class Frames implements ClientResponseObserver<LeaseRequest, LeaseResponse> {
    ClientCallStreamObserver<LeaseRequest> out;

    @Override
    public void beforeStart(ClientCallStreamObserver<LeaseRequest> requestStream) {
      out = requestStream;
      out.setOnReadyHandler(() -> steps.add(() -> {}));
    }

    @Override
    public void onNext(LeaseResponse frame) {
      steps.add(() -> onFrame(frame));
    }

    @Override
    public void onError(Throwable error) {
      steps.add(() -> ended = Status.fromThrowable(error));
    }

    @Override
    public void onCompleted() {
      steps.add(() -> ended = Status.OK);
    }
  }

  private void step(long waitMs) throws InterruptedException {
    Runnable next = steps.poll(waitMs, TimeUnit.MILLISECONDS);
    // What has piled up is taken at once, so that its answers go out in one frame.
    for (int taken = 0; next != null && taken < FRAME_ANSWERS; taken++) {
      next.run();
      next = steps.poll();
    }
    if (next != null) {
      next.run();
    }
  }

  /** Answers and heartbeats that are due, as many as are ready; null: nothing is. */
  private LeaseRequest nextFrame() {
    LeaseRequest.Builder frame = LeaseRequest.newBuilder();
    int bytes = 0;
    for (int answers = 0; answers < FRAME_ANSWERS && bytes < FRAME_BYTES; answers++) {
      Lease lease = outgoing.poll();
      if (lease == null) {
        break;
      }
      if (lease.ack != null) {
        frame.addAcks(lease.ack);
        bytes += lease.ack.getSerializedSize();
      } else {
        frame.addNacks(lease.nack);
        bytes += lease.nack.getSerializedSize();
      }
    }
    long now = now();
    for (Lease lease : leases.values()) {
      if (!lease.isAnswered() && lease.nextBeat <= now && bytes < FRAME_BYTES) {
        lease.nextBeat = now + beatMs(lease.task);
        HeartbeatRequest.Builder beat =
            HeartbeatRequest.newBuilder().setLeaseToken(lease.task.getLeaseToken());
        if (lease.checkpoint != null) {
          beat.setCheckpoint(lease.checkpoint);
          bytes += lease.checkpoint.getSerializedSize();
        }
        frame.addHeartbeats(beat);
        bytes++;
      }
    }
    if (draining && !saidDrain) {
      saidDrain = true;
      frame.setDrain(true);
    }
    return bytes > 0 || frame.getDrain() ? frame.build() : null;
  }

  private long nextDue() {
    long due = now() + 60_000;
    for (Lease lease : leases.values()) {
      if (!lease.isAnswered()) {
        due = Math.min(due, lease.nextBeat);
      }
    }
    return due;
  }

  /** How often to prolong a task's lease, which may be shorter than the welcome allows for. */
  private long beatMs(LeasedTask task) {
    return Math.min(heartbeatMs, toMs(task.getLeaseDuration()) / 3);
  }

  private void onFrame(LeaseResponse frame) {
    if (frame.hasWelcome()) {
      onWelcome(frame.getWelcome());
    }
    frame.getTasksList().forEach(this::start);
    frame.getResultsList().forEach(this::onResult);
    frame.getCancellationsList().forEach(ended -> lose(ended.getLeaseToken(), ended.getReason()));
    // A drain needs nothing: the server ends the stream when all is answered.
  }

  /** Settles what became of the leases held over from the last stream. */
  private void onWelcome(Welcome welcome) {
    welcomed = true;
    heartbeatMs = toMs(welcome.getHeartbeatInterval());
    for (var held : welcome.getHeldLeasesList()) {
      Lease lease = leases.get(held.getLeaseToken());
      if (lease != null && !held.getAlive() && !lease.isAnswered()) {
        lose(held.getLeaseToken(), CancellationReason.CANCELLATION_REASON_LEASE_LOST);
      }
    }
    outgoing.clear();
    for (Lease lease : leases.values()) {
      lease.nextBeat = now();
      if (lease.isAnswered()) {
        outgoing.add(lease);
      }
    }
    listener.ready();
  }

  private void start(LeasedTask leased) {
    Lease lease = new Lease(leased);
    lease.nextBeat = now() + beatMs(leased);
    leases.put(leased.getLeaseToken(), lease);
    Task task =
        new Task() {
          @Override
          public LeasedTask leased() {
            return leased;
          }

          @Override
          public void saveCheckpoint(Any checkpoint) throws Exception {
            CompletableFuture<Void> stored = new CompletableFuture<>();
            steps.add(
                () -> {
                  lease.checkpoint = checkpoint;
                  lease.stored = stored;
                  lease.nextBeat = now();
                });
            stored.get();
          }
        };
    lease.work = handlers.submit(() -> handle(lease, task));
  }

  private void handle(Lease lease, Task task) {
    ByteString token = lease.task.getLeaseToken();
    AckRequest.Builder ack = AckRequest.newBuilder().setLeaseToken(token);
    try {
      Any result = handler.handle(task);
      if (result != null) {
        ack.setResult(result);
      }
    } catch (Exception error) {
      NackRequest nack =
          NackRequest.newBuilder().setLeaseToken(token).setFail(describe(error)).build();
      steps.add(() -> answer(lease, null, nack));
      return;
    }
    steps.add(() -> answer(lease, ack.build(), null));
  }

  private static Fail describe(Exception error) {
    if (error instanceof Failure failure) {
      return failure.fail;
    }
    String message = error.getMessage() == null ? "" : error.getMessage();
    return Fail.newBuilder()
        .setError(
            TaskError.newBuilder().setType(error.getClass().getSimpleName()).setMessage(message))
        .build();
  }

  /** Puts an answer out, unless its lease is over. */
  private void answer(Lease lease, AckRequest ack, NackRequest nack) {
    lease.ack = ack;
    lease.nack = nack;
    if (leases.get(lease.task.getLeaseToken()) == lease) {
      outgoing.add(lease);
    }
  }

  private void onResult(LeaseResult result) {
    Lease lease = leases.get(result.getLeaseToken());
    if (lease == null) {
      return;
    }
    boolean heartbeat = result.getOperation() == LeaseOperation.LEASE_OPERATION_HEARTBEAT;
    if (!result.hasError()) {
      if (!heartbeat) {
        leases.remove(result.getLeaseToken());
        listener.finished(lease.task);
      } else if (lease.stored != null) {
        lease.stored.complete(null);
        lease.stored = null;
      }
    } else if (!isRetryable(Status.fromCodeValue(result.getError().getCode()))) {
      // LEASE_LOST, or an answer that no repetition can mend.
      lose(result.getLeaseToken(), CancellationReason.CANCELLATION_REASON_LEASE_LOST);
    } else if (!heartbeat) {
      CompletableFuture.delayedExecutor(1, TimeUnit.SECONDS)
          .execute(() -> steps.add(() -> answer(lease, lease.ack, lease.nack)));
    }
  }

  /** Whether the same call may succeed later. */
  public static boolean isRetryable(Status status) {
    return switch (status.getCode()) {
      case UNAVAILABLE, RESOURCE_EXHAUSTED, DEADLINE_EXCEEDED, CANCELLED, UNKNOWN, INTERNAL -> true;
      default -> false;
    };
  }

  /** Stops the work of a lease that is over; nothing is answered. */
  private void lose(ByteString token, CancellationReason reason) {
    Lease lease = leases.remove(token);
    if (lease != null) {
      lease.work.cancel(true);
      listener.stopped(lease.task, reason);
    }
  }

  private static long now() {
    return System.nanoTime() / 1_000_000;
  }

  /** A protobuf duration in milliseconds. */
  public static long toMs(Duration duration) {
    return duration.getSeconds() * 1_000 + duration.getNanos() / 1_000_000;
  }
}
