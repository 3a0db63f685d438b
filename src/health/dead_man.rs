//! The state of the dead man's switch: which health checks of the load balancer have come, and whether the switch has
//! fired. `instance::dead_man` acts on it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use axum::http::{HeaderMap, header};

/// What the process has heard of the load balancer.
#[derive(Default)]
pub struct DeadMan {
    health_checks: AtomicU64,
    fired: AtomicBool,
}

impl DeadMan {
    /// A request for `/healthz` or `/readyz`, or a call of gRPC, with these headers has come.
    pub fn note_health_check(&self, headers: &HeaderMap) {
        if is_health_check(headers) {
            self.health_checks.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// How many of them have come.
    pub fn health_checks(&self) -> u64 {
        self.health_checks.load(Ordering::Relaxed)
    }

    /// The instance is replaced because of the switch, from now on.
    pub fn fire(&self) {
        self.fired.store(true, Ordering::Relaxed);
    }

    /// The instance is being replaced because of the switch.
    pub fn has_fired(&self) -> bool {
        self.fired.load(Ordering::Relaxed)
    }
}

/// Whether the load balancer itself asks. gRPC libraries put their own names behind the agent's.
pub fn is_health_check(headers: &HeaderMap) -> bool {
    let agent = headers.get(header::USER_AGENT).and_then(|agent| agent.to_str().ok()).unwrap_or_default();
    // What comes through the load balancer says so, whatever it calls itself.
    agent.starts_with("ELB-HealthChecker/") && !headers.contains_key("x-forwarded-for")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_load_balancer_itself_is_heard() {
        let dead_man = DeadMan::default();
        let mut headers = HeaderMap::new();
        let mut hear = |name: &'static str, value: &str| {
            headers.insert(name, value.parse().unwrap());
            dead_man.note_health_check(&headers);
            dead_man.health_checks()
        };
        assert_eq!(hear("user-agent", "curl/8"), 0);
        assert_eq!(hear("user-agent", "ELB-HealthChecker/2.0"), 1);
        assert_eq!(hear("user-agent", "ELB-HealthChecker/2.0 grpc-c++/1.85.1"), 2);
        assert_eq!(hear("x-forwarded-for", "192.0.2.1"), 2, "somebody who calls himself so");
    }
}
