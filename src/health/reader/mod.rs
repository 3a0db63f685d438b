//! Watch over the database's reader: while it is too far behind or does not answer, reads use the writer.
//!
//! ```text
//! every second                     → heartbeat to the writer, unless another process wrote one; query the reader for it
//! reader silent, or too far behind → reads use the writer
//! three good probes in a row       → reads use the reader again
//! ```
//!
//! Both probes have a connection of their own, so that a pool that is in full use is no sign of an unavailable server.
//! See docs/decisions/0044-reader.md.

pub mod choice;

use std::time::Duration;

use chrono::TimeDelta;
use metrics::{counter, gauge};
use parking_lot::Mutex;
use sqlx::postgres::PgConnectOptions;
use tokio::time::MissedTickBehavior;

use self::choice::{Answer, Choice, Finding, Outcome};
use super::watchdog::Watchdog;
use crate::database::deadline::Deadline;
use crate::database::pool::PgPool;
use crate::database::reads::{Reads, Server};
use crate::error::{Error, FieldError, Kind, Result, chain};
use crate::store::reader_heartbeats;

/// Interval between two probes.
const TICK: Duration = Duration::from_secs(1);
/// Time after which a server that does not answer a probe counts as unavailable.
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);
/// How long a probe waits for a connection that cannot be opened: two attempts fit into its time, and the second one
/// returns the reason.
pub const ACQUIRE_TIMEOUT: Duration = Duration::from_millis(400);
/// Attempts of a probe. The first one may find its connection broken.
const ATTEMPTS: u32 = 2;
/// Longest time between two heartbeats of the loop, far above the time-outs of one round.
const LONGEST_ROUND: Duration = Duration::from_secs(30);

/// Probes of a reader, and what they found last.
pub struct ReaderWatch {
    reads: Reads,
    /// Pool of one connection to the writer.
    heartbeats: PgPool,
    /// Pool of one connection to the reader.
    probes: PgPool,
    /// Deadline of the probes alone: a reader that is unavailable for hours is no reason to suspect the writer's
    /// connections.
    own_deadline: Deadline,
    /// Deadline of all other work with the database.
    deadline: Deadline,
    max_lag: TimeDelta,
    note: Mutex<Option<&'static str>>,
}

/// Deadlines of a watch.
pub struct Deadlines {
    /// Deadline of its two pools.
    pub own: Deadline,
    /// Deadline of all other pools.
    pub shared: Deadline,
}

impl ReaderWatch {
    /// Watch that lets `reads` leave a reader which is more than `max_lag` behind. `heartbeats` and `probes` are pools of
    /// one connection, to the writer and to the reader.
    pub fn new(
        reads: Reads,
        heartbeats: PgPool,
        probes: PgPool,
        deadlines: Deadlines,
        max_lag: Duration,
    ) -> ReaderWatch {
        let max_lag = TimeDelta::from_std(max_lag).unwrap_or(TimeDelta::MAX);
        let Deadlines { own, shared } = deadlines;
        ReaderWatch {
            reads,
            heartbeats,
            probes,
            own_deadline: own,
            deadline: shared,
            max_lag,
            note: Mutex::default(),
        }
    }

    /// Its pools.
    pub fn pools(&self) -> [&PgPool; 2] {
        [&self.heartbeats, &self.probes]
    }

    /// Its pools with the options of their connections, given those of the writer's and the reader's.
    pub fn log_ins(
        &self,
        writer: PgConnectOptions,
        reader: PgConnectOptions,
    ) -> [(PgPool, PgConnectOptions); 2] {
        [(self.heartbeats.clone(), heartbeat_options(writer)), (self.probes.clone(), reader)]
    }

    /// Note for `/readyz` while reads use the writer, in few words, because the endpoint is public.
    pub fn note(&self) -> Option<FieldError> {
        let detail = (*self.note.lock())?;
        Some(FieldError { pointer: "reader".to_owned(), detail: detail.to_owned() })
    }

