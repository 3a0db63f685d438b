//! `salebell files get`: downloads a file, and resumes from the state that a killed run left behind.
//!
//! Bytes are written to `FILE.part`, which has its full size from the start; a state file records which of them have
//! arrived. When all have, they are compared with the server's SHA-256, and only then is the file renamed.

use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use aws_lc_rs::digest::{Context, SHA256};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use futures_util::future::try_join_all;
use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};
use parking_lot::Mutex;
use reqwest::header::{CONTENT_DISPOSITION, CONTENT_LENGTH, ETAG, HeaderMap, HeaderName};
use reqwest::{Method, Url};
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::download::{RangeFailure, Remote, Sink, fetch, text};
use super::file_info::FileInfo;
use super::put::hash_file;
use super::terminal::{Display, INTERRUPTED, Positions, print, printable, size};
use crate::cli::api_client::access::Access;
use crate::cli::api_client::state::StateFile;
use crate::cli::api_client::{ApiClient, hex};
use crate::domain::file::clean_name;
use crate::error::chain;

/// Interval between writes of the state.
const SAVE_INTERVAL: Duration = Duration::from_secs(1);
/// Maximum number of changes of the file on the server during one run; after that, the command gives up.
const MAX_CHANGES: usize = 3;

/// Download a file of yours by its id, or any file by its share link.
///
/// It continues after broken connections and restarted servers. Run again after it was killed, it resumes.
#[derive(Debug, clap::Args)]
pub struct GetArguments {
    #[command(flatten)]
    access: Access,
    /// Id of a file, or URL of a share link.
    source: String,
    /// The target: a file, a folder, or `-` for standard output [default: its own name, here].
    #[arg(short, long)]
    output: Option<PathBuf>,
    /// Ranges to download at once. A link with a limit allows only a few ranges to be repeated when they break.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=16))]
    parts: u8,
    /// Overwrite an existing file.
    #[arg(long)]
    force: bool,
}

/// Runs the command.
///
/// # Errors
/// Returns the failure that ended it early.
pub async fn run(arguments: GetArguments) -> anyhow::Result<ExitCode> {
    let display = Display::default();
    let source = Source::parse(&arguments.source, || arguments.access.find_url())?;
    let client = match &source {
        Source::Own(_) => arguments.access.connect(display.as_say())?,
        Source::Link(url) => arguments.access.connect_without_token(
            url.join("/").with_context(|| format!("{url} is no URL"))?.as_str(),
            display.as_say(),
        )?,
    };
    let get = Get { arguments: &arguments, client: &client, source: &source, display: &display };
    tokio::select! {
        done = get.run() => done.map(|()| ExitCode::SUCCESS),
        _ = tokio::signal::ctrl_c() => {
            let hint = if get.is_to_standard_output() { "" } else { "\nThe same command takes up where this one ended." };
            eprintln!("stopped while {} was fetched{hint}", arguments.source);
            Ok(ExitCode::from(INTERRUPTED))
        }
    }
}

/// The file to fetch.
#[derive(Debug, PartialEq, Eq)]
enum Source {
    Own(Uuid),
    Link(Url),
}

impl Source {
    /// Parses an id, an address or a share link. `find_api` returns the address of the API, which a complete share link
    /// does not need.
    fn parse(given: &str, find_api: impl Fn() -> anyhow::Result<String>) -> anyhow::Result<Self> {
        if let Ok(id) = given.parse() {
            return Ok(Source::Own(id));
        }
        let invalid = || anyhow!("{given} is neither the id of a file nor the address of a share link");
        let api = || -> anyhow::Result<Url> {
            let api = find_api()?;
            api.parse().with_context(|| format!("{api} is no URL"))
        };
        // A path as the API returns it, relative to its own address.
        let url = if given.starts_with('/') {
            api()?.join(given).map_err(|_| invalid())?
        } else {
            given.parse().map_err(|_| invalid())?
        };
        if !matches!(url.scheme(), "http" | "https") || url.host().is_none() {
            return Err(invalid());
        }
        let path: Vec<&str> = url.path().trim_end_matches('/').split('/').collect();
        match path.as_slice() {
            [.., "v1", "files", id] | [.., "v1", "files", id, "content"]
                if url.origin() == api()?.origin() =>
            {
                id.parse().map(Source::Own).map_err(|_| invalid())
            }
            [.., "d", token] if !token.is_empty() => Ok(Source::Link(url)),
            _ => Err(invalid()),
        }
    }
}

