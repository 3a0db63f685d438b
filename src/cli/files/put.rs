//! `salebell files put`: what to send, in how many parts, and the state that a killed run left behind.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use aws_lc_rs::digest::{Context, SHA256};
use bytes::Bytes;
use futures_util::future::try_join_all;
use reqwest::Method;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::mpsc;
use uuid::Uuid;

use super::file_info::FileInfo;
use super::terminal::{Display, INTERRUPTED, Positions, print, printable, size, until};
use super::upload::{self, Announcement, LocalBytes, UploadKind};
use crate::cli::api_client::access::{Access, parse_duration};
use crate::cli::api_client::state::StateFile;
use crate::cli::api_client::{ApiClient, Later, Refused, hex};
use crate::clock::Clock;
use crate::error::chain;

/// Size in bytes from which a file is sent in several parts. With a smaller one, a slow connection does not matter.
const LARGE: u64 = 256 << 20;
const PARTS_OF_LARGE: u8 = 4;
/// Bytes of standard input that are held in memory while as many are being sent: there is no other copy of them.
const CHUNK: usize = 2 << 20;

/// Upload files, whole or in parallel parts.
///
/// It continues after broken connections and restarted servers. Run again after it was killed, it resumes.
#[derive(Debug, clap::Args)]
pub struct PutArguments {
    #[command(flatten)]
    access: Access,
    /// The files to upload; `-` is standard input, which another run cannot resume.
    #[arg(required = true)]
    file: Vec<String>,
    /// The name of the file on the server [default: as here].
    #[arg(long)]
    name: Option<String>,
    /// When the file expires: seconds, or a number with s, m, h, d [default: 13 days; 13.5 at most].
    #[arg(long, value_parser = parse_duration)]
    expires_in: Option<Duration>,
    /// Parts to upload at once [default: 4 from 256 MiB on, else 1].
    #[arg(long, value_parser = clap::value_parser!(u8).range(1..=16))]
    parts: Option<u8>,
    /// Print each file as the API returns it, one JSON object a line.
    #[arg(long)]
    json: bool,
}