    /// Probes both servers until the future is dropped.
    pub async fn run(&self, watchdog: &Watchdog) {
        let heartbeat = watchdog.start("the probe of the reader", LONGEST_ROUND);
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut choice = Choice::new(self.max_lag);
        loop {
            ticks.tick().await;
            heartbeat.beat();
            if self.reads.is_one_database() {
                choice = Choice::new(self.max_lag);
                *self.note.lock() = None;
                self.reads.use_server(choice.server());
                continue;
            }
            self.probe(&mut choice).await;
        }
    }

    async fn probe(&self, choice: &mut Choice) {
        let before = choice.server();
        let (writer, reader) = tokio::join!(
            self.ask(|| reader_heartbeats::beat(&self.heartbeats)),
            self.ask(|| reader_heartbeats::find_received(&self.probes))
        );
        let (mut reader, mut reason) = reader;
        if before == Server::Writer && reader != Answer::Silent && !self.pool_serves().await {
            reader = Answer::Silent;
            reason = "its pool gets no connection".to_owned();
        }
        let Outcome { finding, lag, server } = choice.update(writer.0, reader);
        gauge!("salebell_reader_lag_seconds")
            .set(lag.map_or(f64::NAN, |lag| lag.num_milliseconds() as f64 / 1000.0));
        *self.note.lock() = match (server, finding) {
            (Server::Reader, _) => None,
            (Server::Writer, Finding::Behind(_)) => Some("is behind; reads use the writer"),
            (Server::Writer, Finding::Silent | Finding::BothSilent) => {
                Some("does not answer; reads use the writer")
            }
            (Server::Writer, Finding::Good) => Some("answers again; reads use the writer for a moment"),
        };
        if server != before {
            self.switch(server, finding, &reason);
        }
    }

    fn switch(&self, server: Server, finding: Finding, reason: &str) {
        let to = match server {
            Server::Reader => "reader",
            Server::Writer => "writer",
        };
        counter!("salebell_reader_switches_total", "to" => to).increment(1);
        match finding {
            Finding::Behind(lag) => {
                let seconds = lag.num_milliseconds() as f64 / 1000.0;
                log::warn!(target: "salebell::reader", "reads use the writer: the reader is {seconds:.1} s behind");
            }
            Finding::Silent | Finding::BothSilent => {
                log::warn!(target: "salebell::reader", "reads use the writer: the reader does not answer: {reason}");
                // Before reads leave it: connections that are released from now on must prove that they are alive.
                self.deadline.suspect_connections();
            }
            Finding::Good => log::info!(target: "salebell::reader", "reads use the reader again"),
        }
        self.reads.use_server(server);
    }

    /// Answer of one server, and why there is none.
    async fn ask<T, F: Future<Output = Result<Option<T>>>>(
        &self,
        query: impl Fn() -> F,
    ) -> (Answer<T>, String) {
        let attempts = async {
            let mut attempt = 1;
            loop {
                match query().await {
                    Ok(Some(heartbeat)) => return (Answer::Heartbeat(heartbeat), String::new()),
                    Ok(None) => return (Answer::Unknown, String::new()),
                    Err(error) if error.kind == Kind::Unavailable && attempt < ATTEMPTS => attempt += 1,
                    Err(error) if error.kind == Kind::Unavailable => return (Answer::Silent, chain(&error)),
                    // It answers, without the table: it has not received the migration, or the migration has not run.
                    Err(_) => return (Answer::Unknown, String::new()),
                }
            }
        };
        let answer = self.own_deadline.timeout(PROBE_TIMEOUT, attempts).await;
        answer.unwrap_or_else(|late| (Answer::Silent, chain(&Error::from(late))))
    }

    /// Whether the reader's pool has a connection that answers. Reads that wait for a reader that has fallen silent hold
    /// its connections until their own time-outs, and reads must not come back before that.
    async fn pool_serves(&self) -> bool {
        let acquired = self.reads.pool_of(Server::Reader).acquire();
        matches!(self.deadline.timeout(PROBE_TIMEOUT, acquired).await, Ok(Ok(_)))
    }
}

/// Options of the connection for heartbeats. A commit does not wait for standbys: it would hang without the reader, and
/// look as if the writer were unavailable too.
pub fn heartbeat_options(writer: PgConnectOptions) -> PgConnectOptions {
    writer.options([("synchronous_commit", "local")])
}
