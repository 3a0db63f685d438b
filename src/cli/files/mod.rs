//! `salebell files`: uploads, downloads, lists, removes and shares files from a shell.
//!
//! `put.rs` decides what is sent and keeps the state, and `upload.rs` completes one upload over tus; `get.rs` decides
//! what is fetched and keeps the state, and `download.rs` completes one range.

pub mod download;
mod file_info;
pub mod get;
pub mod put;
pub mod terminal;
pub mod upload;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use chrono::{DateTime, Utc};
use clap::Subcommand;
use reqwest::Method;
use serde::Deserialize;
use serde_json::{Value, json};
use uuid::Uuid;

use self::file_info::FileInfo;
use self::terminal::{print, printable, size, until};
use crate::cli::api_client::ApiClient;
use crate::cli::api_client::access::{Access, parse_duration};
use crate::clock::{Clock, delta};
use crate::error::chain;

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
        let life = delta(life);
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
    // Without `server.public_url`, the link is at the address under which we reach the service.
    if let Some(url) = link["url"].as_str() {
        print(url)?;
    } else {
        let path = link["path"].as_str().ok_or_else(|| anyhow!("the answer names no address"))?;
        print(client.url(path.trim_start_matches('/'), None).as_str())?;
    }
    Ok(ExitCode::SUCCESS)
}