/// Runs the command.
///
/// # Errors
/// Returns the failure that ended it early.
pub async fn run(arguments: PutArguments) -> anyhow::Result<ExitCode> {
    if arguments.name.is_some() && arguments.file.len() > 1 {
        eprintln!("salebell: --name is for one file, not for {}", arguments.file.len());
        return Ok(ExitCode::from(2));
    }
    let display = Display::default();
    let client = arguments.access.connect(display.as_say())?;
    for (done, file) in arguments.file.iter().enumerate() {
        let put = Put { arguments: &arguments, client: &client, display: &display };
        let left = |what: &str| match (file.as_str(), done) {
            ("-", _) => what.to_owned(),
            (_, 0) => format!("{what}\nThe same command takes up where this one ended."),
            // Files that have arrived already would be sent a second time.
            _ => format!("{what}\nTo go on, give these again: {}", arguments.file[done..].join(" ")),
        };
        tokio::select! {
            sent = put.send(file) => match sent {
                Ok(file) => print(&put.describe(file)?)?,
                Err(Ended::Resumable(failure)) => bail!(left(&chain(failure.as_ref()))),
                Err(Ended::Final(failure)) => return Err(failure),
            },
            _ = tokio::signal::ctrl_c() => {
                eprintln!("{}", left(&format!("stopped while {file} was sent")));
                return Ok(ExitCode::from(INTERRUPTED));
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Reason why a file did not arrive.
enum Ended {
    /// The server keeps what has been sent, and another run continues from there.
    Resumable(anyhow::Error),
    Final(anyhow::Error),
}

impl From<anyhow::Error> for Ended {
    fn from(failure: anyhow::Error) -> Self {
        Ended::Final(failure)
    }
}

impl From<Refused> for Ended {
    fn from(refused: Refused) -> Self {
        Ended::Final(refused.failure)
    }
}

/// State of a file that is being sent.
#[derive(Debug, Serialize, Deserialize)]
struct SavedState {
    /// Basis of the idempotency keys: an upload that is announced twice is still one upload.
    session: Uuid,
    input: PathBuf,
    /// End of each part; the last one is the length of the file.
    ends: Vec<u64>,
    /// Uploads that have been announced, in the order of the parts.
    uploads: Vec<Uuid>,
    /// The complete file, once the parts have been concatenated.
    together: Option<Uuid>,
}

impl SavedState {
    fn new(input: &Path, length: u64, parts: u64) -> Self {
        let parts = parts.clamp(1, length.max(1));
        let ends = (1..=parts).map(|n| (u128::from(length) * u128::from(n) / u128::from(parts)) as u64);
        Self {
            session: Uuid::now_v7(),
            input: input.to_owned(),
            ends: ends.collect(),
            uploads: Vec::new(),
            together: None,
        }
    }

    fn range(&self, part: usize) -> (u64, u64) {
        (if part == 0 { 0 } else { self.ends[part - 1] }, self.ends[part])
    }
}

struct Put<'a> {
    arguments: &'a PutArguments,
    client: &'a ApiClient,
    display: &'a Display,
}

impl Put<'_> {
    /// Sends one file; returns the API's description of it.
    async fn send(&self, file: &str) -> Result<Value, Ended> {
        match file {
            "-" => Ok(self.send_standard_input().await?),
            path => self.send_file(Path::new(path)).await,
        }
    }

    async fn send_file(&self, path: &Path) -> Result<Value, Ended> {
        let input = path.canonicalize().with_context(|| format!("cannot open {}", path.display()))?;
        let file = File::open(&input).with_context(|| format!("cannot open {}", path.display()))?;
        let metadata = file.metadata().with_context(|| format!("cannot open {}", path.display()))?;
        if !metadata.is_file() {
            let what = format!("{} is no file; `-` reads standard input", path.display());
            return Err(anyhow!(what).into());
        }
        let length = metadata.len();
        let name = match &self.arguments.name {
            Some(name) => name.clone(),
            None => input.file_name().unwrap_or_default().to_string_lossy().into_owned(),
        };
        let stamp = |metadata: &std::fs::Metadata| (metadata.len(), metadata.mtime(), metadata.mtime_nsec());
        let was = stamp(&metadata);
        let check = {
            let (input, shown) = (input.clone(), path.display().to_string());
            move || match input.metadata() {
                Ok(now) if stamp(&now) == was => Ok(()),
                _ => Err(anyhow!("{shown} was changed while it was sent; send it anew")),
            }
        };
        let work = format!(
            "{} {} {was:?} {name} {:?}",
            self.client.base(),
            input.display(),
            self.arguments.expires_in
        );
        let busy = format!("another salebell files put of {} is running", path.display());
        let mut state = StateFile::open("put", &work, &busy)?;
        let local = Local { path, name: &name, length, file: Arc::new(file), check: Arc::new(check) };
        let sum = hash_file(local.file.clone(), length);
        let mut taken_up = true;
        let id = loop {
            let saved = match state.load::<SavedState>()?.filter(|_| taken_up) {
                Some(saved) if saved.ends.last() == Some(&length) => saved,
                _ => {
                    taken_up = false;
                    SavedState::new(&input, length, self.parts(length))
                }
            };
            match self.bring_home(&local, saved, &mut state, taken_up).await {
                Ok(id) => break id,
                // It was removed, has expired, or belongs to the account of another token.
                Err(refused) if refused.is_gone() && taken_up => {
                    self.display
                        .say(&format!("what there was of {} is gone; sending it anew", path.display()));
                    taken_up = false;
                }
                Err(refused) => {
                    let begun = state.load::<SavedState>()?.is_some_and(|saved| !saved.uploads.is_empty());
                    if let Err(changed) = (local.check)() {
                        state.remove();
                        return Err(changed.into());
                    }
                    if !begun {
                        state.remove();
                        return Err(refused.into());
                    }
                    return Err(Ended::Resumable(refused.failure));
                }
            }
        };
        (local.check)()?;
        let sum = sum
            .await
            .context("cannot hash the file")?
            .with_context(|| format!("cannot read {}", path.display()))?;
        let found = self.read_complete(id).await.map_err(|refused| Ended::Resumable(refused.failure))?;
        state.remove();
        compare(&found, &sum, path)?;
        Ok(found)
    }

    /// Waits while the server is still concatenating the parts.
    async fn read_complete(&self, id: Uuid) -> Result<Value, Refused> {
        let mut retries = self.client.retries("wait until it is put together");
        let path = format!("v1/files/{id}");
        loop {
            let read = || self.client.request(Method::GET, &path, None);
            let found: Value = self.client.retry("read what arrived", read).await?.decode()?;
            if found["state"] == "complete" {
                return Ok(found);
            }
            retries.pause(Later::new("the server is still at it")).await?;
        }
    }

    fn parts(&self, length: u64) -> u64 {
        let of_size = if length >= LARGE { PARTS_OF_LARGE } else { 1 };
        u64::from(self.arguments.parts.unwrap_or(of_size))
    }

    /// Announces and fills the uploads and concatenates them, skipping what is done already; returns the file.
    async fn bring_home(
        &self,
        local: &Local<'_>,
        mut saved: SavedState,
        state: &mut StateFile,
        taken_up: bool,
    ) -> Result<Uuid, Refused> {
        let parts = saved.ends.len();
        if let Some(file) = saved.together {
            self.remove_parts(&saved).await;
            return Ok(file);
        }
        state.keep(&saved)?;
        for part in saved.uploads.len()..parts {
            let (start, end) = saved.range(part);
            let (name, kind) = match parts {
                1 => (local.name.to_owned(), UploadKind::Whole(end)),
                _ => (
                    format!("part {} of {parts} of {}", part + 1, local.name),
                    UploadKind::Partial(end - start),
                ),
            };
            let upload =
                upload::create(self.client, &self.announce(&name, &saved, &part.to_string(), kind)).await?;
            saved.uploads.push(upload);
            state.keep(&saved)?;
        }
        let positions = Positions::new(parts);
        if taken_up {
            let mut there = 0;
            for upload in &saved.uploads {
                there += upload::offset(self.client, *upload).await?;
            }
            self.display.say(&format!(
                "taking up an earlier put of {}: {} of {} are there already",
                local.path.display(),
                size(there),
                size(local.length)
            ));
        }
        let fill = try_join_all(saved.uploads.iter().enumerate().map(async |(part, &upload)| {
            let range = saved.range(part);
            let bytes = LocalBytes { file: local.file.clone(), range, check: local.check.clone() };
            upload::fill(self.client, upload, &bytes, &positions, part).await
        }));
        self.display.during(local.name, Some(local.length), &positions, fill).await?;
        if parts == 1 {
            return Ok(saved.uploads[0]);
        }
        if local.length >= LARGE {
            self.display.say("all parts are there; the server puts them together");
        }
        let kind = UploadKind::Final(&saved.uploads);
        let file = upload::create(self.client, &self.announce(local.name, &saved, "whole", kind)).await?;
        saved.together = Some(file);
        state.keep(&saved)?;
        self.remove_parts(&saved).await;
        Ok(file)
    }

    fn announce<'a>(
        &self,
        name: &'a str,
        saved: &SavedState,
        what: &str,
        kind: UploadKind<'a>,
    ) -> Announcement<'a> {
        let key = format!("put-{}-{what}", saved.session.simple());
        Announcement { name, expires_in: self.arguments.expires_in.map(|life| life.as_secs()), key, kind }
    }

    /// Removes the parts, whose bytes the file now has. A part that stays would only clutter lists until it expires.
    async fn remove_parts(&self, saved: &SavedState) {
        for part in &saved.uploads {
            let remove = || self.client.request(Method::DELETE, &format!("v1/files/{part}"), None);
            match self.client.retry("remove a part", remove).await {
                Err(refused) if !refused.is_gone() => {
                    let why = chain(refused.failure.as_ref());
                    self.display.say(&format!("part {part} is not removed: {why}"));
                }
                _ => {}
            }
        }
    }

    async fn send_standard_input(&self) -> anyhow::Result<Value> {
        let name = self.arguments.name.as_deref().unwrap_or("stdin");
        let saved = SavedState::new(Path::new("-"), 0, 1);
        let announcement = self.announce(name, &saved, "stdin", UploadKind::Deferred);
        let id = upload::create(self.client, &announcement).await?;
        let (sender, mut chunks) = mpsc::channel(1);
        tokio::task::spawn_blocking(move || read_chunks(&mut std::io::stdin().lock(), &sender));
        let positions = Positions::new(1);
        let (mut at, mut sum) = (0, Context::new(&SHA256));
        let send = async {
            let mut chunk = chunks.recv().await;
            loop {
                let bytes =
                    chunk.unwrap_or_else(|| Ok(Bytes::new())).context("cannot read standard input")?;
                sum.update(&bytes);
                let end = at + bytes.len() as u64;
                chunk = chunks.recv().await;
                let total = chunk.is_none().then_some(end);
                upload::add(self.client, id, at, &bytes, total).await?;
                positions.set(0, end);
                at = end;
                if total.is_some() {
                    return Ok::<_, anyhow::Error>(());
                }
            }
        };
        self.display.during(name, None, &positions, send).await?;
        let found: Value = self.client.get(&format!("v1/files/{id}"), None).await?;
        compare(&found, sum.finish().as_ref(), Path::new("standard input"))?;
        Ok(found)
    }

    fn describe(&self, file: Value) -> anyhow::Result<String> {
        if self.arguments.json {
            return Ok(file.to_string());
        }
        let file: FileInfo = serde_json::from_value(file).context("the answer has another form")?;
        let expires = file.expires_at.format("%Y-%m-%d %H:%M UTC");
        Ok(format!(
            "{}  {}\n  id       {}\n  sha256   {}\n  expires  {expires}, in {}",
            printable(&file.name),
            size(file.length.unwrap_or_default()),
            file.id,
            file.sha256.unwrap_or_default(),
            until(file.expires_at, Clock::system().now()),
        ))
    }
}

