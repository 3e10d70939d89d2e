//! Works on the kinds of the conformance kit and on two of the built-in catalog.

use std::env::var;

use prost_types::{Any, value::Kind};
use serde_json::json;
use tokio::io::{AsyncReadExt, stdin};
use tokio::time::sleep;
use workerqueue_worker::stubs::workerqueue::conformance::v1::{
    Mark, Order, Report, Script, turn::End,
};
use workerqueue_worker::stubs::workerqueue::tasks::v1::{RegisterJob, ScheduleEmail};
use workerqueue_worker::stubs::workerqueue::v1::LeasedTask;
use workerqueue_worker::worker::{Config, Failure, Notice, Task, Worker, to_std};

/// Reads the payload as the message that it is, and does the work of that kind.
async fn handle(task: Task) -> Result<Option<Any>, Failure> {
    say("started", &task.leased, None);
    let payload = task.leased.payload.as_ref();
    let name = payload.and_then(|any| any.type_url.rsplit('/').next()).unwrap_or_default();
    match name {
        "workerqueue.tasks.v1.ScheduleEmail" => {
            let email: ScheduleEmail = unpack(payload)?;
            Ok(report(&task, format!("{}: {}", email.to, email.subject), String::new()))
        }
        "workerqueue.tasks.v1.RegisterJob" => {
            let RegisterJob { endpoint_id, job } = unpack(payload)?;
            let name = job.as_ref().and_then(|job| job.fields.get("name")?.kind.as_ref());
            let Some(Kind::StringValue(name)) = name else {
                return Err(wrong_payload("the job has no name".into()));
            };
            Ok(report(&task, format!("{endpoint_id}: {name}"), String::new()))
        }
        "workerqueue.conformance.v1.Order" => {
            let order: Order = unpack(payload)?;
            let total: i64 = order.lines.iter().map(|x| i64::from(x.count) * x.cents).sum();
            Ok(report(&task, format!("{}: {total}", order.number), String::new()))
        }
        _ => {
            let script = unpack(payload)?;
            perform(task, script).await
        }
    }
}

async fn perform(task: Task, script: Script) -> Result<Option<Any>, Failure> {
    let last = script.turns.len().saturating_sub(1);
    let turn = script.turns.get(last.min(task.leased.attempt as usize - 1));
    let turn = turn.cloned().unwrap_or_default();
    if !turn.checkpoint.is_empty() {
        task.save_checkpoint(pack(&Mark { text: turn.checkpoint })).await;
    }
    sleep(to_std(turn.work.as_ref())).await;
    if let Some(End::Fail(fail)) = turn.end {
        return Err(Failure {
            kind: "ScriptedFailure".into(),
            message: fail.message,
            retry_after: fail.retry_after,
            permanent: fail.permanent,
        });
    }
    let mark: Mark = match &task.leased.checkpoint {
        Some(checkpoint) => unpack(Some(checkpoint))?,
        None => Mark::default(),
    };
    Ok(report(&task, script.text, mark.text))
}

fn report(task: &Task, text: String, checkpoint: String) -> Option<Any> {
    Some(pack(&Report { text, checkpoint, attempt: task.leased.attempt }))
}

fn pack<M: prost::Name>(message: &M) -> Any {
    Any {
        type_url: format!("type.googleapis.com/{}", M::full_name()),
        value: message.encode_to_vec(),
    }
}

fn unpack<M: prost::Name + Default>(packed: Option<&Any>) -> Result<M, Failure> {
    let value = packed.map(|any| any.value.as_slice()).unwrap_or_default();
    M::decode(value).map_err(|error| wrong_payload(error.to_string()))
}

fn wrong_payload(message: String) -> Failure {
    Failure { kind: "WrongPayload".into(), message, permanent: true, ..Default::default() }
}

fn say(event: &str, task: &LeasedTask, reason: Option<&str>) {
    let (task_id, attempt) = (&task.task_id, task.attempt);
    println!(
        "{}",
        json!({"event": event, "task_id": task_id, "attempt": attempt, "reason": reason})
    );
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let config = Config {
        address: var("WORKERQUEUE_ADDRESS")?,
        worker_id: var("CONFORMANCE_WORKER_ID")?,
        queues: vec![var("CONFORMANCE_QUEUE")?],
        window: var("CONFORMANCE_WINDOW")?.parse()?,
    };
    let worker = Worker::new(config, handle, |notice| match notice {
        Notice::Ready => println!("{}", json!({"event": "ready"})),
        Notice::Finished(task) => say("finished", task, None),
        Notice::Stopped(task, reason) => {
            let name = reason.as_str_name().trim_start_matches("CANCELLATION_REASON_");
            say("stopped", task, Some(name));
        }
    });
    let drainer = worker.drainer();
    tokio::spawn(async move {
        let _ = stdin().read_to_end(&mut Vec::new()).await;
        drainer.drain();
    });
    worker.run().await?;
    Ok(())
}
