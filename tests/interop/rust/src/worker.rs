//! The worker; docs/worker-protocol.md explains each step.
//!
//! A worker holds leases, whatever happens to its streams: it opens the next one, presents what it
//! holds and repeats the answers that were not confirmed. One task owns all of its state and is told of
//! everything else by a channel.

use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::time::Duration;

use prost::Message as _;
use prost_types::Any;
use tokio::select;
use tokio::sync::{mpsc, oneshot};
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

use crate::stubs::workerqueue::v1::worker_queue_client::WorkerQueueClient;
use crate::stubs::workerqueue::v1::{
    AckRequest, CancellationReason, Fail, HeartbeatRequest, LeaseOperation, LeaseRequest,
    LeaseResponse, LeaseResult, LeasedTask, NackRequest, Subscribe, TaskError, Welcome,
    nack_request::Action,
};

const SHORTEST_BACKOFF: Duration = Duration::from_millis(500);
const LONGEST_BACKOFF: Duration = Duration::from_secs(5);
/// A stream that lived this long was a good one.
const STABLE: Duration = Duration::from_secs(10);
const WELCOME: Duration = Duration::from_secs(15);
/// Frames must stay under 4 MiB, and one answer has at most a little over 1 MiB.
const FRAME_BYTES: usize = 2 << 20;
const FRAME_ANSWERS: usize = 1000;

/// A failed attempt, and how to go on.
#[derive(Debug, Default)]
pub struct Failure {
    pub kind: String,
    pub message: String,
    /// None: the kind's backoff.
    pub retry_after: Option<prost_types::Duration>,
    pub permanent: bool,
}

