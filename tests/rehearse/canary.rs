//! A canary, with the steps of a rollout at a tenth of their durations, in proportion to the health checks:
//!
//! ```text
//! up     one instance of the next image in a group of its own: healthy, and without requests
//! serves a tenth of the requests, while a gate checks its answers
//! rests  no more requests, in a separate step: a rollback of the roll must not return to a tenth
//! roll   the fleet
//! gone   the canary
//! ```

use std::collections::BTreeSet;
use std::time::Duration;

use super::balancer::{self, Given, Pool};
use super::fleet::{Pace, wait_for};
use super::machine::Image;
use super::scenarios::{roll, runs};
use super::stage::{SETTLE_LIMIT, Stage};
use super::timeline::now;

/// Requests of a hundred that the canary gets.
const WEIGHT: u32 = 10;
/// Evaluation period, which stands for a minute of CloudWatch.
const PERIOD: Duration = Duration::from_secs(6);
/// Number of successive bad periods after which the gate alarms.
const PERIODS: usize = 3;
const BAD_PERIODS: usize = 2;
/// Least time in seconds for which the canary serves; if it has too few requests by then, it gets twice that time more.
const SERVES_S: f64 = 60.0;
const LEAST_REQUESTS: usize = 200;
const TIMES: f64 = 3.0;
/// Share of its answers that the defect spoils.
const SPOILT: f64 = 1.0 / 3.0;
/// Probability below which a result is not attributed to chance.
const CHANCE: f64 = 0.001;

/// Program in front of the API, which listens on another port behind it.
const DEFECT: &str = include_str!("defect/spoil-answers.py");
const DEFECT_UNIT: &str = include_str!("defect/spoil-answers.service");
const BEHIND_IT: &str = "[Unit]\nWants=spoil-answers.service\n\
                         [Service]\nEnvironment=SALEBELL_SERVER__LISTEN=127.0.0.1:8444\n";

/// Requests of clients while the canary had its weight.
struct Share {
    requests: usize,
    canary: usize,
}

/// Rolls out another image to one instance, then to all.
pub async fn good(stage: &mut Stage, image: Image) -> Result<(), String> {
    let done = async {
        let number = up(stage, image.clone()).await?;
        let (share, alarmed) = serve(stage, number).await?;
        if alarmed {
            return Err("the gate has taken a good canary for a bad one".to_owned());
        }
        is_a_tenth(&share)?;
        let resting_since = now();
        roll(stage, image, Pace::SideBySide).await?;
        match had_since(stage, number, resting_since).await {
            0 => Ok(()),
            requests => Err(format!("the canary has had {requests} requests at rest")),
        }
    };
    let done = done.await;
    let gone = gone(stage).await;
    done.and(gone)
}

/// Rolls out an image that boots, is ready, and answers with errors: the fleet never gets it.
pub async fn bad(stage: &mut Stage) -> Result<(), String> {
    let current = stage.fleet.lock().await.live.image.clone();
    let before = stage.ids().await;
    let done = async {
        let number = up(stage, spoilt(&current)).await?;
        stage.fault("its defect shows", BTreeSet::from([number]));
        let (begun, before) = (now(), stage.fleet.lock().await.balancer.given().len());
        let (share, alarmed) = serve(stage, number).await?;
        if !alarmed {
            return Err("the gate has not noticed".to_owned());
        }
        Ok((begun, before, share))
    };
    let done = done.await;
    gone(stage).await?;
    let (begun, lines, share) = done?;
    let given = stage.fleet.lock().await.balancer.given();
    let (answers, spoilt) = of_the_canary(&given[lines..]);
    // Counted over its answers in order; one more is allowed for requests that had begun before.
    if spoilt as f64 > answers as f64 * SPOILT + 1.0 {
        return Err(format!(
            "{spoilt} of {answers} answers of the canary are 5xx: more than its defect makes"
        ));
    }
    let attempts = stage.timeline.attempts(begun);
    let failed = attempts.iter().filter(|attempt| attempt.error.is_some()).count();
    let part = f64::from(WEIGHT) / 100.0 * SPOILT;
    let expected = share.requests as f64 * part;
    stage
        .timeline
        .event(&format!("{failed} of {} requests have failed, {expected:.0} expected", share.requests));
    if at_least(failed, share.requests, part) < CHANCE {
        return Err(format!(
            "{failed} of {} requests have failed, where {expected:.0} were due",
            share.requests
        ));
    }
    is_a_tenth(&share)?;
    let after = stage.ids().await;
    if before != after {
        return Err(format!("the fleet was {before:?} and is {after:?}"));
    }
    runs(stage, &current).await
}

/// Image with a defect that its own readiness check does not detect.
fn spoilt(image: &Image) -> Image {
    let (certificate, key) = balancer::certificate();
    let mut bad = Image { version: format!("{}-spoilt", image.version), ..image.clone() };
    for (name, text) in [
        ("spoil-answers/certificate.pem", certificate.as_str()),
        ("spoil-answers/key.pem", &key),
        ("spoil-answers/spoil-answers.py", DEFECT),
        ("systemd/system/spoil-answers.service", DEFECT_UNIT),
        ("systemd/system/salebell-api.service.d/behind-the-defect.conf", BEHIND_IT),
    ] {
        bad.files.push((name.to_owned(), text.to_owned()));
    }
    bad
}

