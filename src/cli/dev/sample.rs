//! The sample feed: prices of well-known games in three fictitious stores.

use anyhow::{Context as _, anyhow};
use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use serde_json::Value;

use crate::cli::api_client::ApiClient;

/// About a year of price changes, in a form that `salebell report` accepts too.
const FEED: &str = include_str!("../../../data/sample-feed.ndjson");
/// Age of the feed's last change after its times have been shifted.
const LAST_CHANGE_AGO: TimeDelta = TimeDelta::hours(1);
/// Fields that hold instants.
const INSTANTS: [&str; 2] = ["observed_at", "sale_ends_at"];

/// Reports the feed as any shop would, and returns once it is recorded. If the catalogue has a game, it does nothing:
/// the user's own data is not mixed with samples, and the feed is loaded only once.
///
/// # Errors
/// Fails if the API refuses the feed or does not respond.
pub async fn load_into_empty_catalogue(client: &ApiClient, now: DateTime<Utc>) -> anyhow::Result<()> {
    let games: Value = client.get("v1/games", Some("limit=1")).await?;
    let is_empty = games.get("items").and_then(Value::as_array).is_some_and(Vec::is_empty);
    if !is_empty {
        return Ok(());
    }
    println!("loading the sample feed");
    // After a kill and a restart, the same report has other instants, so it needs another key.
    let key = format!("\"sample-feed-{}\"", now.timestamp_micros());
    let receipt = client.report(&key, &move_feed(now)?.into(), true).await?;
    match (receipt.rejected.first(), receipt.batch_id) {
        (None, Some(batch)) => client.wait_for(batch).await.map(drop),
        (Some(refused), _) => Err(anyhow!(
            "the API refuses line {} of the sample feed: {}",
            refused.index + 1,
            refused.problem.detail
        )),
        (None, None) => Err(anyhow!("the sample feed is empty")),
    }
}

/// Shifts all instants of the feed by the same time, so that some of its sales are current.
fn move_feed(now: DateTime<Utc>) -> anyhow::Result<Vec<u8>> {
    let mut lines: Vec<Value> = FEED
        .lines()
        .map(|line| serde_json::from_str(line).context("the sample feed is damaged"))
        .collect::<Result<_, _>>()?;
    let newest = lines.iter().filter_map(|line| read_instant(line, "observed_at")).max().unwrap_or(now);
    let shift = now - LAST_CHANGE_AGO - newest;
    let mut moved = Vec::with_capacity(FEED.len());
    for line in &mut lines {
        for field in INSTANTS {
            if let Some(instant) = read_instant(line, field) {
                line[field] = (instant + shift).to_rfc3339_opts(SecondsFormat::Secs, true).into();
            }
        }
        moved.extend_from_slice(line.to_string().as_bytes());
        moved.push(b'\n');
    }
    Ok(moved)
}

fn read_instant(line: &Value, field: &str) -> Option<DateTime<Utc>> {
    line.get(field)?.as_str()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::observation::ReportedObservation;

    #[test]
    fn every_line_of_the_moved_feed_is_an_observation_of_the_past() {
        let now: DateTime<Utc> = "2031-02-03T04:05:06Z".parse().unwrap();
        let moved = String::from_utf8(move_feed(now).unwrap()).unwrap();
        let mut newest = DateTime::<Utc>::MIN_UTC;
        for line in moved.lines() {
            let reported: ReportedObservation = serde_json::from_str(line).unwrap();
            let checked = reported.check(now).unwrap_or_else(|problems| panic!("{line}: {problems:?}"));
            assert_eq!(checked.warnings, []);
            let observation = checked.observation;
            newest = newest.max(observation.observed_at);
        }
        assert_eq!(moved.lines().count(), FEED.lines().count());
        assert_eq!(newest, now - LAST_CHANGE_AGO);
    }
}
