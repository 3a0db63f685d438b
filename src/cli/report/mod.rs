//! `salebell report`: streams a CSV or NDJSON file to `POST /v1/prices`.
//!
//! The input is cut into slices (`slices.rs`). Each slice is one request with one `Idempotency-Key`, and is held in
//! memory until its 202 arrives; a session file (`session.rs`) records which slices have arrived. As a result, a broken
//! connection, a restarted server or a killed client neither loses nor duplicates anything.

pub mod client;
pub mod input;
pub mod session;
pub mod slices;

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context as _, anyhow};
use tokio::sync::mpsc;
use uuid::Uuid;

use self::client::{BatchCounts, RejectedLine, SliceReceipt};
use self::input::ReportSource;
use self::session::{AcceptedSlice, Session};
use self::slices::{Cutter, LineRefusal, ReportSlice};
use crate::cli::api_client::access::Access;
use crate::cli::api_client::progress::ProgressLine;
use crate::cli::api_client::{ApiClient, describe_problem};
use crate::error::chain;
use crate::feed::input::Input;
use crate::feed::mapping::Mapping;

/// Maximum number of refused lines printed; `--rejects` gets all of them.
const PRINTED_REFUSALS: u64 = 20;
/// Maximum number of lines of a slice. That many fit into one message of the bus (`domain::batch::MAX_OBSERVATIONS`),
/// so a request that breaks off leaves nothing behind.
const MAX_SLICE: i64 = crate::domain::batch::MAX_OBSERVATIONS as i64;
/// Maximum number of observations that `--dry-run` prints.
const PRINTED_OBSERVATIONS: usize = 5;

/// Report the prices of a file.
///
/// Columns (keys) that have the name of a field of an observation are used as they are; --map names other columns:
/// --map sku=ID --map "price=Price (€)" --set store=Steam. The fields are store, sku, price, currency (required),
/// title, region, regular_price, platform, url, sale_ends_at, observed_at, availability.
/// --set time_zone=Europe/Berlin names the zone of times without an offset.
///
/// Run again after it was killed, it resumes. It ends with 0 when every line was accepted, 2 when some were refused,
/// 1 when it failed.
#[derive(Debug, clap::Args)]
pub struct ReportArguments {
    /// A CSV or NDJSON file, also as .gz or .zst; `-` reads standard input.
    file: String,
    #[command(flatten)]
    access: Access,
    /// Take a field from a column of another name.
    #[arg(long, value_name = "FIELD=COLUMN")]
    map: Vec<String>,
    /// Give a field the same value on every line.
    #[arg(long, value_name = "FIELD=VALUE")]
    set: Vec<String>,
    /// The delimiter of a CSV file [default: the most frequent of , ; and tab in its header].
    #[arg(long, value_parser = parse_delimiter)]
    delimiter: Option<u8>,
    /// Lines of one request. A request arrives as a whole or not at all, and its lines are sorted by time.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=MAX_SLICE))]
    slice: u32,
    /// The prices are history: they notify nobody.
    #[arg(long)]
    backfill: bool,
    /// File for every refused line and every warning, as NDJSON with line, reason and kind (refused, warning).
    #[arg(long)]
    rejects: Option<PathBuf>,
    /// Do not wait until the accepted lines are recorded.
    #[arg(long)]
    no_wait: bool,
    /// Send nothing: show the first observations, and check all lines as far as possible without the API.
    #[arg(long)]
    dry_run: bool,
}

/// Counts of lines so far.
#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    accepted: u64,
    refused: u64,
    warnings: u64,
}

impl std::fmt::Display for Tally {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} accepted, {} refused", self.accepted, self.refused)?;
        match self.warnings {
            0 => Ok(()),
            warnings => write!(f, ", {warnings} with a warning"),
        }
    }
}

/// Content of the final summary.
#[derive(Debug, Default)]
struct Summary {
    tally: Tally,
    counts: BatchCounts,
}

