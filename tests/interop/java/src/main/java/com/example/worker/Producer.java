package com.example.worker;

import com.google.protobuf.Any;
import com.google.protobuf.Duration;
import io.grpc.ManagedChannel;
import io.grpc.StatusRuntimeException;
import java.util.concurrent.TimeUnit;
import workerqueue.conformance.v1.Conformance.Script;
import workerqueue.tasks.v1.Tasks.StartRun;
import workerqueue.v1.WorkerQueueOuterClass.EnqueueRequest;
import workerqueue.v1.WorkerQueueOuterClass.EnqueueResponse;
import workerqueue.v1.WorkerQueueOuterClass.TaskOptions;
import workerqueue.v1.WorkerQueueGrpc;

/** Enqueues one task of the kit's kind and one of the catalog. */
public final class Producer {
  /** Repeats the call until the server has answered: with a task id, that makes one task only. */
  private static EnqueueResponse enqueue(
      WorkerQueueGrpc.WorkerQueueBlockingStub stub, EnqueueRequest request)
      throws InterruptedException {
    while (true) {
      try {
        return stub.withDeadlineAfter(5, TimeUnit.SECONDS).enqueue(request);
      } catch (StatusRuntimeException error) {
        if (!Worker.isRetryable(error.getStatus())) {
          throw error;
        }
        Thread.sleep(200);
      }
    }
  }

  public static void main(String[] arguments) throws InterruptedException {
    String queue = System.getenv("CONFORMANCE_QUEUE");
    ManagedChannel channel = Worker.connect(System.getenv("WORKERQUEUE_ADDRESS"));
    var stub = WorkerQueueGrpc.newBlockingStub(channel);
    Script script = Script.newBuilder().setText(System.getenv("CONFORMANCE_TEXT")).build();
    EnqueueResponse response =
        enqueue(
            stub,
            EnqueueRequest.newBuilder()
                .setTaskId(System.getenv("CONFORMANCE_TASK_ID"))
                .setPayload(Any.pack(script))
                .setOptions(TaskOptions.newBuilder().setQueue(queue))
                .build());
    System.out.printf(
        "{\"event\":\"enqueued\",\"task_id\":\"%s\",\"outcome\":\"%s\"}%n",
        response.getTask().getTaskId(),
        response.getOutcome().name().replace("ENQUEUE_OUTCOME_", ""));

    enqueue(
        stub,
        EnqueueRequest.newBuilder()
            .setPayload(Any.pack(StartRun.newBuilder().setId("run_1").build()))
            .setOptions(
                TaskOptions.newBuilder()
                    .setQueue(queue)
                    .setDelay(Duration.newBuilder().setSeconds(3600))
                    .addTags("example"))
            .build());
    channel.shutdownNow();
  }
}
