//! Verdicts of the scenarios `canary` and `bad-canary`: pure functions of what was counted. `tests/it/project/canary_verdict.rs`
//! shows that each of them can fail, without booting an instance.

use std::collections::BTreeSet;

/// Requests of a hundred that the canary gets.
pub const WEIGHT: u32 = 10;
/// Number of successive bad periods after which the gate alarms.
const PERIODS: usize = 3;
const BAD_PERIODS: usize = 2;
/// Share of its answers that the defect spoils.
const SPOILT: f64 = 1.0 / 3.0;
/// Probability below which a result is not attributed to chance.
const CHANCE: f64 = 0.001;
/// Time in seconds before the defect in which its failures may have begun: a request is noted when it begins.
const BEFORE_S: f64 = 30.0;

/// Requests of clients while the canary had its weight.
#[derive(Clone)]
pub struct Share {
    pub requests: usize,
    pub canary: usize,
}

/// Observations of a canary that answers 500 to a third.
#[derive(Clone)]
pub struct Bad {
    /// Whether the gate has alarmed.
    pub alarmed: bool,
    pub share: Share,
    /// Answers of the canary, and the 5xx among them.
    pub answers: usize,
    pub spoilt: usize,
    /// Failed requests of clients since the canary got its weight.
    pub failed: usize,
    /// Ids of the fleet's instances.
    pub before: BTreeSet<String>,
    pub after: BTreeSet<String>,
}

/// Failed requests that a share of the canary makes likely.
pub fn due(share: &Share) -> f64 {
    share.requests as f64 * f64::from(WEIGHT) / 100.0 * SPOILT
}

/// The verdict on a bad canary: noticed, at most a third of a tenth of the requests have failed, and the fleet stays.
///
/// # Errors
/// The first bound that is violated.
pub fn bad(seen: &Bad) -> Result<(), String> {
    if !seen.alarmed {
        return Err("the gate has not noticed".to_owned());
    }
    // Counted over its answers in order; one more is allowed for requests that had begun before.
    if seen.spoilt as f64 > seen.answers as f64 * SPOILT + 1.0 {
        return Err(format!(
            "{} of {} answers of the canary are 5xx: more than its defect makes",
            seen.spoilt, seen.answers
        ));
    }
    let part = f64::from(WEIGHT) / 100.0 * SPOILT;
    if at_least(seen.failed, seen.share.requests, part) < CHANCE {
        let due = due(&seen.share);
        return Err(format!(
            "{} of {} requests have failed, where {due:.0} were due",
            seen.failed, seen.share.requests
        ));
    }
    is_a_tenth(&seen.share)?;
    if seen.before.is_empty() || seen.before != seen.after {
        return Err(format!("the fleet was {:?} and is {:?}", seen.before, seen.after));
    }
    Ok(())
}

/// Whether a good canary may be followed by a roll: no alarm, a tenth of the requests, and none has failed.
///
/// # Errors
/// The first bound that is violated.
pub fn may_be_rolled(alarmed: bool, share: &Share, failed: usize) -> Result<(), String> {
    if alarmed {
        return Err("the gate has taken a good canary for a bad one".to_owned());
    }
    is_a_tenth(share)?;
    none_failed(failed)
}

/// The verdict after the roll: the canary had no request at rest, and none of all requests has failed.
///
/// # Errors
/// The first bound that is violated.
pub fn good(requests_at_rest: usize, failed: usize) -> Result<(), String> {
    match requests_at_rest {
        0 => none_failed(failed),
        requests => Err(format!("the canary has had {requests} requests at rest")),
    }
}

fn none_failed(failed: usize) -> Result<(), String> {
    match failed {
        0 => Ok(()),
        failed => Err(format!("{failed} requests have failed, and none may")),
    }
}

/// Whether a failed attempt is the defect's answer, `since_s` seconds after the defect: no other instance may fail, nor the
/// canary in another way.
pub fn is_the_defects(of_the_canary: bool, answered: bool, since_s: f64) -> bool {
    of_the_canary && answered && since_s >= -BEFORE_S
}

/// Whether a period is bad by the rule of the alarm CanaryGateTarget5xx: more than 1 % of its answers are 5xx, and at least
/// three.
pub fn is_bad_period(answers: usize, failed: usize) -> bool {
    failed >= 3 && failed * 100 > answers
}

/// Whether the gate alarms after these periods, the newest last.
pub fn alarms(periods: &[bool]) -> bool {
    let last = &periods[periods.len().saturating_sub(PERIODS)..];
    last.iter().filter(|bad| **bad).count() >= BAD_PERIODS
}

/// Checks that there is no canary, and that the balancer would send it nothing.
///
/// # Errors
/// There is one, or the weight is another one or unknown.
pub fn is_at_rest(weight: Option<u32>, canaries: usize) -> Result<(), String> {
    match (weight, canaries) {
        (Some(0), 0) => Ok(()),
        _ => Err(format!("the canary's weight is {weight:?}, and {canaries} are there")),
    }
}

/// Checks that all instances, each with its id and the version that it says itself, run this image.
///
/// # Errors
/// One runs another image, or there is none.
pub fn all_run(version: &str, found: &[(String, String)]) -> Result<(), String> {
    if found.is_empty() {
        return Err(format!("no instance runs {version}"));
    }
    match found.iter().find(|(_, runs)| runs != version) {
        Some((id, runs)) => Err(format!("{id} runs {runs:?} and not {version}")),
        None => Ok(()),
    }
}

/// Checks that the canary's share is within the limits of chance.
fn is_a_tenth(share: &Share) -> Result<(), String> {
    let part = f64::from(WEIGHT) / 100.0;
    let (as_many, more) =
        (at_least(share.canary, share.requests, part), at_least(share.canary + 1, share.requests, part));
    if as_many < CHANCE || 1.0 - more < CHANCE {
        Err(format!("the canary had {} of {} requests: no tenth", share.canary, share.requests))
    } else {
        Ok(())
    }
}

/// Probability of at least `times` successes in `tries`, each with probability `part` (the tail of the binomial
/// distribution).
fn at_least(times: usize, tries: usize, part: f64) -> f64 {
    let mut logarithm = tries as f64 * (1.0 - part).ln();
    let mut below = 0.0;
    for came in 0..times.min(tries + 1) {
        below += logarithm.exp();
        logarithm += ((tries - came) as f64 / (came + 1) as f64).ln() + (part / (1.0 - part)).ln();
    }
    1.0 - below
}