/// Runs the command; the exit code is 0 or 2.
///
/// # Errors
/// Returns the failure that ended it early.
pub async fn run(arguments: ReportArguments) -> anyhow::Result<ExitCode> {
    let cutter = Cutter {
        mapping: Mapping::parse(&arguments.map, &arguments.set)?,
        delimiter: arguments.delimiter,
        lines: arguments.slice as usize,
    };
    let source = ReportSource::parse(&arguments.file);
    let input = source.open().await?;
    let progress = ProgressLine::new(input.read.clone(), input.size);
    let mut refusals = Refusals::new(arguments.rejects.as_deref(), progress.clone())?;
    let summary = if arguments.dry_run {
        check_only(cutter, input, &progress, &mut refusals).await
    } else {
        send_all(&arguments, &source, cutter, input, &progress, &mut refusals).await
    };
    progress.finish();
    let summary = summary?;
    refusals.finish()?;
    print_summary(&arguments, &summary);
    let some_refused = summary.tally.refused > 0 || summary.counts.failed > 0;
    Ok(if some_refused { ExitCode::from(2) } else { ExitCode::SUCCESS })
}

async fn send_all(
    arguments: &ReportArguments,
    source: &ReportSource,
    cutter: Cutter,
    input: Input,
    progress: &ProgressLine,
    refusals: &mut Refusals,
) -> anyhow::Result<Summary> {
    let say = {
        let progress = progress.clone();
        Box::new(move |line: &str| progress.say(line))
    };
    let client = arguments.access.connect(say)?;
    let mut session = open_session(source, arguments, &cutter, client.base().as_str())?;
    if session.resumed() > 0 {
        let lines = session.resumed();
        progress.say(&format!("taking up an earlier report: {lines} slices are there already"));
    }
    let (mut slices, cutting) = start_cutting(cutter, input, progress);
    let mut summary = Summary::default();
    let mut batches: Vec<Uuid> = Vec::new();
    let mut last_line = Instant::now();
    while let Some(slice) = slices.recv().await {
        let accepted = match session.find(&slice)? {
            Some(done) => done.clone(),
            None => {
                let accepted =
                    send_slice(&client, &session, &slice, arguments.backfill).await.map_err(|failure| {
                        let hint = if session.is_remembered() {
                            "\nThe same command takes up where this one ended."
                        } else {
                            ""
                        };
                        let line = slice.lines.first().copied().unwrap_or_default();
                        let why = chain(failure.as_ref());
                        anyhow!("{why}\nNothing from line {line} on was accepted.{hint}")
                    })?;
                session.keep(accepted.clone())?;
                accepted
            }
        };
        summary.tally.accepted += accepted.accepted;
        summary.tally.refused += accepted.refused.len() as u64;
        summary.tally.warnings += accepted.warnings.len() as u64;
        batches.extend(accepted.batch_id);
        for refusal in &accepted.refused {
            refusals.report(refusal, Kind::Refused)?;
        }
        for warning in &accepted.warnings {
            refusals.report(warning, Kind::Warning)?;
        }
        progress.show(&summary.tally.to_string(), &mut last_line);
    }
    cutting.await.context("the input could not be read")??;
    progress.finish();
    if !arguments.no_wait {
        for batch in batches {
            add_counts(&mut summary.counts, client.wait_for(batch).await?);
        }
    }
    session.finish();
    Ok(summary)
}

async fn send_slice(
    client: &ApiClient,
    session: &Session,
    slice: &ReportSlice,
    backfill: bool,
) -> anyhow::Result<AcceptedSlice> {
    let mut refused = slice.refused.clone();
    let (mut batch_id, mut accepted, mut warnings) = (None, 0, Vec::new());
    if !slice.lines.is_empty() {
        let key = session.key(slice);
        let receipt = client.report(&key, &slice.body, backfill).await?;
        check_receipt(&receipt, slice.lines.len())?;
        if receipt.lists_all() {
            refused.extend(read_lines(&receipt.rejected, &slice.lines)?)
        } else {
            refused.extend(find_refusals(client, &key, slice, backfill).await?)
        }
        warnings = read_lines(&receipt.warnings, &slice.lines)?;
        refused.sort_by_key(|refusal| refusal.line);
        (batch_id, accepted) = (receipt.batch_id.filter(|_| receipt.accepted > 0), receipt.accepted);
    }
    let (number, digest) = (slice.number, slice.digest.clone());
    Ok(AcceptedSlice { number, digest, batch_id, accepted, refused, warnings })
}