/// What the worker tells about its tasks.
pub enum Notice<'a> {
    Ready,
    Finished(&'a LeasedTask),
    Stopped(&'a LeasedTask, CancellationReason),
}

pub struct Config {
    pub address: String,
    pub worker_id: String,
    pub queues: Vec<String>,
    /// How many tasks it handles at once.
    pub window: i32,
}

/// A task in a handler's hands. Its future is dropped when the lease is over.
pub struct Task {
    pub leased: LeasedTask,
    events: mpsc::UnboundedSender<Event>,
}

impl Task {
    /// Stores what the next attempt receives if this one does not finish; returns when the server
    /// has it.
    pub async fn save_checkpoint(&self, checkpoint: Any) {
        let (stored, confirmed) = oneshot::channel();
        let token = self.leased.lease_token.clone();
        let _ = self.events.send(Event::Checkpoint(token, checkpoint, stored));
        let _ = confirmed.await;
    }
}

enum Event {
    Done(Vec<u8>, Result<Option<Any>, Failure>),
    Checkpoint(Vec<u8>, Any, oneshot::Sender<()>),
    Repeat(Vec<u8>),
    Drain,
}

/// Asks a worker to finish.
#[derive(Clone)]
pub struct Drainer(mpsc::UnboundedSender<Event>);

impl Drainer {
    /// The worker takes no more tasks; `run` returns when those that are held are finished.
    pub fn drain(&self) {
        let _ = self.0.send(Event::Drain);
    }
}

struct Lease {
    task: LeasedTask,
    work: AbortHandle,
    /// The work is done, and the server has not confirmed this yet.
    answer: Option<Answer>,
    checkpoint: Option<Any>,
    stored: Option<oneshot::Sender<()>>,
    next_beat: Instant,
}

#[derive(Clone)]
enum Answer {
    Ack(AckRequest),
    Nack(NackRequest),
}

/// Takes tasks and has a handler do them.
pub struct Worker<H, N> {
    config: Config,
    handler: H,
    notify: N,
    leases: HashMap<Vec<u8>, Lease>,
    /// Leases whose answers are to be written on the current stream.
    outgoing: VecDeque<Vec<u8>>,
    heartbeat: Duration,
    draining: bool,
    said_drain: bool,
    events: mpsc::UnboundedReceiver<Event>,
    sender: mpsc::UnboundedSender<Event>,
}

impl<H, F, N> Worker<H, N>
where
    H: Fn(Task) -> F,
    F: Future<Output = Result<Option<Any>, Failure>> + Send + 'static,
    N: Fn(Notice),
{
    pub fn new(config: Config, handler: H, notify: N) -> Self {
        let (sender, events) = mpsc::unbounded_channel();
        Self {
            config,
            handler,
            notify,
            leases: HashMap::new(),
            outgoing: VecDeque::new(),
            heartbeat: Duration::from_secs(10),
            draining: false,
            said_drain: false,
            events,
            sender,
        }
    }

    pub fn drainer(&self) -> Drainer {
        Drainer(self.sender.clone())
    }

    /// Works until it has drained, or the server refuses the subscription.
    pub async fn run(mut self) -> Result<(), Status> {
        let mut backoff = SHORTEST_BACKOFF;
        while !(self.draining && self.leases.is_empty()) {
            let opened = Instant::now();
            if let Err(status) = self.stream().await {
                if is_fatal(status.code()) {
                    return Err(status);
                }
                eprintln!("the stream ended: {status}");
            }
            if opened.elapsed() > STABLE {
                backoff = SHORTEST_BACKOFF;
            }
            self.pause(backoff.mul_f64(random_share())).await;
            backoff = LONGEST_BACKOFF.min(backoff * 2);
        }
        Ok(())
    }

    /// Waits, and takes note of what the handlers say meanwhile.
    async fn pause(&mut self, time: Duration) {
        let end = sleep(time);
        tokio::pin!(end);
        loop {
            select! {
                () = &mut end => return,
                Some(event) = self.events.recv() => self.on_event(event),
            }
        }
    }

    /// Opens one stream, on a connection of its own because the last server may be draining, and stays
    /// with it to its end.
    async fn stream(&mut self) -> Result<(), Status> {
        let channel = connect(&self.config.address).await?;
        let (frames_out, outgoing) = mpsc::channel(1);
        let _ = frames_out.try_send(self.subscription());
        let mut client = WorkerQueueClient::new(channel);
        let opening = async {
            let mut frames = client.lease(ReceiverStream::new(outgoing)).await?.into_inner();
            let first = frames.message().await?;
            Ok::<_, Status>((frames, first))
        };
        let (mut frames, first) =
            timeout(WELCOME, opening).await.map_err(|_| Status::unavailable("no welcome"))??;
        let Some(first) = first else { return Ok(()) };
        self.said_drain = false;
        if let Some(welcome) = &first.welcome {
            self.on_welcome(welcome);
        }
        self.on_frame(first);
        loop {
            let can_write = frames_out.capacity() > 0 && !frames_out.is_closed();
            if can_write && let Some(frame) = self.next_frame() {
                let _ = frames_out.try_send(frame);
                continue;
            }
            let due = self.next_due();
            select! {
                frame = frames.message() => match frame? {
                    Some(frame) => self.on_frame(frame),
                    None => return Ok(()),
                },
                Some(event) = self.events.recv() => self.on_event(event),
                () = sleep_until(due), if can_write => {}
                Ok(_) = frames_out.reserve(), if !can_write => {}
            }
        }
    }

    fn subscription(&self) -> LeaseRequest {
        LeaseRequest {
            subscribe: Some(Subscribe {
                worker_id: self.config.worker_id.clone(),
                queues: self.config.queues.clone(),
                max_in_flight: self.config.window,
                protocol_version: 1,
                held_lease_tokens: self.leases.keys().cloned().collect(),
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    /// Answers and heartbeats that are due, as many as are ready.
    fn next_frame(&mut self) -> Option<LeaseRequest> {
        let mut frame = LeaseRequest::default();
        let mut bytes = 0;
        while bytes < FRAME_BYTES && frame.acks.len() + frame.nacks.len() < FRAME_ANSWERS {
            let Some(token) = self.outgoing.pop_front() else { break };
            match self.leases.get(&token).and_then(|lease| lease.answer.clone()) {
                Some(Answer::Ack(ack)) => {
                    bytes += ack.encoded_len();
                    frame.acks.push(ack);
                }
                Some(Answer::Nack(nack)) => {
                    bytes += nack.encoded_len();
                    frame.nacks.push(nack);
                }
                None => {}
            }
        }
        let now = Instant::now();
        for (token, lease) in &mut self.leases {
            if lease.answer.is_none() && lease.next_beat <= now && bytes < FRAME_BYTES {
                lease.next_beat = now + beat_interval(self.heartbeat, &lease.task);
                let beat = HeartbeatRequest {
                    lease_token: token.clone(),
                    checkpoint: lease.checkpoint.clone(),
                    ..Default::default()
                };
                bytes += beat.encoded_len();
                frame.heartbeats.push(beat);
            }
        }
        if self.draining && !self.said_drain {
            frame.drain = true;
            self.said_drain = true;
        }
        (bytes > 0 || frame.drain).then_some(frame)
    }

    fn next_due(&self) -> Instant {
        let beats = self.leases.values().filter(|lease| lease.answer.is_none());
        let next = beats.map(|lease| lease.next_beat).min();
        next.unwrap_or_else(|| Instant::now() + Duration::from_secs(60))
    }

    /// Settles what became of the leases held over from the last stream.
    fn on_welcome(&mut self, welcome: &Welcome) {
        self.heartbeat = to_std(welcome.heartbeat_interval.as_ref());
        for held in &welcome.held_leases {
            let waits = |lease: &Lease| lease.answer.is_none();
            if !held.alive && self.leases.get(&held.lease_token).is_some_and(waits) {
                self.lose(&held.lease_token, CancellationReason::LeaseLost);
            }
        }
        self.outgoing.clear();
        for (token, lease) in &mut self.leases {
            lease.next_beat = Instant::now();
            if lease.answer.is_some() {
                self.outgoing.push_back(token.clone());
            }
        }
        (self.notify)(Notice::Ready);
    }

    fn on_frame(&mut self, frame: LeaseResponse) {
        for task in frame.tasks {
            self.start(task);
        }
        for result in frame.results {
            self.on_result(result);
        }
        for cancellation in frame.cancellations {
            self.lose(&cancellation.lease_token, cancellation.reason());
        }
        // frame.drain needs nothing: the server ends the stream when all is answered.
    }

    fn start(&mut self, task: LeasedTask) {
        let token = task.lease_token.clone();
        let handling = (self.handler)(Task { leased: task.clone(), events: self.sender.clone() });
        let (events, done) = (self.sender.clone(), token.clone());
        let work = tokio::spawn(async move {
            let _ = events.send(Event::Done(done, handling.await));
        });
        let lease = Lease {
            next_beat: Instant::now() + beat_interval(self.heartbeat, &task),
            task,
            work: work.abort_handle(),
            answer: None,
            checkpoint: None,
            stored: None,
        };
        self.leases.insert(token, lease);
    }

    fn on_event(&mut self, event: Event) {
        match event {
            Event::Done(token, outcome) => {
                if let Some(lease) = self.leases.get_mut(&token) {
                    lease.answer = Some(answer(token.clone(), outcome));
                    self.outgoing.push_back(token);
                }
            }
            Event::Checkpoint(token, checkpoint, stored) => {
                if let Some(lease) = self.leases.get_mut(&token) {
                    lease.checkpoint = Some(checkpoint);
                    lease.stored = Some(stored);
                    lease.next_beat = Instant::now();
                }
            }
            Event::Repeat(token) => self.outgoing.push_back(token),
            Event::Drain => self.draining = true,
        }
    }

    fn on_result(&mut self, result: LeaseResult) {
        let heartbeat = result.operation() == LeaseOperation::Heartbeat;
        let token = result.lease_token;
        match result.error.map(|error| Code::from_i32(error.code)) {
            None if heartbeat => {
                if let Some(stored) = self.leases.get_mut(&token).and_then(|l| l.stored.take()) {
                    let _ = stored.send(());
                }
            }
            None => {
                if let Some(lease) = self.leases.remove(&token) {
                    (self.notify)(Notice::Finished(&lease.task));
                }
            }
            // LEASE_LOST, or an answer that no repetition can mend.
            Some(code) if !is_retryable(code) => self.lose(&token, CancellationReason::LeaseLost),
            Some(_) if heartbeat => {}
            Some(_) => {
                let events = self.sender.clone();
                tokio::spawn(async move {
                    sleep(Duration::from_secs(1)).await;
                    let _ = events.send(Event::Repeat(token));
                });
            }
        }
    }

    /// Stops the work of a lease that is over; nothing is answered.
    fn lose(&mut self, token: &[u8], reason: CancellationReason) {
        if let Some(lease) = self.leases.remove(token) {
            lease.work.abort();
            (self.notify)(Notice::Stopped(&lease.task, reason));
        }
    }
}

/// Connects with the keepalive that the protocol asks for.
pub async fn connect(address: &str) -> Result<Channel, Status> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"))
        .map_err(|error| Status::invalid_argument(error.to_string()))?
        .connect_timeout(Duration::from_secs(5))
        .http2_keep_alive_interval(Duration::from_secs(10))
        .keep_alive_timeout(Duration::from_secs(3))
        .keep_alive_while_idle(true);
    endpoint.connect().await.map_err(|error| Status::unavailable(error.to_string()))
}

fn answer(lease_token: Vec<u8>, outcome: Result<Option<Any>, Failure>) -> Answer {
    match outcome {
        Ok(result) => Answer::Ack(AckRequest { lease_token, result }),
        Err(failure) => {
            let error =
                TaskError { r#type: failure.kind, message: failure.message, ..Default::default() };
            let fail = Fail {
                error: Some(error),
                retry_after: failure.retry_after,
                permanent: failure.permanent,
            };
            Answer::Nack(NackRequest { lease_token, action: Some(Action::Fail(fail)) })
        }
    }
}

/// How often to prolong a task's lease, which may be shorter than the welcome allows for.
fn beat_interval(heartbeat: Duration, task: &LeasedTask) -> Duration {
    heartbeat.min(to_std(task.lease_duration.as_ref()) / 3)
}

/// A protobuf duration as one of the standard library; unset or negative: zero.
pub fn to_std(duration: Option<&prost_types::Duration>) -> Duration {
    duration.and_then(|value| Duration::try_from(*value).ok()).unwrap_or_default()
}

fn is_fatal(code: Code) -> bool {
    matches!(
        code,
        Code::InvalidArgument
            | Code::FailedPrecondition
            | Code::Unauthenticated
            | Code::PermissionDenied
    )
}

/// Whether the same call may succeed later.
pub fn is_retryable(code: Code) -> bool {
    matches!(
        code,
        Code::Unavailable
            | Code::ResourceExhausted
            | Code::DeadlineExceeded
            | Code::Cancelled
            | Code::Unknown
            | Code::Internal
    )
}

/// 0 to 1. The standard library's only source of chance will do to spread reconnects.
fn random_share() -> f64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(0_u8) as f64 / u64::MAX as f64
}