/// Properties of the file as the server reports them before the download.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Version {
    name: String,
    length: u64,
    /// SHA-256 of the file, in hexadecimal.
    sha256: Option<String>,
    tag: Option<String>,
}

impl Version {
    fn is_same(&self, other: &Version) -> bool {
        let same = match (&self.sha256, &other.sha256) {
            (Some(one), Some(other)) => one == other,
            _ => self.tag.is_some() && self.tag == other.tag,
        };
        same && self.length == other.length
    }
}

/// State of a file that is being fetched.
#[derive(Debug, Serialize, Deserialize)]
struct SavedState {
    version: Version,
    output: PathBuf,
    /// Ranges of the file: offset of the first byte, and offset after the last.
    ranges: Vec<(u64, u64)>,
    /// Number of bytes of each range that have arrived.
    there: Vec<u64>,
}

impl SavedState {
    fn new(version: Version, output: &Path, parts: u8) -> Self {
        let (length, parts) = (version.length, u64::from(parts).clamp(1, version.length.max(1)));
        let cut = |n: u64| (u128::from(length) * u128::from(n) / u128::from(parts)) as u64;
        let ranges: Vec<_> = (0..parts).map(|n| (cut(n), cut(n + 1))).collect();
        Self { version, output: output.to_owned(), there: vec![0; ranges.len()], ranges }
    }
}

/// Stores the state, even if the download is dropped midway.
struct Keeper {
    state: StateFile,
    saved: SavedState,
    positions: Positions,
}

impl Keeper {
    fn keep(&mut self) -> anyhow::Result<()> {
        let there: Vec<u64> = (0..self.saved.ranges.len()).map(|part| self.positions.get(part)).collect();
        if there != self.saved.there {
            self.saved.there = there;
            self.state.keep(&self.saved)?;
        }
        Ok(())
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        // If this fails, one second's worth of progress is lost.
        let _ = self.keep();
    }
}

/// Outcome of an attempt to fetch a version of the file.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fetched {
    Whole,
    /// The server has another version by now, and nothing of this one is kept.
    Changed,
}

struct Get<'a> {
    arguments: &'a GetArguments,
    client: &'a ApiClient,
    source: &'a Source,
    display: &'a Display,
}