/// Finds the refused lines of a slice whose response does not list all of them. The slice is sent again in smaller and
/// smaller parts, until each response lists all of its refusals. Lines that were accepted before have no effect when
/// sent again.
async fn find_refusals(
    client: &ApiClient,
    key: &str,
    slice: &ReportSlice,
    backfill: bool,
) -> anyhow::Result<Vec<LineRefusal>> {
    let ends: Vec<usize> =
        (slice.body.iter().enumerate()).filter(|(_, byte)| **byte == b'\n').map(|(at, _)| at + 1).collect();
    let begin_of =
        |line: usize| line.checked_sub(1).and_then(|before| ends.get(before)).copied().unwrap_or(0);
    let halves = |part: std::ops::Range<usize>| {
        let middle = part.start + part.len() / 2;
        [middle..part.end, part.start..middle]
    };
    let mut refused = Vec::new();
    let mut waiting = Vec::from(halves(0..ends.len()));
    while let Some(part) = waiting.pop() {
        let key = format!("{}-{}-{}\"", key.trim_end_matches('"'), part.start, part.end);
        let body = slice.body.slice(begin_of(part.start)..begin_of(part.end));
        let receipt = client.report(&key, &body, backfill).await?;
        check_receipt(&receipt, part.len())?;
        if receipt.lists_all() || part.len() == 1 {
            refused.extend(read_lines(&receipt.rejected, slice.lines.get(part).unwrap_or_default())?);
        } else {
            waiting.extend(halves(part));
        }
    }
    Ok(refused)
}

fn check_receipt(receipt: &SliceReceipt, lines: usize) -> anyhow::Result<()> {
    let SliceReceipt { accepted, rejected_count, .. } = receipt;
    if accepted + rejected_count == lines as u64 {
        Ok(())
    } else {
        Err(anyhow!("of {lines} lines the API accepted {accepted} and refused {rejected_count}"))
    }
}

/// Translates refusals or warnings of the response from lines of the request to lines of the input.
fn read_lines(rejected: &[RejectedLine], lines: &[u64]) -> anyhow::Result<Vec<LineRefusal>> {
    let read = |RejectedLine { index, problem }: &RejectedLine| {
        let line = lines.get(*index).copied();
        let line = line.ok_or_else(|| anyhow!("the answer names a line that was not sent"))?;
        Ok(LineRefusal { line, reason: describe_problem(problem) })
    };
    rejected.iter().map(read).collect()
}

async fn check_only(
    cutter: Cutter,
    input: Input,
    progress: &ProgressLine,
    refusals: &mut Refusals,
) -> anyhow::Result<Summary> {
    let (mut slices, cutting) = start_cutting(cutter, input, progress);
    let mut summary = Summary::default();
    let mut last_line = Instant::now();
    while let Some(slice) = slices.recv().await {
        if slice.number == 0 {
            let text = String::from_utf8_lossy(&slice.body);
            text.lines().take(PRINTED_OBSERVATIONS).for_each(|line| println!("{line}"));
        }
        summary.tally.accepted += slice.lines.len() as u64;
        summary.tally.refused += slice.refused.len() as u64;
        for refusal in &slice.refused {
            refusals.report(refusal, Kind::Refused)?;
        }
        progress.show(&summary.tally.to_string(), &mut last_line);
    }
    cutting.await.context("the input could not be read")??;
    Ok(summary)
}

type Cutting = tokio::task::JoinHandle<anyhow::Result<()>>;

/// Reads and cuts on a separate thread, one slice ahead of the one being sent.
fn start_cutting(
    cutter: Cutter,
    input: Input,
    progress: &ProgressLine,
) -> (mpsc::Receiver<ReportSlice>, Cutting) {
    let (sender, receiver) = mpsc::channel(1);
    let progress = progress.clone();
    let cutting = tokio::task::spawn_blocking(move || {
        cutter.cut(input, &sender, |ignored| {
            if !ignored.is_empty() {
                progress.say(&format!("columns that are not reported: {}", ignored.join(", ")));
            }
        })
    });
    (receiver, cutting)
}

fn open_session(
    source: &ReportSource,
    arguments: &ReportArguments,
    cutter: &Cutter,
    url: &str,
) -> anyhow::Result<Session> {
    match source {
        // A pipe passed as a file cannot be read again either.
        ReportSource::File(path) if path.is_file() => {
            let mapping = serde_json::to_string(&cutter.mapping).context("cannot describe the mapping")?;
            let options =
                format!("{url} {mapping} {:?} {} {}", cutter.delimiter, cutter.lines, arguments.backfill);
            Session::open(path, &options)
        }
        _ => Ok(Session::unremembered()),
    }
}