/// A local file that is being sent.
struct Local<'a> {
    /// Path as given by the user.
    path: &'a Path,
    name: &'a str,
    length: u64,
    file: Arc<File>,
    check: Arc<dyn Fn() -> anyhow::Result<()> + Send + Sync>,
}

/// Compares the hash of the server with that of the bytes read here.
///
/// # Errors
/// Fails if they differ.
fn compare(found: &Value, sum: &[u8], path: &Path) -> anyhow::Result<()> {
    let (there, here) = (found["sha256"].as_str().unwrap_or("none"), hex(sum));
    if there == here {
        return Ok(());
    }
    let id = found["id"].as_str().unwrap_or_default();
    Err(anyhow!(
        "what arrived is not {}: its SHA-256 is {there} there and {here} here. Remove it with `salebell files rm {id}` and send it again.",
        path.display()
    ))
}

/// Hashes a file on a separate thread while its parts are being sent.
pub fn hash_file(file: Arc<File>, length: u64) -> tokio::task::JoinHandle<std::io::Result<Vec<u8>>> {
    tokio::task::spawn_blocking(move || {
        let (mut sum, mut at) = (Context::new(&SHA256), 0);
        while at < length {
            let piece = upload::read_piece(&file, at, length)?;
            sum.update(&piece);
            at += piece.len() as u64;
        }
        Ok(sum.finish().as_ref().to_vec())
    })
}

fn read_chunks(input: &mut impl Read, chunks: &mpsc::Sender<std::io::Result<Bytes>>) {
    loop {
        let mut chunk = Vec::with_capacity(CHUNK);
        let read = input.by_ref().take(CHUNK as u64).read_to_end(&mut chunk);
        let is_last = chunk.is_empty() || read.is_err();
        let sent = match read {
            Ok(0) => return,
            Ok(_) => chunks.blocking_send(Ok(chunk.into())),
            Err(error) => chunks.blocking_send(Err(error)),
        };
        // The receiver is gone only if sending has failed, which is reported there.
        if is_last || sent.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_cover_a_file_and_none_is_empty() {
        for (length, parts, expected) in [
            (10, 3, vec![3, 6, 10]),
            (2, 4, vec![1, 2]),
            (0, 4, vec![0]),
            (6 << 30, 2, vec![3 << 30, 6 << 30]),
        ] {
            assert_eq!(SavedState::new(Path::new("a"), length, parts).ends, expected);
        }
    }
}
