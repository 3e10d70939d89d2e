//! Runs the scripts of the conformance kit.

use std::env::var;

use prost_types::Any;
use serde_json::json;
use tokio::io::{AsyncReadExt, stdin};
use tokio::time::sleep;
use workerqueue_worker::stubs::workerqueue::conformance::v1::{Mark, Report, Script, turn::End};
use workerqueue_worker::stubs::workerqueue::v1::LeasedTask;
use workerqueue_worker::worker::{Config, Failure, Notice, Task, Worker, to_std};

async fn handle(task: Task) -> Result<Option<Any>, Failure> {
    say("started", &task.leased, None);
    let script: Script = unpack(task.leased.payload.as_ref())?;
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
    let attempt = task.leased.attempt;
    Ok(Some(pack(&Report { text: script.text, checkpoint: mark.text, attempt })))
}

fn pack<M: prost::Name>(message: &M) -> Any {
    Any {
        type_url: format!("type.googleapis.com/{}", M::full_name()),
        value: message.encode_to_vec(),
    }
}

fn unpack<M: prost::Name + Default>(packed: Option<&Any>) -> Result<M, Failure> {
    let value = packed.map(|any| any.value.as_slice()).unwrap_or_default();
    M::decode(value).map_err(|error| Failure {
        kind: "WrongPayload".into(),
        message: error.to_string(),
        permanent: true,
        ..Default::default()
    })
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
