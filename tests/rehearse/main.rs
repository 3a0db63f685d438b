//! `make rehearse`: a fleet of booted instances with everything around it on one machine, under a steady load, through
//! the events that happen to fleets.
//!
//! ```text
//! a network namespace of its own, bridge "instances" 10.77.0.1
//!   load  → haproxy :443 (the load balancer) → :8443 of instances in service, 10.77.0.11 …
//!   fleet → the group's rules over tests/support (metadata :80, Auto Scaling :4567)
//!   cloud → SSM, Secrets Manager, SNS, SQS, S3 of an emulator :4566
//!   database → PostgreSQL, its writer's address :5432 and its reader's :5433
//!   sink  ← webhooks :8000
//! ```
//!
//! However this process ends, it leaves nothing behind: everything that it starts ends with it.

mod balancer;
mod canary;
mod chart;
mod cloud;
mod database;
mod efs;
mod facts;
mod fleet;
mod ledger;
mod load;
mod machine;
mod network;
mod report;
mod scenarios;
mod scratch;
mod sink;
mod stage;
mod timeline;
mod upload;
mod verdict;
mod vm;
mod volume;
mod vpc;

use std::process::ExitCode;

use scenarios::Scenario;

/// Prints a line of progress.
#[macro_export]
macro_rules! say {
    ($($text:tt)*) => { $crate::timeline::say(&format!($($text)*)) };
}

fn main() -> ExitCode {
    let names: Vec<String> = std::env::args().skip(1).collect();
    // Not a scenario of a fleet (`make rehearse-vm`).
    let is_vm = names == ["vm"];
    let scenarios = match Scenario::chosen(if is_vm { Vec::new() } else { names }) {
        Ok(scenarios) => scenarios,
        Err(problem) => {
            eprintln!("{problem}");
            return ExitCode::from(2);
        }
    };
    // While there is a single thread: all later threads and processes inherit the namespace.
    if let Err(problem) = network::enter_namespace() {
        eprintln!("{problem}");
        return ExitCode::from(2);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    let passed = runtime
        .block_on(async { if is_vm { vm::perform().await } else { stage::perform(&scenarios).await } });
    runtime.shutdown_timeout(std::time::Duration::from_secs(1));
    if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Waits for a signal that requests the end.
async fn interrupted() -> &'static str {
    use tokio::signal::unix::{SignalKind, signal};
    let [mut interrupt, mut terminate, mut hangup] =
        [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()]
            .map(|kind| signal(kind).expect("a signal's handler"));
    tokio::select! {
        _ = interrupt.recv() => "interrupted",
        _ = terminate.recv() => "terminated",
        _ = hangup.recv() => "hung up",
    }
}
