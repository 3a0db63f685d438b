//! `salebell files`: uploads, downloads, lists, removes and shares files from a shell.
//!
//! `put.rs` decides what is sent and keeps the state, and `upload.rs` completes one upload over tus; `get.rs` decides
//! what is fetched and keeps the state, and `download.rs` completes one range.

pub mod download;
pub mod get;
pub mod put;
pub mod upload;

use std::io::Write;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow};
use chrono::{DateTime, TimeDelta, Utc};
use clap::Subcommand;
use indicatif::BinaryBytes;
use parking_lot::Mutex;
use reqwest::Method;
use serde::Deserialize;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::cli::api_client::ApiClient;
use crate::cli::api_client::access::{Access, parse_duration};
use crate::cli::api_client::progress::ProgressLine;
use crate::clock::Clock;
use crate::error::chain;

/// Exit code by which shells recognize that Ctrl-C ended a command.
const INTERRUPTED: u8 = 130;
/// Interval between updates of a bar.
const UPDATE_INTERVAL: Duration = Duration::from_millis(100);
/// Maximum number of files on one page of a list.
const PAGE: usize = 200;

/// Upload, download, list, remove and share files.
#[derive(Debug, Subcommand)]
pub enum FilesAction {
    Put(put::PutArguments),
    Get(get::GetArguments),
    /// List your files, the newest first.
    Ls {
        #[command(flatten)]
        access: Access,
        /// Print each file as the API returns it, one JSON object a line.
        #[arg(long)]
        json: bool,
    },
    /// Remove files, also those that are still being uploaded.
    Rm {
        #[command(flatten)]
        access: Access,
        #[arg(required = true)]
        id: Vec<Uuid>,
    },
    /// Print an address at which anyone may download a file. It is shown only once.
    Share {
        #[command(flatten)]
        access: Access,
        id: Uuid,
        /// When the link expires: seconds, or a number with s, m, h, d [default: with the file].
        #[arg(long, value_parser = parse_duration)]
        expires_in: Option<Duration>,
        /// The most downloads [default: any number].
        #[arg(long, value_parser = clap::value_parser!(i32).range(1..))]
        max_downloads: Option<i32>,
    },
}

/// The fields of a file that the commands use.
#[derive(Clone, Debug, Deserialize)]
struct FileInfo {
    id: Uuid,
    name: String,
    state: String,
    length: Option<u64>,
    offset: u64,
    sha256: Option<String>,
    expires_at: DateTime<Utc>,
}

/// Runs the command.
///
/// # Errors
/// Returns the failure that ended it early.
pub async fn run(action: FilesAction) -> anyhow::Result<ExitCode> {
    match action {
        FilesAction::Put(arguments) => put::run(arguments).await,
        FilesAction::Get(arguments) => get::run(arguments).await,
        FilesAction::Ls { access, json } => list(&access.connect(plainly())?, json).await,
        FilesAction::Rm { access, id } => remove(&access.connect(plainly())?, &id).await,
        FilesAction::Share { access, id, expires_in, max_downloads } => {
            share(&access.connect(plainly())?, id, expires_in, max_downloads).await
        }
    }
}

/// Prints messages on standard error, for commands without a bar.
fn plainly() -> Box<dyn Fn(&str) + Send + Sync> {
    Box::new(|line| eprintln!("{line}"))
}

async fn list(client: &ApiClient, json: bool) -> anyhow::Result<ExitCode> {
    #[derive(Deserialize)]
    struct Page {
        items: Vec<Value>,
        next_cursor: Option<String>,
    }
    let now = Clock::system().now();
    let mut cursor: Option<String> = None;
    let mut any = false;
    loop {
        let mut query = url::form_urlencoded::Serializer::new(String::new());
        query.append_pair("limit", &PAGE.to_string());
        if let Some(cursor) = &cursor {
            query.append_pair("cursor", cursor);
        }
        let page: Page = client.get("v1/files", Some(&query.finish())).await?;
        for item in page.items {
            let line = if json {
                item.to_string()
            } else {
                let file: FileInfo = serde_json::from_value(item).context("the list has another form")?;
                if !any {
                    print(&format!("{:36}  {:>10}  {:>8}  {:>8}  NAME", "ID", "SIZE", "STATE", "EXPIRES"))?;
                }
                any = true;
                describe(&file, now)
            };
            print(&line)?;
        }
        cursor = page.next_cursor;
        if cursor.is_none() {
            break;
        }
    }
    if !any && !json {
        eprintln!("There are no files.");
    }
    Ok(ExitCode::SUCCESS)
}

fn describe(file: &FileInfo, now: DateTime<Utc>) -> String {
    let size = file.length.map_or_else(|| "?".to_owned(), size);
    let state = match (file.state.as_str(), file.length) {
        ("uploading", Some(length)) if length > 0 => {
            format!("{} %", 100 * u128::from(file.offset) / u128::from(length))
        }
        ("uploading", _) => "begun".to_owned(),
        (state, _) => state.to_owned(),
    };
    let expires = until(file.expires_at, now);
    format!("{}  {size:>10}  {state:>8}  {expires:>8}  {}", file.id, printable(&file.name))
}

