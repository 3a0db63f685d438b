//! One large upload over tus, at the speed of a home connection, which resumes after each break.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use sha2::{Digest, Sha256};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::load::{Caller, url};
use super::timeline::say;

const SIZE: usize = 32 * 1024 * 1024;
const PIECE: usize = 32 * 1024;
/// Number of bytes after which the upload counts as begun.
const BEGUN: usize = 4 * PIECE;
/// Pause between two pieces: some 0.3 MB/s.
const PAUSE: Duration = Duration::from_millis(100);
/// Most times that it may be broken off.
const BREAKS: usize = 60;
/// Timeout of a request without bytes of the file.
const CALL: Duration = Duration::from_secs(10);

/// An upload in progress.
pub struct Upload {
    task: JoinHandle<Result<(), String>>,
    hurry: Arc<AtomicBool>,
    resumed: Arc<AtomicUsize>,
    /// Number of bytes sent, including repeated ones.
    sent: watch::Receiver<usize>,
}

/// Result of the upload.
pub struct Uploaded {
    pub resumed: usize,
    /// Problem: the download differs from the upload, or the upload failed.
    pub problem: Option<String>,
}

impl Upload {
    pub fn start(caller: Arc<Caller>, number: u64) -> Upload {
        let (hurry, resumed) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
        let (told, sent) = watch::channel(0);
        let content = content(number);
        let run = Run { caller, hurry: hurry.clone(), resumed: resumed.clone(), told, content };
        Upload { task: tokio::spawn(run.upload()), hurry, resumed, sent }
    }

    /// Waits until it is well in progress; returns early after a timeout or a failure.
    pub async fn begun(&mut self) {
        let _ = tokio::time::timeout(CALL, self.sent.wait_for(|sent| *sent > BEGUN)).await;
    }

    /// Finishes it without pauses, and compares.
    pub async fn finish(self) -> Uploaded {
        self.hurry.store(true, Ordering::SeqCst);
        let ended = tokio::time::timeout(Duration::from_secs(120), self.task).await;
        let problem = match ended {
            Ok(Ok(Ok(()))) => None,
            Ok(Ok(Err(problem))) => Some(problem),
            Ok(Err(panic)) => Some(panic.to_string()),
            Err(_) => Some("the upload does not end".to_owned()),
        };
        Uploaded { resumed: self.resumed.load(Ordering::SeqCst), problem }
    }
}

struct Run {
    caller: Arc<Caller>,
    hurry: Arc<AtomicBool>,
    resumed: Arc<AtomicUsize>,
    told: watch::Sender<usize>,
    content: Bytes,
}

impl Run {
    async fn upload(self) -> Result<(), String> {
        let path = self.create().await?;
        let mut offset = 0;
        for attempt in 0..BREAKS {
            if attempt > 0 {
                tokio::time::sleep(Duration::from_millis(500)).await;
                let Some(found) = self.offset(&path).await else { continue };
                if found < SIZE {
                    self.resumed.fetch_add(1, Ordering::SeqCst);
                    say(&format!("the upload goes on at {:.1} MB", found as f64 / 1e6));
                }
                offset = found;
            }
            if offset >= SIZE || self.send(&path, offset).await {
                return self.compare(&path).await;
            }
        }
        Err(format!("the upload was broken off {BREAKS} times"))
    }

    async fn create(&self) -> Result<String, String> {
        let mut last = String::new();
        for _ in 0..10 {
            let request =
                self.caller.sender.post(url("/v1/files")).timeout(CALL).header("tus-resumable", "1.0.0");
            let request = self.caller.authorise(request.header("upload-length", SIZE)).send().await;
            match request {
                Ok(answer) if answer.status() == 201 => {
                    let location = answer.headers().get("location").and_then(|path| path.to_str().ok());
                    let location = location.ok_or("an upload without an address")?;
                    // A path, or an absolute URL.
                    let path = location.find("/v1/").map_or(location, |at| &location[at..]);
                    return Ok(path.to_owned());
                }
                other => last = format!("{other:?}"),
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        Err(format!("no upload can be made: {last}"))
    }

    /// Number of bytes that have arrived; `None`: no answer.
    async fn offset(&self, path: &str) -> Option<usize> {
        let request = self.caller.sender.head(url(path)).timeout(CALL).header("tus-resumable", "1.0.0");
        let answer = self.caller.authorise(request).send().await.ok()?;
        answer.headers().get("upload-offset")?.to_str().ok()?.parse().ok()
    }

    /// Sends the remaining bytes in one request. Returns whether all of them have arrived.
    async fn send(&self, path: &str, offset: usize) -> bool {
        let (hurry, content, told) = (self.hurry.clone(), self.content.clone(), self.told.clone());
        let pieces = async_stream::stream! {
            let mut at = offset;
            while at < content.len() {
                let end = (at + PIECE).min(content.len());
                yield Ok::<_, std::io::Error>(content.slice(at..end));
                told.send_modify(|sent| *sent += end - at);
                at = end;
                if !hurry.load(Ordering::SeqCst) {
                    tokio::time::sleep(PAUSE).await;
                }
            }
        };
        let request = self.caller.sender.patch(url(path)).header("tus-resumable", "1.0.0");
        let request = request.header("upload-offset", offset).header("content-length", SIZE - offset);
        let request = request.header("content-type", "application/offset+octet-stream");
        let request = request.timeout(Duration::from_secs(600)).body(reqwest::Body::wrap_stream(pieces));
        let answer = self.caller.authorise(request).send().await;
        answer.is_ok_and(|answer| answer.status().is_success())
    }

    /// Downloads it, and compares its hash.
    async fn compare(&self, path: &str) -> Result<(), String> {
        let sent = Sha256::digest(&self.content);
        let mut last = String::new();
        for _ in 0..10 {
            let request =
                self.caller.sender.get(url(&format!("{path}/content"))).timeout(Duration::from_secs(60));
            let found = async {
                let answer = self.caller.authorise(request).send().await?.error_for_status()?;
                answer.bytes().await
            };
            match found.await {
                Ok(found) if Sha256::digest(&found) == sent => return Ok(()),
                Ok(found) => {
                    return Err(format!("{} bytes came back, and others than were sent", found.len()));
                }
                Err(error) => last = error.to_string(),
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        Err(format!("the upload cannot be read: {last}"))
    }
}

/// Content in which no two pieces are equal.
fn content(number: u64) -> Bytes {
    let mut state = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(SIZE);
    while bytes.len() < SIZE {
        // xorshift64
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.into()
}