/// Starts one instance, healthy for the group and the balancer, with weight 0. Returns its number.
async fn up(stage: &mut Stage, image: Image) -> Result<u8, String> {
    at_rest(stage).await?;
    stage.timeline.mark(&format!("a canary of {}", image.version));
    stage.fleet.lock().await.want_canary(image, 1);
    wait_for(&stage.fleet, "the canary is healthy", SETTLE_LIMIT, |fleet| {
        fleet.is_settled() || fleet.canary.launches_failed > 0
    })
    .await?;
    let fleet = stage.fleet.lock().await;
    let canary = fleet.of(Pool::Canary).next().filter(|_| fleet.canary.launches_failed == 0);
    canary.map(|member| member.number).ok_or_else(|| "the canary does not boot".to_owned())
}

/// Gives the canary its weight until it has had enough requests or the gate alarms, and removes the weight. Returns
/// whether the gate has alarmed.
async fn serve(stage: &mut Stage, number: u8) -> Result<(Share, bool), String> {
    let begun = now();
    stage.timeline.mark(&format!("{WEIGHT} of 100 requests to the canary"));
    stage.fleet.lock().await.balancer.weigh(WEIGHT).await;
    let mut periods = Vec::new();
    let mut before = stage.fleet.lock().await.balancer.given().len();
    let alarmed = loop {
        tokio::time::sleep(PERIOD).await;
        let given = stage.fleet.lock().await.balancer.given();
        periods.push(is_bad(&given[before..]));
        before = given.len();
        let last = &periods[periods.len().saturating_sub(PERIODS)..];
        if last.iter().filter(|bad| **bad).count() >= BAD_PERIODS {
            break Ok(true);
        }
        let requests = had_since(stage, number, begun).await;
        if now() - begun >= SERVES_S && requests >= LEAST_REQUESTS {
            break Ok(false);
        }
        if now() - begun >= SERVES_S * TIMES {
            break Err(format!("the canary has had {requests} requests: too few to say anything"));
        }
    };
    stage.fleet.lock().await.balancer.weigh(0).await;
    let why = if alarmed == Ok(true) { "the gate alarms" } else { "time is over" };
    stage.timeline.mark(&format!("{why}: no requests to the canary"));
    let ended = now();
    let targets = stage.fleet.lock().await.balancer.targets();
    let attempts = stage.timeline.attempts(begun);
    let of_then = attempts.iter().filter(|attempt| attempt.kind != "notice" && attempt.at < ended);
    let targets: Vec<_> = of_then.map(|attempt| targets.get(&attempt.number)).collect();
    let canary = targets.iter().filter(|target| **target == Some(&number)).count();
    let share = Share { requests: targets.len(), canary };
    stage.timeline.event(&format!("the canary had {} of {} requests", share.canary, share.requests));
    alarmed.map(|alarmed| (share, alarmed))
}

/// Whether a period is bad by the rule of the alarm CanaryGate: more than 1 % of its answers are 5xx, and at least
/// three.
fn is_bad(period: &[Given]) -> bool {
    let (requests, failed) = of_the_canary(period);
    failed >= 3 && failed * 100 > requests
}

/// Numbers of its requests, and of those that it answered with 5xx.
fn of_the_canary(given: &[Given]) -> (usize, usize) {
    let given: Vec<_> = given.iter().filter(|given| given.pool == Some(Pool::Canary)).collect();
    (given.len(), given.iter().filter(|given| given.failed_there).count())
}

/// Number of requests given to the canary that clients started after `since`.
async fn had_since(stage: &Stage, number: u8, since: f64) -> usize {
    let targets = stage.fleet.lock().await.balancer.targets();
    let attempts = stage.timeline.attempts(since);
    attempts.iter().filter(|attempt| targets.get(&attempt.number) == Some(&number)).count()
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

/// Removes the canary and its weight.
async fn gone(stage: &mut Stage) -> Result<(), String> {
    stage.timeline.mark("the canary goes");
    stage.fleet.lock().await.canary.desired = 0;
    let gone = wait_for(&stage.fleet, "the canary is gone", SETTLE_LIMIT, |fleet| {
        fleet.of(Pool::Canary).next().is_none() && fleet.is_settled()
    });
    let gone = gone.await;
    let weight = at_rest(stage).await;
    // Resets the weight for the next scenario, whatever the outcome of this one.
    stage.fleet.lock().await.balancer.weigh(0).await;
    gone.and(weight)
}

/// Checks that there is no canary, and that the balancer would send it nothing.
async fn at_rest(stage: &Stage) -> Result<(), String> {
    let fleet = stage.fleet.lock().await;
    match (fleet.balancer.weight().await, fleet.of(Pool::Canary).count()) {
        (Some(0), 0) => Ok(()),
        (weight, canaries) => Err(format!("the canary's weight is {weight:?}, and {canaries} are there")),
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