/// Formats the time from now in its two largest units.
fn until(time: DateTime<Utc>, now: DateTime<Utc>) -> String {
    // Rounded up: what was created a moment ago for two days has two days left.
    let minutes = ((time - now).num_seconds() + 59).div_euclid(60);
    match (minutes / 1440, minutes % 1440 / 60, minutes % 60) {
        _ if minutes <= 0 => "now".to_owned(),
        (0, 0, minutes) => format!("{minutes} min"),
        (0, hours, minutes) => format!("{hours} h {minutes:02}"),
        (days, hours, _) => format!("{days} d {hours} h"),
    }
}

fn size(bytes: u64) -> String {
    BinaryBytes(bytes).to_string()
}

/// Replaces control characters, which could affect the terminal.
fn printable(name: &str) -> String {
    name.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

async fn remove(client: &ApiClient, ids: &[Uuid]) -> anyhow::Result<ExitCode> {
    let mut code = ExitCode::SUCCESS;
    for id in ids {
        match client
            .retry("remove the file", || client.request(Method::DELETE, &format!("v1/files/{id}"), None))
            .await
        {
            Ok(_) => print(&format!("removed {id}"))?,
            Err(refused) if refused.is_gone() => {
                eprintln!("salebell: {id}: {}", chain(refused.failure.as_ref()));
                code = ExitCode::FAILURE;
            }
            Err(refused) => return Err(refused.failure),
        }
    }
    Ok(code)
}

async fn share(
    client: &ApiClient,
    id: Uuid,
    expires_in: Option<Duration>,
    max_downloads: Option<i32>,
) -> anyhow::Result<ExitCode> {
    let expires_at = expires_in.map(|life| {
        let life = TimeDelta::from_std(life).unwrap_or(TimeDelta::MAX);
        Clock::system().now().checked_add_signed(life).unwrap_or(DateTime::<Utc>::MAX_UTC)
    });
    let wanted = json!({"expires_at": expires_at, "max_downloads": max_downloads});
    // With the key, a request that is repeated after a lost response creates only one link.
    let key = format!("\"{}\"", Uuid::now_v7().simple());
    let reply = client
        .retry("share the file", || {
            let path = format!("v1/files/{id}/links");
            client.request(Method::POST, &path, None).header("idempotency-key", &key).json(&wanted)
        })
        .await?;
    let link: Value = reply.decode()?;
    let path = link["path"].as_str().ok_or_else(|| anyhow!("the answer names no address"))?;
    print(client.url(path.trim_start_matches('/'), None).as_str())?;
    Ok(ExitCode::SUCCESS)
}

/// Prints a line on standard output; a closed pipe is not an error.
///
/// # Errors
/// Fails if standard output cannot be written to.
fn print(line: &str) -> anyhow::Result<()> {
    match writeln!(std::io::stdout(), "{line}") {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        written => written.context("cannot write to standard output"),
    }
}

/// Number of bytes transferred, for each part of a transfer.
#[derive(Clone)]
pub struct Positions(Arc<Vec<AtomicU64>>);

impl Positions {
    fn new(parts: usize) -> Self {
        Self(Arc::new((0..parts).map(|_| AtomicU64::new(0)).collect()))
    }

    fn set(&self, part: usize, bytes: u64) {
        self.0[part].store(bytes, Ordering::Relaxed);
    }

    fn get(&self, part: usize) -> u64 {
        self.0[part].load(Ordering::Relaxed)
    }

    fn sum(&self) -> u64 {
        self.0.iter().map(|bytes| bytes.load(Ordering::Relaxed)).sum()
    }
}

/// Terminal output during a transfer. All messages go through it, so that they do not disturb the bar.
#[derive(Clone, Default)]
struct Display(Arc<Mutex<Option<ProgressLine>>>);

impl Display {
    fn say(&self, line: &str) {
        match &*self.0.lock() {
            Some(progress) => progress.say(line),
            None => eprintln!("{line}"),
        }
    }

    fn as_say(&self) -> Box<dyn Fn(&str) + Send + Sync> {
        let display = self.clone();
        Box::new(move |line| display.say(line))
    }

    fn set(&self, progress: Option<ProgressLine>) {
        *self.0.lock() = progress;
    }

    /// Shows the progress while the work runs.
    async fn during<T>(
        &self,
        name: &str,
        size: Option<u64>,
        positions: &Positions,
        work: impl Future<Output = T>,
    ) -> T {
        let moved = Arc::new(AtomicU64::new(0));
        let progress = ProgressLine::of_transfer(moved.clone(), size);
        // Removes the bar even if the work is dropped midway.
        let _shown = Shown { display: self, progress: progress.clone() };
        self.set(Some(progress.clone()));
        let (name, mut last) = (printable(name), Instant::now());
        let show = async {
            loop {
                moved.store(positions.sum(), Ordering::Relaxed);
                progress.show(&name, &mut last);
                tokio::time::sleep(UPDATE_INTERVAL).await;
            }
        };
        tokio::select! { done = work => done, () = show => unreachable!("it shows for ever") }
    }
}

struct Shown<'d> {
    display: &'d Display,
    progress: ProgressLine,
}

impl Drop for Shown<'_> {
    fn drop(&mut self) {
        self.progress.finish();
        self.display.set(None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_written_in_two_units() {
        let now = DateTime::UNIX_EPOCH;
        for (minutes, expected) in [(-5, "now"), (5, "5 min"), (65, "1 h 05"), (1440 * 13 - 1, "12 d 23 h")] {
            assert_eq!(until(now + TimeDelta::minutes(minutes), now), expected);
            assert_eq!(until(now + TimeDelta::minutes(minutes) - TimeDelta::seconds(2), now), expected);
        }
    }
}
