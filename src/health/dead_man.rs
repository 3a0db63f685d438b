//! State of the dead man's switch: the number of health checks that the load balancer has sent, and whether the switch
//! has fired. `instance::dead_man` acts on it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use axum::http::{HeaderMap, header};

/// Health checks received by this process, and the outcome of the switch.
#[derive(Default)]
pub struct DeadMan {
    health_checks: AtomicU64,
    fired: AtomicBool,
}

impl DeadMan {
    /// Counts a request for `/healthz` or `/readyz`, or a gRPC call, if its headers show a health check.
    pub fn note_health_check(&self, headers: &HeaderMap) {
        if is_health_check(headers) {
            self.health_checks.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Number of health checks received.
    pub fn health_checks(&self) -> u64 {
        self.health_checks.load(Ordering::Relaxed)
    }

    /// Records that the switch has fired and the instance is being replaced.
    pub fn fire(&self) {
        self.fired.store(true, Ordering::Relaxed);
    }

    /// Whether the switch has fired and the instance is being replaced.
    pub fn has_fired(&self) -> bool {
        self.fired.load(Ordering::Relaxed)
    }
}

/// Whether a request is a health check of the load balancer itself. gRPC libraries append their own names to the user
/// agent.
pub fn is_health_check(headers: &HeaderMap) -> bool {
    let agent = headers.get(header::USER_AGENT).and_then(|agent| agent.to_str().ok()).unwrap_or_default();
    // A client that comes through the load balancer has this header, whatever user agent it sends.
    agent.starts_with("ELB-HealthChecker/") && !headers.contains_key("x-forwarded-for")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_health_checks_of_the_load_balancer_itself_count() {
        let dead_man = DeadMan::default();
        let mut headers = HeaderMap::new();
        let mut note = |name: &'static str, value: &str| {
            headers.insert(name, value.parse().unwrap());
            dead_man.note_health_check(&headers);
            dead_man.health_checks()
        };
        assert_eq!(note("user-agent", "curl/8"), 0);
        assert_eq!(note("user-agent", "ELB-HealthChecker/2.0"), 1);
        assert_eq!(note("user-agent", "ELB-HealthChecker/2.0 grpc-c++/1.85.1"), 2);
        assert_eq!(
            note("x-forwarded-for", "192.0.2.1"),
            2,
            "a client that sends the load balancer's user agent"
        );
    }
}