impl Get<'_> {
    async fn run(&self) -> anyhow::Result<()> {
        for _ in 0..MAX_CHANGES {
            let version = self.find_version().await?;
            let fetched = if self.is_to_standard_output() {
                self.to_standard_output(&version).await?
            } else {
                self.to_file(&version).await?
            };
            if fetched == Fetched::Whole {
                return Ok(());
            }
            self.display.say("the file on the server is another one by now; beginning anew");
        }
        Err(anyhow!("the file on the server changes all the time"))
    }

    fn is_to_standard_output(&self) -> bool {
        self.arguments.output.as_deref() == Some(Path::new("-"))
    }

    async fn find_version(&self) -> anyhow::Result<Version> {
        let head =
            self.client.retry("ask for the file", || self.client.request_at(Method::HEAD, self.address()));
        match self.source {
            Source::Own(id) => {
                let file: FileInfo = self.client.get(&format!("v1/files/{id}"), None).await?;
                let Some(length) = file.length.filter(|_| file.state == "complete") else {
                    let there = size(file.offset);
                    bail!("{id} is not complete yet: {there} of it are there");
                };
                // If the bytes are elsewhere, the redirect leaves no tag; the hash distinguishes versions as well.
                let tag = head.await.ok().and_then(|reply| text(&reply.headers, ETAG).map(str::to_owned));
                Ok(Version { name: file.name, length, sha256: file.sha256, tag })
            }
            Source::Link(_) => {
                let headers = match head.await {
                    Ok(reply) => reply.headers,
                    Err(refused) if refused.is_gone() => {
                        let why = "no such link: it is wrong, used up, or taken back, or its time is over";
                        bail!(why);
                    }
                    Err(refused) => return Err(refused.failure),
                };
                let length = text(&headers, CONTENT_LENGTH).and_then(|length| length.parse().ok());
                Ok(Version {
                    name: name_of(&headers),
                    length: length.ok_or_else(|| anyhow!("the server does not tell how long the file is"))?,
                    sha256: digest_of(&headers),
                    tag: text(&headers, ETAG).map(str::to_owned),
                })
            }
        }
    }

    fn address(&self) -> Url {
        match self.source {
            Source::Own(id) => self.client.url(&format!("v1/files/{id}/content"), None),
            Source::Link(url) => url.clone(),
        }
    }

    fn remote(&self, version: &Version) -> Remote<'_> {
        Remote {
            client: self.client,
            url: self.address(),
            length: version.length,
            tag: version.tag.clone(),
            begun: CancellationToken::new(),
        }
    }

    async fn to_standard_output(&self, version: &Version) -> anyhow::Result<Fetched> {
        let sum = Arc::new(Mutex::new(Context::new(&SHA256)));
        let (remote, positions) = (self.remote(version), Positions::new(1));
        let sink = Sink::StandardOutput(sum.clone());
        let work = fetch(&remote, (0, version.length), &positions, 0, &sink);
        match self.display.during(&version.name, Some(version.length), &positions, work).await {
            Ok(()) => {}
            Err(RangeFailure::Changed) if positions.sum() == 0 => return Ok(Fetched::Changed),
            Err(RangeFailure::Changed) => {
                bail!("the file on the server is another one by now; what was written is of no use");
            }
            Err(RangeFailure::Refused(refused)) => return Err(refused.failure),
        }
        let here = hex(sum.lock().clone().finish().as_ref());
        match version.sha256.as_deref() {
            Some(there) if there != here => Err(anyhow!(differs(there, &here))),
            _ => Ok(Fetched::Whole),
        }
    }

    async fn to_file(&self, version: &Version) -> anyhow::Result<Fetched> {
        let named = self.output(version);
        let output = absolute(&named)?;
        let shown = printable(&named.display().to_string());
        self.refuse_to_overwrite(&output, &shown)?;
        let busy = format!("another salebell files get of {shown} is running");
        let mut state = StateFile::open("get", &output.display().to_string(), &busy)?;
        let part = with_ending(&output);
        let left = state.load::<SavedState>()?;
        let length_there = part.symlink_metadata().ok().map(|metadata| metadata.len());
        let mut is_new = false;
        let saved = match (left, length_there) {
            (Some(left), Some(length)) if left.version.is_same(version) && length == version.length => {
                let there: u64 = left.there.iter().sum();
                let (there, all) = (size(there), size(version.length));
                self.display
                    .say(&format!("taking up an earlier get of {shown}: {there} of {all} are here already"));
                left
            }
            (None, Some(_)) if !self.arguments.force => {
                bail!(
                    "{shown}.part is there, and nothing tells what it holds; remove it, or give --force to overwrite it",
                );
            }
            (left, there) => {
                if left.is_some() && there.is_some() {
                    self.display.say(&format!("what there is of {shown} is of another file; beginning anew"));
                }
                is_new = true;
                SavedState::new(version.clone(), &output, self.arguments.parts)
            }
        };
        let file = open_part(&part, version.length, is_new)?;
        if is_new {
            state.keep(&saved)?;
        }
        let positions = Positions::new(saved.ranges.len());
        saved.there.iter().enumerate().for_each(|(part, &there)| positions.set(part, there));
        let mut keeper = Keeper { state, saved, positions: positions.clone() };
        match self.fetch_all(version, &mut keeper, &file).await {
            Ok(()) => {}
            Err(RangeFailure::Changed) => {
                // The next round finds another version and starts from the beginning.
                return self.forget(keeper, &part);
            }
            Err(RangeFailure::Refused(refused)) => {
                let there = match positions.sum() {
                    0 => String::new(),
                    there => format!("\n{} of it are here; the same command takes up there.", size(there)),
                };
                bail!("{}{there}", chain(refused.failure.as_ref()));
            }
        }
        self.finish(version, keeper, file, &output, &shown).await?;
        Ok(Fetched::Whole)
    }

    async fn fetch_all(
        &self,
        version: &Version,
        keeper: &mut Keeper,
        file: &Arc<File>,
    ) -> Result<(), RangeFailure> {
        let (remote, positions) = (self.remote(version), keeper.positions.clone());
        if positions.sum() > 0 {
            remote.begun.cancel();
        }
        let ranges = keeper.saved.ranges.clone();
        let sink = Sink::File(file.clone());
        let work = try_join_all(
            ranges.iter().enumerate().map(|(part, &range)| fetch(&remote, range, &positions, part, &sink)),
        );
        let keep = async {
            loop {
                tokio::time::sleep(SAVE_INTERVAL).await;
                if let Err(failure) = keeper.keep() {
                    return failure;
                }
            }
        };
        self.display
            .during(&version.name, Some(version.length), &positions, async {
                tokio::select! {
                    done = work => done.map(drop),
                    failure = keep => Err(failure.into()),
                }
            })
            .await
    }

    fn forget(&self, mut keeper: Keeper, part: &Path) -> anyhow::Result<Fetched> {
        std::fs::remove_file(part).with_context(|| format!("cannot remove {}", part.display()))?;
        (0..keeper.saved.ranges.len()).for_each(|part| keeper.positions.set(part, 0));
        keeper.keep()?;
        Ok(Fetched::Changed)
    }

    /// Compares the bytes with the server's hash, and renames the file.
    async fn finish(
        &self,
        version: &Version,
        mut keeper: Keeper,
        file: Arc<File>,
        output: &Path,
        shown: &str,
    ) -> anyhow::Result<()> {
        keeper.keep()?;
        let part = with_ending(output);
        let sum = hash_file(file.clone(), version.length).await.context("cannot hash what arrived")?;
        let here = hex(&sum.with_context(|| format!("cannot read {}", part.display()))?);
        if let Some(there) = version.sha256.as_deref().filter(|there| *there != here) {
            keeper.state.remove();
            bail!(
                "{} The bytes are kept as {shown}.part: remove that, or give --force, to fetch them anew.",
                differs(there, &here),
            );
        }
        file.sync_all().with_context(|| format!("cannot write {}", part.display()))?;
        self.refuse_to_overwrite(output, shown)?;
        std::fs::rename(&part, output).with_context(|| format!("cannot write {shown}"))?;
        keeper.state.remove();
        let checked =
            if version.sha256.is_some() { "" } else { ", which the server does not name to compare it with" };
        print(&format!("{shown}  {}  sha256 {here}{checked}", size(version.length)))
    }

    /// Target path in the form that the user would type.
    fn output(&self, version: &Version) -> PathBuf {
        let own = || PathBuf::from(clean_name(&version.name));
        match &self.arguments.output {
            Some(folder) if folder.is_dir() => folder.join(own()),
            Some(file) => file.clone(),
            None => own(),
        }
    }

    fn refuse_to_overwrite(&self, output: &Path, shown: &str) -> anyhow::Result<()> {
        if output.is_dir() || (output.symlink_metadata().is_ok() && !self.arguments.force) {
            bail!("{shown} is there already; --force overwrites it");
        }
        Ok(())
    }
}

