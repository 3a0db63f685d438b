//! What a share link gives out is counted while it is sent: promised before the first byte, settled before the last one
//! goes, so that a link which is used up is so by the time the client has the file.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{self, Stream, StreamExt};
use tokio::time::sleep;

use crate::app::App;
use crate::domain::ids::LinkId;
use crate::domain::link::Admission;
use crate::error::{Error, Kind, Result, chain};
use crate::store::files::links::{self, SharedFile};

/// What goes to the connection at once, which takes some pieces ahead: what a client that goes away did not get should
/// not be counted.
const PIECE: usize = 64 << 10;
/// A client that only looks, and then asks for parts, goes away in this time; only then the first byte follows the head.
const HELD_BACK: Duration = Duration::from_millis(100);
/// How long a request waits for answers under way that may break off, and how often it looks.
const WAITS: Duration = Duration::from_secs(3);
/// A part is waited for longer: some clients that fetch a file in parts give up at the first refusal.
const PART_WAITS: Duration = Duration::from_secs(10);
const LOOKS_EVERY: Duration = Duration::from_millis(100);
/// The most bytes of an answer that broke off which may still have been in buffers between us and its client,
const MOST_UNREAD: u64 = 8 << 20;
/// and how long they are not counted as given out, so that they can be asked for again.
const GRACE: Duration = Duration::from_secs(5);

/// Bytes of a link that one answer sends. Dropped early, it counts those that were sent and gives back the others.
pub struct Served {
    app: App,
    link: LinkId,
    promised: u64,
    start: u64,
    length: u64,
    /// A range was asked for, of all or
    by_range: bool,
    /// of less.
    is_part: bool,
    held_back: bool,
    sent: u64,
    settled: bool,
}

/// Begins an answer with the bytes from `start` to before `end`, `by_range` when a range was asked for.
///
/// # Errors
/// `NotFound`: the link gives no more. `Unavailable`: it may give this part later.
pub async fn begin(app: &App, shared: &SharedFile, start: u64, end: u64, by_range: bool) -> Result<Served> {
    let limited = shared.most.is_some();
    let (length, whole) = (end - start, shared.usage.length);
    let served = Served {
        app: app.clone(),
        link: shared.link,
        promised: if limited { length } else { 0 },
        start,
        length,
        by_range,
        is_part: length < whole,
        held_back: limited && length == whole,
        sent: 0,
        settled: false,
    };
    if !limited {
        return Ok(served);
    }
    // In a task of its own: when the client has gone, what was promised is given back.
    tokio::spawn(promise(served)).await.map_err(Error::internal)?
}

async fn promise(mut served: Served) -> Result<Served> {
    let mut left = if served.by_range { PART_WAITS } else { WAITS };
    // Nothing is promised yet that could be given back.
    served.settled = true;
    loop {
        let (start, end) = (served.start, served.start + served.length);
        match links::promise_bytes(&served.app.writer, served.link, start, end).await? {
            Admission::Granted => break,
            Admission::Later if !left.is_zero() => {
                sleep(LOOKS_EVERY).await;
                left = left.saturating_sub(LOOKS_EVERY);
            }
            // Clients give up at a 404.
            Admission::Later if served.by_range => {
                let detail =
                    "Other downloads through this link are in progress. Please try again in a moment.";
                let mut later = Error::new(Kind::Unavailable, detail);
                later.retry_after_s = Some(1);
                return Err(later);
            }
            Admission::Later | Admission::Never => return Err(links::no_link()),
        }
    }
    served.settled = false;
    if served.length == 0 {
        // Of an empty file nobody asks for a last byte.
        served.settle().await;
    }
    Ok(served)
}

impl Served {
    /// The same bytes, counted as they go.
    pub fn count(
        self,
        bytes: impl Stream<Item = io::Result<Bytes>> + Send + Unpin + 'static,
    ) -> impl Stream<Item = io::Result<Bytes>> + Send + 'static {
        let begin = (self, bytes, Bytes::new());
        stream::unfold(begin, |(mut served, mut bytes, mut piece)| async move {
            if std::mem::take(&mut served.held_back) {
                sleep(HELD_BACK).await;
            }
            while piece.is_empty() {
                match bytes.next().await {
                    Some(Ok(next)) => piece = next,
                    Some(Err(error)) => return Some((Err(error), (served, bytes, piece))),
                    None => return None,
                }
            }
            let next = piece.split_to(piece.len().min(PIECE));
            served.sent += next.len() as u64;
            if served.sent >= served.length {
                served.settle().await;
            }
            Some((Ok(next), (served, bytes, piece)))
        })
    }

    /// Counts what was sent, also when the client goes away meanwhile.
    async fn settle(&mut self) {
        if let Some(counting) = self.count_once() {
            let _ = tokio::spawn(counting).await;
        }
    }

    fn count_once(&mut self) -> Option<impl Future<Output = ()> + Send + use<>> {
        let settled = std::mem::replace(&mut self.settled, true);
        let (app, link) = (self.app.clone(), self.link);
        let (promised, start, sent) = (self.promised, self.start, self.sent);
        let unsure = match sent < self.length {
            _ if promised == 0 => 0,
            true => sent.min(MOST_UNREAD),
            // Its client may hang up yet, and ask for it again in other parts: the link is not used up at once.
            false => u64::from(self.is_part),
        };
        (!settled).then_some(count_with_grace(app, link, promised, start, sent, unsure))
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        // Without a runtime the process is at its end, and what was promised stays counted.
        if let Some(counting) = self.count_once()
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            runtime.spawn(counting);
        }
    }
}

/// Counts an answer; what its client may not have got counts later. Until then it stays promised, also when the process
/// dies.
async fn count_with_grace(app: App, link: LinkId, promised: u64, start: u64, sent: u64, unsure: u64) {
    let got = sent - unsure;
    count(&app, link, promised - unsure, start, got).await;
    if unsure > 0 {
        tokio::spawn(async move {
            sleep(GRACE).await;
            count(&app, link, unsure, start + got, unsure).await;
        });
    }
}

async fn count(app: &App, link: LinkId, promised: u64, start: u64, sent: u64) {
    if let Err(error) = links::count_served(&app.writer, link, promised, start, sent).await {
        log::warn!(target: "salebell::files", "link.id" = link.to_string();
            "what a link had promised stays counted: {}", chain(&error));
    }
}
