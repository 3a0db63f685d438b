//! Counting of the bytes that a share link serves: they are promised before the first byte is sent, and settled before
//! the last one, so a link is used up by the time the client has the complete file.

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

/// Maximum number of bytes that are passed to the connection at once. The connection buffers some pieces, and bytes
/// that a disconnecting client did not receive should not be counted.
const PIECE: usize = 64 << 10;
/// Delay between the head and the first byte. A client that only inspects the head, and then requests parts,
/// disconnects within this time.
const HELD_BACK: Duration = Duration::from_millis(100);
/// How long a request waits for other responses in progress, which may break off and release their bytes.
const WAITS: Duration = Duration::from_secs(3);
/// How long a range request waits. It is longer because some clients that fetch a file in parts give up at the first
/// refusal.
const PART_WAITS: Duration = Duration::from_secs(10);
/// Interval at which a waiting request checks again.
const CHECK_INTERVAL: Duration = Duration::from_millis(100);
/// Maximum number of bytes of a broken-off response that may still have been in buffers between the process and its
/// client.
const MAX_UNREAD_BYTES: u64 = 8 << 20;
/// How long such bytes are not counted as served, and can be requested again.
const GRACE: Duration = Duration::from_secs(5);

/// Bytes of a link that one response sends. Dropped early, it counts those that were sent and releases the others.
pub struct Served {
    app: App,
    link: LinkId,
    promised: u64,
    start: u64,
    length: u64,
    /// Whether a range was requested, even one of the whole file.
    by_range: bool,
    /// Whether less than the whole file was requested.
    is_part: bool,
    held_back: bool,
    sent: u64,
    settled: bool,
}

/// Begins a response with the bytes from `start` (inclusive) to `end` (exclusive); `by_range` if a range was requested.
///
/// # Errors
/// `NotFound` if the link is used up; `Unavailable` if this part may be available later.
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
    // A separate task: if the client disconnects, promised bytes are released.
    tokio::spawn(promise(served)).await.map_err(Error::internal)?
}

async fn promise(mut served: Served) -> Result<Served> {
    let mut left = if served.by_range { PART_WAITS } else { WAITS };
    // Nothing has been promised yet that could be released.
    served.settled = true;
    loop {
        let (start, end) = (served.start, served.start + served.length);
        match links::promise_bytes(&served.app.writer, served.link, start, end).await? {
            Admission::Granted => break,
            Admission::Later if !left.is_zero() => {
                sleep(CHECK_INTERVAL).await;
                left = left.saturating_sub(CHECK_INTERVAL);
            }
            // A 404 would make clients give up.
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
        // The body of an empty file is never read to a last byte.
        served.settle().await;
    }
    Ok(served)
}

impl Served {
    /// Returns the same bytes, and counts them as they are sent.
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

    /// Counts the bytes that were sent, even if the client disconnects meanwhile.
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
            true => sent.min(MAX_UNREAD_BYTES),
            // The client may still disconnect and request the bytes again in other parts, so the last byte of a part
            // counts later and the link is not used up at once.
            false => u64::from(self.is_part),
        };
        (!settled).then_some(count_with_grace(app, link, promised, start, sent, unsure))
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        // Without a runtime the process is exiting, and the promised bytes stay counted.
        if let Some(counting) = self.count_once()
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            runtime.spawn(counting);
        }
    }
}

/// Counts a response. The bytes that its client may not have received count after `GRACE`. Until then they stay
/// promised, even if the process dies.
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