/// Absolute path of the target. It identifies the state, so it must not depend on the current folder.
fn absolute(output: &Path) -> anyhow::Result<PathBuf> {
    let name = output.file_name().ok_or_else(|| anyhow!("{} is no file", output.display()))?;
    let folder = match output.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    };
    let folder = folder.canonicalize().with_context(|| format!("cannot write to {}", folder.display()))?;
    Ok(folder.join(name))
}

fn differs(there: &str, here: &str) -> String {
    format!("what arrived is damaged: its SHA-256 is {here}, that of the file on the server {there}.")
}

fn with_ending(output: &Path) -> PathBuf {
    let mut name = output.as_os_str().to_owned();
    name.push(".part");
    name.into()
}

/// Opens the file for the bytes, at its final size.
fn open_part(path: &Path, length: u64, is_new: bool) -> anyhow::Result<Arc<File>> {
    let cannot = || format!("cannot write {}", path.display());
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(is_new)
        .open(path)
        .with_context(cannot)?;
    if is_new && length > 0 {
        let wanted = i64::try_from(length).context("the file is beyond all files")?;
        let made = match fallocate(&file, FallocateFlags::empty(), 0, wanted) {
            // A file system without preallocation allocates space as bytes arrive.
            Err(Errno::EOPNOTSUPP | Errno::ENOSYS) => file.set_len(length).with_context(cannot),
            other => other.with_context(cannot),
        };
        if let Err(failure) = made {
            // An empty file would only confuse the user.
            let _ = std::fs::remove_file(path);
            return Err(failure);
        }
    }
    Ok(Arc::new(file))
}