fn add_counts(sum: &mut BatchCounts, batch: BatchCounts) {
    sum.recorded += batch.recorded;
    sum.unchanged += batch.unchanged;
    sum.stale += batch.stale;
    sum.quarantined += batch.quarantined;
    sum.failed += batch.failed;
    sum.new_lows += batch.new_lows;
    sum.too_old_to_ring += batch.too_old_to_ring;
    for (kind, count) in batch.transitions {
        *sum.transitions.entry(kind).or_default() += count;
    }
}

fn print_summary(arguments: &ReportArguments, summary: &Summary) {
    if arguments.dry_run {
        let Tally { accepted, refused, .. } = summary.tally;
        println!("{accepted} lines can be sent, {refused} cannot");
        return;
    }
    println!("{}", summary.tally);
    if arguments.no_wait {
        return;
    }
    let counts = &summary.counts;
    println!(
        "{} recorded, {} unchanged, {} stale, {} quarantined, {} failed, {} new lows",
        counts.recorded, counts.unchanged, counts.stale, counts.quarantined, counts.failed, counts.new_lows
    );
    let kinds: Vec<String> =
        counts.transitions.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
    if !kinds.is_empty() {
        println!("transitions: {}", kinds.join(", "));
    }
    if counts.too_old_to_ring > 0 {
        println!("{} were seen too long ago to ring anybody", counts.too_old_to_ring);
    }
}

/// Kind of a line that is reported.
#[derive(Clone, Copy, serde::Serialize)]
#[serde(rename_all = "snake_case")]
enum Kind {
    Refused,
    /// The line was accepted, without the field that the reason names.
    Warning,
}

/// A line of the file of `--rejects`.
#[derive(serde::Serialize)]
struct RefusalLine<'r> {
    #[serde(flatten)]
    refusal: &'r LineRefusal,
    kind: Kind,
}

/// Reports refused lines and warnings: the first ones on standard error, all of them to a file.
struct Refusals {
    file: Option<(PathBuf, BufWriter<File>)>,
    count: u64,
    progress: ProgressLine,
}

impl Refusals {
    fn new(path: Option<&Path>, progress: ProgressLine) -> anyhow::Result<Self> {
        let file = match path {
            Some(path) => {
                let file = File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
                Some((path.to_owned(), BufWriter::new(file)))
            }
            None => None,
        };
        Ok(Self { file, count: 0, progress })
    }

    fn report(&mut self, refusal: &LineRefusal, kind: Kind) -> anyhow::Result<()> {
        if let Some((path, file)) = &mut self.file {
            let write = || {
                serde_json::to_writer(&mut *file, &RefusalLine { refusal, kind })?;
                file.write_all(b"\n")
            };
            let mut write = write;
            write().with_context(|| format!("cannot write {}", path.display()))?;
        }
        self.count += 1;
        if self.count <= PRINTED_REFUSALS {
            let warning = if matches!(kind, Kind::Warning) { "warning: " } else { "" };
            self.progress.say(&format!("line {}: {warning}{}", refusal.line, refusal.reason));
        }
        Ok(())
    }

    fn finish(self) -> anyhow::Result<()> {
        if self.count > PRINTED_REFUSALS {
            let more = self.count - PRINTED_REFUSALS;
            let hint = if self.file.is_none() { " (--rejects FILE has all)" } else { "" };
            eprintln!("and {more} more such lines{hint}");
        }
        match self.file {
            Some((path, mut file)) => {
                file.flush().with_context(|| format!("cannot write {}", path.display()))
            }
            None => Ok(()),
        }
    }
}

fn parse_delimiter(text: &str) -> Result<u8, String> {
    match text.as_bytes() {
        [byte] if byte.is_ascii() && !matches!(byte, b'"' | b'\n' | b'\r') => Ok(*byte),
        b"\\t" | b"tab" => Ok(b'\t'),
        _ => Err("wants one character, or tab".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delimiters_are_read_as_people_write_them() {
        assert_eq!(parse_delimiter("tab"), Ok(b'\t'));
        assert!(parse_delimiter("ab").is_err());
    }
}
