//! Enqueues one task of the kit's kind and one of the catalog.

use std::env::var;
use std::time::Duration;

use prost_types::Any;
use serde_json::json;
use tokio::time::{sleep, timeout};
use tonic::Status;
use workerqueue_worker::stubs::workerqueue::conformance::v1::Script;
use workerqueue_worker::stubs::workerqueue::tasks::v1::StartRun;
use workerqueue_worker::stubs::workerqueue::v1::worker_queue_client::WorkerQueueClient;
use workerqueue_worker::stubs::workerqueue::v1::{
    EnqueueRequest, EnqueueResponse, TaskOptions, enqueue_request::PayloadForm, task_options::When,
};
use workerqueue_worker::worker::{connect, is_retryable};

/// Repeats the call until the server has answered: with a task id, that makes one task only.
async fn enqueue(address: &str, request: EnqueueRequest) -> Result<EnqueueResponse, Status> {
    loop {
        let once = async {
            let mut client = WorkerQueueClient::new(connect(address).await?);
            client.enqueue(request.clone()).await
        };
        let answer = timeout(Duration::from_secs(5), once).await;
        match answer.unwrap_or_else(|_| Err(Status::deadline_exceeded("no answer"))) {
            Ok(response) => return Ok(response.into_inner()),
            Err(status) if is_retryable(status.code()) => sleep(Duration::from_millis(200)).await,
            Err(status) => return Err(status),
        }
    }
}

fn payload<M: prost::Name>(message: &M) -> Option<PayloadForm> {
    let type_url = format!("type.googleapis.com/{}", M::full_name());
    Some(PayloadForm::Payload(Any { type_url, value: message.encode_to_vec() }))
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let address = var("WORKERQUEUE_ADDRESS")?;
    let queue = var("CONFORMANCE_QUEUE")?;
    let script = Script { text: var("CONFORMANCE_TEXT")?, ..Default::default() };
    let request = EnqueueRequest {
        task_id: var("CONFORMANCE_TASK_ID")?,
        payload_form: payload(&script),
        options: Some(TaskOptions { queue: queue.clone(), ..Default::default() }),
    };
    let response = enqueue(&address, request).await?;
    let outcome = response.outcome().as_str_name().trim_start_matches("ENQUEUE_OUTCOME_");
    let task_id = response.task.unwrap_or_default().task_id;
    println!("{}", json!({"event": "enqueued", "task_id": task_id, "outcome": outcome}));

    let in_an_hour = prost_types::Duration { seconds: 3600, nanos: 0 };
    let options = TaskOptions {
        queue,
        when: Some(When::Delay(in_an_hour)),
        tags: vec!["example".into()],
        ..Default::default()
    };
    let request = EnqueueRequest {
        payload_form: payload(&StartRun { id: "run_1".into() }),
        options: Some(options),
        ..Default::default()
    };
    enqueue(&address, request).await?;
    Ok(())
}
