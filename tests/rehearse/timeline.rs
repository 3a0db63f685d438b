//! The timeline: requests, events, and numbers of instances.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Instant;

static BEGUN: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Seconds since the rehearsal began.
pub fn now() -> f64 {
    BEGUN.elapsed().as_secs_f64()
}

/// Prints a line of progress.
pub fn say(text: &str) {
    println!("[{:4.0} s] {text}", now());
}

/// One attempt of a request.
#[derive(Clone)]
pub struct Attempt {
    /// Number in the balancer's log; 0: the request did not pass through the balancer.
    pub number: u64,
    pub at: f64,
    pub millis: f64,
    pub kind: &'static str,
    /// Reason of its failure: a status of 5xx, or no answer.
    pub error: Option<String>,
    /// Whether an instance answered, and not the balancer in its place.
    pub answered: bool,
}

/// Numbers of instances.
#[derive(Clone, Copy, PartialEq)]
pub struct Count {
    pub at: f64,
    pub serving: usize,
    pub coming: usize,
    pub leaving: usize,
}

#[derive(Default)]
struct Entries {
    attempts: Vec<Attempt>,
    counts: Vec<Count>,
    events: Vec<Event>,
}

/// Something that happened.
#[derive(Clone)]
pub struct Event {
    pub at: f64,
    pub text: String,
    /// Whether it was done on purpose.
    pub is_mark: bool,
}

#[derive(Clone, Default)]
pub struct Timeline(Arc<Mutex<Entries>>);

impl Timeline {
    pub fn attempt(&self, attempt: Attempt) {
        self.0.lock().unwrap().attempts.push(attempt);
    }

    /// Prints an event, and keeps it for the report.
    pub fn event(&self, text: &str) {
        self.keep(text, false);
    }

    /// The same for an action on the fleet, which the report shows in the chart.
    pub fn mark(&self, text: &str) {
        self.keep(text, true);
    }

    fn keep(&self, text: &str, is_mark: bool) {
        say(text);
        self.0.lock().unwrap().events.push(Event { at: now(), text: text.to_owned(), is_mark });
    }

    pub fn count(&self, count: Count) {
        self.0.lock().unwrap().counts.push(count);
    }

    pub fn attempts(&self, since: f64) -> Vec<Attempt> {
        let entries = self.0.lock().unwrap();
        entries.attempts.iter().filter(|attempt| attempt.at >= since).cloned().collect()
    }

    pub fn counts(&self) -> Vec<Count> {
        self.0.lock().unwrap().counts.clone()
    }

    pub fn events(&self) -> Vec<Event> {
        self.0.lock().unwrap().events.clone()
    }

    /// Numbers of failed attempts, by kind and reason.
    pub fn failures(&self, since: f64) -> BTreeMap<String, usize> {
        let mut failures = BTreeMap::new();
        for attempt in self.attempts(since) {
            if let Some(error) = attempt.error {
                *failures.entry(format!("{}: {error}", attempt.kind)).or_default() += 1;
            }
        }
        failures
    }
}
