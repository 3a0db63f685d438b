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
use super::verdict::{self, Bad, Share, WEIGHT};

/// Evaluation period, which stands for a minute of CloudWatch.
const PERIOD: Duration = Duration::from_secs(6);
/// Least time in seconds for which the canary serves; if it has too few requests by then, it gets twice that time more.
const SERVES_S: f64 = 60.0;
const LEAST_REQUESTS: usize = 200;
const TIMES: f64 = 3.0;

/// Program in front of the API, which listens on another port behind it.
const DEFECT: &str = include_str!("defect/spoil-answers.py");
const DEFECT_UNIT: &str = include_str!("defect/spoil-answers.service");
const BEHIND_IT: &str = "[Unit]\nWants=spoil-answers.service\n\
                         [Service]\nEnvironment=SALEBELL_SERVER__LISTEN=127.0.0.1:8444\n";

/// Rolls out another image to one instance, then to all.
pub async fn good(stage: &mut Stage, image: Image) -> Result<(), String> {
    let begun = now();
    let done = async {
        let number = up(stage, image.clone()).await?;
        let (share, alarmed) = serve(stage, number).await?;
        verdict::may_be_rolled(alarmed, &share, failed_since(stage, begun))?;
        let resting_since = now();
        roll(stage, image, Pace::SideBySide).await?;
        verdict::good(had_since(stage, number, resting_since).await, failed_since(stage, begun))
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
        let (begun, lines) = (now(), stage.fleet.lock().await.balancer.given().len());
        let (share, alarmed) = serve(stage, number).await?;
        Ok::<_, String>((begun, lines, share, alarmed))
    };
    let done = done.await;
    gone(stage).await?;
    let (begun, lines, share, alarmed) = done?;
    let given = stage.fleet.lock().await.balancer.given();
    let (answers, spoilt) = of_the_canary(&given[lines..]);
    let failed = failed_since(stage, begun);
    let (requests, due) = (share.requests, verdict::due(&share));
    stage.timeline.event(&format!("{failed} of {requests} requests have failed, {due:.0} expected"));
    let after = stage.ids().await;
    verdict::bad(&Bad { alarmed, share, answers, spoilt, failed, before, after })?;
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
        let (answers, failed) = of_the_canary(&given[before..]);
        periods.push(verdict::is_bad_period(answers, failed));
        before = given.len();
        if verdict::alarms(&periods) {
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

/// Number of failed requests of clients that began after `since`. Deliveries are counted by the ledger.
fn failed_since(stage: &Stage, since: f64) -> usize {
    let attempts = stage.timeline.attempts(since);
    attempts.iter().filter(|attempt| attempt.kind != "notice" && attempt.error.is_some()).count()
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
    verdict::is_at_rest(fleet.balancer.weight().await, fleet.of(Pool::Canary).count())
}