/// SHA-256 of the whole file, from `Repr-Digest` (RFC 9530).
fn digest_of(headers: &HeaderMap) -> Option<String> {
    let header = text(headers, HeaderName::from_static("repr-digest"))?;
    let value = header.split(',').find_map(|one| one.trim().strip_prefix("sha-256=:")?.strip_suffix(':'))?;
    STANDARD.decode(value).ok().filter(|sum| sum.len() == 32).map(|sum| hex(&sum))
}

/// File name from `Content-Disposition` (RFC 6266), in the encoding of RFC 8187 if it is given so.
fn name_of(headers: &HeaderMap) -> String {
    let header = text(headers, CONTENT_DISPOSITION).unwrap_or_default();
    let encoded = header.split(';').find_map(|part| part.trim().strip_prefix("filename*=UTF-8''"));
    if let Some(encoded) = encoded {
        let plus = encoded.replace('+', "%2B");
        let pair = format!("n={plus}");
        return url::form_urlencoded::parse(pair.as_bytes())
            .map(|(_, name)| name.into_owned())
            .next()
            .unwrap_or_default();
    }
    let quoted = header.split_once("filename=\"").and_then(|(_, rest)| rest.split_once('"'));
    quoted.map_or_else(|| "file".to_owned(), |(name, _)| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_named_by_its_id_its_address_or_a_link() {
        let id = Uuid::now_v7();
        let api = || Ok("https://api.example/bell/".to_owned());
        let none = || Err(anyhow!("no API is running here"));
        for given in [id.to_string(), format!("https://api.example/bell/v1/files/{id}/content")] {
            assert_eq!(Source::parse(&given, api).unwrap(), Source::Own(id));
        }
        let link = |url: &str| Source::Link(url.parse().unwrap());
        assert_eq!(Source::parse("https://b.example/d/x", api).unwrap(), link("https://b.example/d/x"));
        assert_eq!(Source::parse("/d/x", api).unwrap(), link("https://api.example/d/x"));
        assert_eq!(Source::parse("https://b.example/d/x", none).unwrap(), link("https://b.example/d/x"));
        assert!(Source::parse("/d/x", none).is_err());
        // The token belongs to one API only.
        for invalid in [
            &format!("https://b.example/v1/files/{id}"),
            "a.txt",
            "ftp://b.example/d/x",
            "https://b.example/",
        ] {
            assert!(Source::parse(invalid, api).is_err(), "{invalid}");
        }
    }

    #[test]
    fn names_are_read_as_servers_write_them() {
        let name = |header: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(CONTENT_DISPOSITION, header.parse().unwrap());
            name_of(&headers)
        };
        assert_eq!(name(&crate::http::files::download_headers::disposition("Ä +1;\"%.csv")), "Ä +1;\"%.csv");
        assert_eq!(name("attachment; filename=\"a b.csv\""), "a b.csv");
        assert_eq!(name("inline"), "file");
    }

    #[test]
    fn ranges_cover_a_file() {
        let version = |length| Version { name: "a".to_owned(), length, sha256: None, tag: None };
        assert_eq!(SavedState::new(version(10), Path::new("a"), 3).ranges, [(0, 3), (3, 6), (6, 10)]);
        assert_eq!(SavedState::new(version(0), Path::new("a"), 3).ranges, [(0, 0)]);
    }
}
