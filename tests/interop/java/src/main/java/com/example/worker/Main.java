package com.example.worker;

import com.google.protobuf.Any;
import java.io.IOException;
import java.io.OutputStream;
import java.io.PrintStream;
import java.io.UncheckedIOException;
import java.nio.charset.StandardCharsets;
import workerqueue.conformance.v1.Conformance.Mark;
import workerqueue.conformance.v1.Conformance.Order;
import workerqueue.conformance.v1.Conformance.Report;
import workerqueue.conformance.v1.Conformance.Script;
import workerqueue.conformance.v1.Conformance.Turn;
import workerqueue.tasks.v1.Tasks.RegisterJob;
import workerqueue.tasks.v1.Tasks.ScheduleEmail;
import workerqueue.v1.Lease.CancellationReason;
import workerqueue.v1.Lease.Fail;
import workerqueue.v1.Lease.LeasedTask;
import workerqueue.v1.Lease.Subscribe;
import workerqueue.v1.TaskOuterClass.TaskError;

/** Works on the kinds of the conformance kit and on two of the built-in catalog. */
public final class Main {
  private static final PrintStream OUT = new PrintStream(System.out, true, StandardCharsets.UTF_8);

  /** Reads the payload as the message that it is, and does the work of that kind. */
  private static Any handle(Worker.Task task) throws Exception {
    LeasedTask leased = task.leased();
    say("started", leased, "");
    Any payload = leased.getPayload();
    if (payload.is(ScheduleEmail.class)) {
      ScheduleEmail email = payload.unpack(ScheduleEmail.class);
      return report(leased, email.getTo() + ": " + email.getSubject(), "");
    }
    if (payload.is(RegisterJob.class)) {
      RegisterJob job = payload.unpack(RegisterJob.class);
      String name = job.getJob().getFieldsOrThrow("name").getStringValue();
      return report(leased, job.getEndpointId() + ": " + name, "");
    }
    if (payload.is(Order.class)) {
      Order order = payload.unpack(Order.class);
      long total =
          order.getLinesList().stream().mapToLong(line -> line.getCount() * line.getCents()).sum();
      return report(leased, order.getNumber() + ": " + total, "");
    }
    return perform(task, payload.unpack(Script.class));
  }

  private static Any perform(Worker.Task task, Script script) throws Exception {
    LeasedTask leased = task.leased();
    int count = script.getTurnsCount();
    Turn turn =
        count == 0
            ? Turn.getDefaultInstance()
            : script.getTurns(Math.min(leased.getAttempt(), count) - 1);
    if (!turn.getCheckpoint().isEmpty()) {
      task.saveCheckpoint(Any.pack(Mark.newBuilder().setText(turn.getCheckpoint()).build()));
    }
    Thread.sleep(Worker.toMs(turn.getWork()));
    if (turn.hasFail()) {
      Fail.Builder fail =
          Fail.newBuilder()
              .setError(
                  TaskError.newBuilder()
                      .setType("ScriptedFailure")
                      .setMessage(turn.getFail().getMessage()))
              .setPermanent(turn.getFail().getPermanent());
      if (turn.getFail().hasRetryAfter()) {
        fail.setRetryAfter(turn.getFail().getRetryAfter());
      }
      throw new Worker.Failure(fail.build());
    }
    String checkpoint =
        leased.hasCheckpoint() ? leased.getCheckpoint().unpack(Mark.class).getText() : "";
    return report(leased, script.getText(), checkpoint);
  }

  private static Any report(LeasedTask task, String text, String checkpoint) {
    return Any.pack(
        Report.newBuilder()
            .setText(text)
            .setCheckpoint(checkpoint)
            .setAttempt(task.getAttempt())
            .build());
  }

  private static void say(String event, LeasedTask task, String reason) {
    // Ids and reasons have no characters that JSON would quote.
    OUT.printf(
        "{\"event\":\"%s\",\"task_id\":\"%s\",\"attempt\":%d,\"reason\":\"%s\"}%n",
        event, task.getTaskId(), task.getAttempt(), reason);
  }

  public static void main(String[] arguments) throws InterruptedException {
    Subscribe subscribe =
        Subscribe.newBuilder()
            .setWorkerId(System.getenv("CONFORMANCE_WORKER_ID"))
            .addQueues(System.getenv("CONFORMANCE_QUEUE"))
            .setMaxInFlight(Integer.parseInt(System.getenv("CONFORMANCE_WINDOW")))
            .setProtocolVersion(1)
            .build();
    Worker.Listener listener =
        new Worker.Listener() {
          @Override
          public void ready() {
            OUT.println("{\"event\":\"ready\"}");
          }

          @Override
          public void finished(LeasedTask task) {
            say("finished", task, "");
          }

          @Override
          public void stopped(LeasedTask task, CancellationReason reason) {
            say("stopped", task, reason.name().replace("CANCELLATION_REASON_", ""));
          }
        };
    Worker worker =
        new Worker(System.getenv("WORKERQUEUE_ADDRESS"), subscribe, Main::handle, listener);
    Thread input =
        new Thread(
            () -> {
              try {
                System.in.transferTo(OutputStream.nullOutputStream());
              } catch (IOException error) {
                throw new UncheckedIOException(error);
              }
              worker.drain();
            });
    input.setDaemon(true);
    input.start();
    worker.run();
    System.exit(0);
  }
}
