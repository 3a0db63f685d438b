//! A piece on its way to S3: bytes are gathered in a file without a name until they fill a part of a multipart upload.
//!
//! What is told is durable as whole parts and, for the rest, as a tail: an object of its own under a name that is
//! written once. Who goes on with the piece loads the tail and fills it up. docs/decisions/0009-blobs.md has the whole.

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
use serde::{Deserialize, Serialize};
use sha2::Sha256;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use uuid::Uuid;

use super::{Cut, S3, WriterState, blocking, write_hashed};
use crate::config::MAX_BYTES_IN_S3;

/// The least that S3 takes for a part that is not the last.
pub const PART: u64 = 5 << 20;
/// It takes 10,000 of them.
const _: () = assert!(MAX_BYTES_IN_S3 as u64 == 10_000 * PART);
/// Parts of one piece that are sent at once; until the first of them is there, the client waits.
const PARTS_AT_ONCE: usize = 3;
/// A tail is written anew so often, unless a part is full or somebody waits for it: each costs a request.
const RIPE_AFTER: Duration = Duration::from_secs(10);

/// What a row keeps of a piece that is not sealed.
#[derive(Clone, Default, Serialize, Deserialize)]
pub struct PendingParts {
    /// The multipart upload, once there is one.
    pub upload: Option<String>,
    /// The entity tags of its parts, each of `PART` bytes.
    pub parts: Vec<String>,
    /// The object that has the bytes behind those.
    pub tail: Option<String>,
}

impl PendingParts {
    /// # Errors
    /// The row has something else.
    pub fn read(progress: Option<&WriterState>) -> io::Result<PendingParts> {
        progress
            .map_or_else(|| Ok(PendingParts::default()), |progress| Ok(PendingParts::deserialize(progress)?))
    }

    /// How many bytes of `length` its tail has.
    ///
    /// # Errors
    /// It cannot be a piece of that length.
    pub fn rest(&self, length: u64) -> io::Result<u64> {
        match length.checked_sub(self.parts.len() as u64 * PART) {
            Some(0) => Ok(0),
            Some(rest) if rest < PART && self.tail.is_some() => Ok(rest),
            _ => Err(io::Error::other(format!("{} parts are no piece of {length} bytes", self.parts.len()))),
        }
    }
}

/// A part while it is sent; afterwards its entity tag.
type Putting = Shared<BoxFuture<'static, Result<String, Arc<io::Error>>>>;

/// A piece that is being written.
#[derive(Clone)]
pub struct PartWriter(Arc<Inner>);

struct Inner {
    s3: S3,
    place: String,
    scratch: Arc<File>,
    /// The byte of the piece with which the scratch file begins, which is that of a part.
    base: u64,
    state: Mutex<State>,
}

struct State {
    /// Bytes of the piece that are written.
    length: u64,
    upload: Option<String>,
    parts: Vec<Putting>,
    /// With so many parts it was opened.
    opened_parts: usize,
    /// What the last `sync` gave, and for which length.
    synced: (u64, PendingParts),
    synced_at: Instant,
    /// Tails that no row needs once it has what the last `sync` gave.
    old_tails: Vec<String>,
    /// The part from whose beginning a tail is being read: its bytes stay in the scratch file.
    held: Option<usize>,
}

impl PartWriter {
    /// Goes on with what was gathered; `tail` has the bytes behind the parts.
    pub async fn open(
        s3: S3,
        place: &str,
        length: u64,
        gathered: PendingParts,
        tail: Bytes,
    ) -> io::Result<PartWriter> {
        let folder = s3.gathered_in().root().to_owned();
        let scratch = blocking(move || {
            let mut scratch = unnamed_file(&folder)?;
            scratch.write_all(&tail)?;
            Ok(scratch)
        })
        .await?;
        let put = |etag: &String| std::future::ready(Ok(etag.clone())).boxed().shared();
        let state = State {
            length,
            upload: gathered.upload.clone(),
            parts: gathered.parts.iter().map(put).collect(),
            opened_parts: gathered.parts.len(),
            synced: (length, gathered),
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
        // Taken down now: more is written while this is made durable.
        let (length, upload, parts) = {
            let mut state = self.0.state.lock();
            let whole = (state.length / PART) as usize;
            state.held = Some(whole);
            (state.length, state.upload.clone(), state.parts.iter().take(whole).cloned().collect())
        };
        Box::pin(async move {
            let gathered = piece.make_durable(length, upload, parts).await;
            piece.let_go();
            Ok(Some(serde_json::to_value(gathered?)?))
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
            let bytes = self.gathered(behind, length).await?;
            // Never written twice: an attempt that was given up and arrives late brings the same bytes.
            let name = format!("{}.{}", self.0.place, Uuid::now_v7().simple());
            self.0.s3.put(&name, bytes).await?;
            Some(name)
        } else {
            None
        };
        let gathered = PendingParts { upload, parts, tail };
        let mut state = self.0.state.lock();
        state.old_tails.extend(last.tail);
        (state.synced, state.synced_at) = ((length, gathered.clone()), Instant::now());
        Ok(gathered)
    }

    /// The beginning of the part that was held may go, if it has arrived meanwhile.
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
        let gathered = PendingParts { upload, parts: arrived(parts).await?, tail: None };
        let rest = self.gathered(behind, length).await?;
        self.0.s3.put_together(&self.0.place, length, &gathered, rest).await?;
        let mut state = self.0.state.lock();
        let last = state.synced.1.tail.take();
        state.old_tails.extend(last);
        Ok(())
    }

    /// Begins to send the parts that are full. Waits while too many are on their way.
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
            let bytes = piece.gathered(start, start + PART).await?;
            let etag = piece.0.s3.put_part(&piece.0.place, &upload, index, bytes).await?;
            let held = piece.0.state.lock().held == Some(index);
            if !held {
                piece.release(index);
            }
            Ok(etag)
        });
        async move { task.await.map_err(io::Error::other).flatten().map_err(Arc::new) }.boxed().shared()
    }

    /// Bytes of the piece that are in the scratch file, as soon as there is room for them in memory.
    async fn gathered(&self, start: u64, end: u64) -> io::Result<Bytes> {
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

    /// Gives back the room on the disk that a part took which has arrived. Where the file system cannot, it is given back
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

/// A file that goes with its last handle.
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
    fn a_row_that_cannot_be_is_no_piece() {
        let gathered = |parts: usize, tail: Option<&str>| PendingParts {
            upload: None,
            parts: vec!["etag".to_owned(); parts],
            tail: tail.map(str::to_owned),
        };
        assert_eq!(gathered(0, None).rest(0).unwrap(), 0);
        assert_eq!(gathered(2, None).rest(2 * PART).unwrap(), 0);
        assert_eq!(gathered(2, Some("t")).rest(2 * PART + 7).unwrap(), 7);
        for (parts, tail, length) in
            [(0, None, 1), (1, Some("t"), PART - 1), (1, None, PART + 1), (1, Some("t"), 2 * PART)]
        {
            assert!(gathered(parts, tail).rest(length).is_err(), "{parts} {length}");
        }
    }
}
