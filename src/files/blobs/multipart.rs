//! A piece on its way to S3: bytes are gathered in an unnamed file until they fill a part of a multipart upload.
//!
//! Reported bytes are durable as whole parts and, for the rest, as a tail: a separate object under a name that is
//! written only once. A writer that continues the piece loads the tail and fills the part up.
//! docs/decisions/0009-blobs.md describes this in full.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};
use nix::fcntl::{FallocateFlags, fallocate};
use parking_lot::Mutex;
use sha2::Sha256;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use uuid::Uuid;

use super::pending_parts::{PART, PendingParts};
use super::piece::{Cut, WriterState, blocking, write_hashed};
use super::s3::S3;

/// Maximum number of parts of one piece that are sent at once. Beyond that, the client waits until the oldest of them
/// has arrived.
const PARTS_AT_ONCE: usize = 3;
/// Interval at which a tail is written, unless a part is full or a request waits for it. Each tail costs a request to
/// S3.
const RIPE_AFTER: Duration = Duration::from_secs(10);

/// A part that is being sent; it resolves to the part's entity tag.
type Putting = Shared<BoxFuture<'static, Result<String, Arc<io::Error>>>>;

/// Writer of a piece that is sent in parts.
#[derive(Clone)]
pub struct PartWriter(Arc<Inner>);

struct Inner {
    s3: S3,
    place: String,
    scratch: Arc<File>,
    /// Offset in the piece of the first byte of the scratch file, which is the start of a part.
    base: u64,
    state: Mutex<State>,
}

struct State {
    /// Number of bytes of the piece that have been written.
    length: u64,
    upload: Option<String>,
    parts: Vec<Putting>,
    /// Number of parts with which the piece was opened.
    opened_parts: usize,
    /// Result of the last `sync`, and the length that it covers.
    synced: (u64, PendingParts),
    synced_at: Instant,
    /// Tails that no row needs once it has the result of the last `sync`.
    old_tails: Vec<String>,
    /// Index of the part whose beginning is being read for a tail: its bytes stay in the scratch file.
    held: Option<usize>,
}

impl PartWriter {
    /// Opens a writer that continues a piece of `length` bytes from what its row says of it.
    pub async fn open(
        s3: &S3,
        place: &str,
        length: u64,
        progress: Option<&WriterState>,
    ) -> io::Result<PartWriter> {
        let s3 = s3.clone();
        let pending = PendingParts::read(progress)?;
        let tail = s3.tail(&pending, pending.rest(length)?).await?;
        let folder = s3.scratch().root().to_owned();
        let scratch = blocking(move || {
            let mut scratch = unnamed_file(&folder)?;
            scratch.write_all(&tail)?;
            Ok(scratch)
        })
        .await?;
        let put = |etag: &String| std::future::ready(Ok(etag.clone())).boxed().shared();
        let state = State {
            length,
            upload: pending.upload.clone(),
            parts: pending.parts.iter().map(put).collect(),
            opened_parts: pending.parts.len(),
            synced: (length, pending),
            synced_at: Instant::now(),
            old_tails: Vec::new(),
            held: None,
        };
        let base = state.parts.len() as u64 * PART;
        let (scratch, state) = (Arc::new(scratch), Mutex::new(state));
        Ok(PartWriter(Arc::new(Inner { s3, place: place.to_owned(), scratch, base, state })))
    }

    pub fn write(&self, pieces: Vec<Bytes>, hasher: Sha256) -> JoinHandle<io::Result<Sha256>> {
        let piece = self.clone();
        tokio::spawn(async move {
            let count: usize = pieces.iter().map(Bytes::len).sum();
            let writing = write_hashed(piece.0.scratch.clone(), pieces, hasher);
            let hasher = writing.await.map_err(io::Error::other)??;
            piece.0.state.lock().length += count as u64;
            piece.send_full_parts().await?;
            Ok(hasher)
        })
    }

    pub fn is_ripe(&self) -> bool {
        let state = self.0.state.lock();
        (state.length / PART) as usize > state.synced.1.parts.len() || state.synced_at.elapsed() >= RIPE_AFTER
    }

    pub fn sync(&self) -> BoxFuture<'static, io::Result<Option<WriterState>>> {
        let piece = self.clone();
        // Copied now, because more is written while this is made durable.
        let (length, upload, parts) = {
            let mut state = self.0.state.lock();
            let whole = (state.length / PART) as usize;
            state.held = Some(whole);
            (state.length, state.upload.clone(), state.parts.iter().take(whole).cloned().collect())
        };
        Box::pin(async move {
            let pending = piece.make_durable(length, upload, parts).await;
            piece.let_go();
            Ok(Some(serde_json::to_value(pending?)?))
        })
    }

    async fn make_durable(
        &self,
        length: u64,
        upload: Option<String>,
        parts: Vec<Putting>,
    ) -> io::Result<PendingParts> {
        let (synced, last) = self.0.state.lock().synced.clone();
        if synced == length {
            return Ok(last);
        }
        let behind = parts.len() as u64 * PART;
        if length - behind >= PART {
            return Err(io::Error::other("a full part was not sent"));
        }
        let parts = arrived(parts).await?;
        let tail = if length > behind {
            let bytes = self.pending_bytes(behind, length).await?;
            // The name is never written twice: an abandoned attempt that arrives late brings the same bytes.
            let name = format!("{}.{}", self.0.place, Uuid::now_v7().simple());
            self.0.s3.put(&name, bytes).await?;
            Some(name)
        } else {
            None
        };
        let pending = PendingParts { upload, parts, tail };
        let mut state = self.0.state.lock();
        state.old_tails.extend(last.tail);
        (state.synced, state.synced_at) = ((length, pending.clone()), Instant::now());
        Ok(pending)
    }

    /// Releases the part that was held, if it has arrived in the meantime.
    fn let_go(&self) {
        let mut state = self.0.state.lock();
        let Some(held) = state.held.take() else { return };
        let arrived = state.parts.get(held).is_some_and(|part| matches!(part.peek(), Some(Ok(_))));
        drop(state);
        if arrived {
            self.release(held);
        }
    }

    pub fn recorded(&self) {
        let old = std::mem::take(&mut self.0.state.lock().old_tails);
        if old.is_empty() {
            return;
        }
        let s3 = self.0.s3.clone();
        tokio::spawn(async move {
            for name in old {
                if let Err(error) = s3.remove(&name, None).await {
                    log::debug!(target: "salebell::files", "{name} is left to the sweep: {error}");
                }
            }
        });
    }

    pub async fn cut(&self, length: u64) -> io::Result<Cut> {
        let (scratch, base) = (self.0.scratch.clone(), self.0.base);
        {
            let mut state = self.0.state.lock();
            if state.parts.len() > state.opened_parts {
                return Ok(Cut::StillArriving);
            }
            state.length = length;
        }
        blocking(move || {
            scratch.set_len(length - base)?;
            (&*scratch).seek(SeekFrom::End(0)).map(|_| Cut::Clean)
        })
        .await
    }

    pub async fn seal(&self) -> io::Result<()> {
        let (length, upload, parts) = {
            let state = self.0.state.lock();
            (state.length, state.upload.clone(), state.parts.clone())
        };
        let behind = parts.len() as u64 * PART;
        let pending = PendingParts { upload, parts: arrived(parts).await?, tail: None };
        let rest = self.pending_bytes(behind, length).await?;
        self.0.s3.complete(&self.0.place, length, &pending, rest).await?;
        let mut state = self.0.state.lock();
        let last = state.synced.1.tail.take();
        state.old_tails.extend(last);
        Ok(())
    }

    /// Begins to send the parts that are full. Waits while too many are being sent.
    async fn send_full_parts(&self) -> io::Result<()> {
        loop {
            let (index, before, upload) = {
                let state = self.0.state.lock();
                let index = state.parts.len();
                if state.length < (index as u64 + 1) * PART {
                    return Ok(());
                }
                let before = index.checked_sub(PARTS_AT_ONCE).map(|before| state.parts[before].clone());
                (index, before, state.upload.clone())
            };
            if let Some(before) = before {
                arrived(vec![before]).await?;
            }
            let upload = match upload {
                Some(upload) => upload,
                None => self.0.s3.begin_upload(&self.0.place).await?,
            };
            let putting = self.put(index, upload.clone());
            let mut state = self.0.state.lock();
            state.upload = Some(upload);
            state.parts.push(putting);
        }
    }

    fn put(&self, index: usize, upload: String) -> Putting {
        let piece = self.clone();
        let task = tokio::spawn(async move {
            let start = index as u64 * PART;
            let bytes = piece.pending_bytes(start, start + PART).await?;
            let etag = piece.0.s3.put_part(&piece.0.place, &upload, index, bytes).await?;
            let held = piece.0.state.lock().held == Some(index);
            if !held {
                piece.release(index);
            }
            Ok(etag)
        });
        async move { task.await.map_err(io::Error::other).flatten().map_err(Arc::new) }.boxed().shared()
    }

    /// Reads bytes of the piece from the scratch file, once there is a free buffer for them.
    async fn pending_bytes(&self, start: u64, end: u64) -> io::Result<Bytes> {
        if start == end {
            return Ok(Bytes::new());
        }
        let (scratch, base) = (self.0.scratch.clone(), self.0.base);
        let mut buffer = self.0.s3.buffer().await;
        blocking(move || {
            buffer.bytes().resize((end - start) as usize, 0);
            scratch.read_exact_at(buffer.bytes(), start - base)?;
            Ok(Bytes::from_owner(buffer))
        })
        .await
    }

    /// Frees the disk space of a part that has arrived. If the file system does not support that, the space is freed
    /// with the file.
    fn release(&self, index: usize) {
        let start = index as u64 * PART - self.0.base;
        let how = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        let _ = fallocate(&*self.0.scratch, how, start as i64, PART as i64);
    }
}

async fn arrived(parts: Vec<Putting>) -> io::Result<Vec<String>> {
    let mut etags = Vec::with_capacity(parts.len());
    for part in parts {
        etags.push(part.await.map_err(|error| io::Error::new(error.kind(), error))?);
    }
    Ok(etags)
}

/// A file that is removed with its last handle.
fn unnamed_file(folder: &Path) -> io::Result<File> {
    fs::create_dir_all(folder)?;
    let path = folder.join(format!("gathering-{}", Uuid::now_v7().simple()));
    let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path)?;
    fs::remove_file(&path)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_impossible_row_is_not_a_piece() {
        let pending = |parts: usize, tail: Option<&str>| PendingParts {
            upload: None,
            parts: vec!["etag".to_owned(); parts],
            tail: tail.map(str::to_owned),
        };
        assert_eq!(pending(0, None).rest(0).unwrap(), 0);
        assert_eq!(pending(2, None).rest(2 * PART).unwrap(), 0);
        assert_eq!(pending(2, Some("t")).rest(2 * PART + 7).unwrap(), 7);
        for (parts, tail, length) in
            [(0, None, 1), (1, Some("t"), PART - 1), (1, None, PART + 1), (1, Some("t"), 2 * PART)]
        {
            assert!(pending(parts, tail).rest(length).is_err(), "{parts} {length}");
        }
    }
}
