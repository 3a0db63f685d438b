//! The path of a body to the disk. Bytes that have arrived are written while more arrive. They are made durable every
//! few seconds and at the end, and only then reported, in the response or as the offset for the next request.
//!
//! The work continues in a separate task if the connection breaks, and keeps the bytes that have arrived.

use std::io;
use std::time::Duration;

use axum::body::{Body, HttpBody};
use axum::http::HeaderMap;
use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::Frame;
use sha2::digest::common::hazmat::{SerializableState, SerializedState};
use sha2::{Digest, Sha256};
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout_at};
use uuid::Uuid;

use super::checksum::{Expected, Sum};
use super::free_space::{check_free, check_size, disk_error, quota};
use super::headers::to_bytes;
use super::refusal::{UploadRefusal, too_long};
use crate::app::App;
use crate::app::cpu_time::give_way;
use crate::domain::ids::{AccountId, FileId};
use crate::error::{Error, Kind, Result, chain};
use crate::files::active_uploads::{Limits, Receiving};
use crate::files::blobs::{BlobWriter, Blobs, Cut, WriterState};
use crate::http::extract::body::broken_off;
use crate::http::middleware::idempotency::outlive;
use crate::store::files;
use crate::store::files::writing::{self, Beginning, DurableBytes, WriteLease, Writer};
use crate::store::lease::Lease;

/// Maximum number of bytes that are written at once, while as many more arrive. Larger writes wake fewer threads.
const MAX_WRITE_BYTES: usize = 1 << 20;
/// Maximum number of bytes that all uploads of the process together write at once; their buffers take up to twice as
/// much memory.
const MAX_WRITE_BYTES_OF_ALL: usize = 32 << 20;
/// Bytes that each upload may write at once regardless of their number.
const MIN_WRITE_BYTES: usize = 128 << 10;
/// Maximum number of pieces of the body that are written at once: each keeps the buffer alive that it was read into.
const MAX_WRITE_PIECES: usize = 64;
/// Interval at which the bytes that have arrived are made durable, while more arrive.
const RECORD_INTERVAL: Duration = Duration::from_secs(2);
/// Number of bytes after which they are made durable: the disk never falls far behind, and the end of the upload need
/// not wait for it. Free disk space is checked at the same time.
const RECORD_EVERY_BYTES: u64 = 64 << 20;
/// Pause after which a stopping process no longer reads a body. It still accepts the bytes that have reached this
/// machine, but cannot know how many they are.
const QUIET: Duration = Duration::from_millis(250);
/// Longest time for which a stopping process reads a body, since a client may send without pause.
const LEAVE_WITHIN: Duration = Duration::from_secs(2);

/// A request that writes to an upload.
pub struct Incoming {
    pub account: AccountId,
    pub file: FileId,
    /// Offset of the first byte.
    pub offset: u64,
    /// Length of the whole file, if the request states it.
    pub length: Option<u64>,
    pub expected: Expected,
    pub ends: Ends,
}

/// Condition that completes the file.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Ends {
    /// The file has all bytes of its stated length.
    AtItsLength,
    /// The body of this request ends.
    Here,
    /// A later request completes it, even if all bytes have arrived.
    Later,
}

impl Incoming {
    pub fn new(account: AccountId, file: FileId, offset: u64) -> Incoming {
        let (expected, ends) = (Expected::default(), Ends::AtItsLength);
        Incoming { account, file, offset, length: None, expected, ends }
    }
}

/// Result of receiving a body.
#[derive(Clone, Copy, Debug)]
pub struct ReceivedBytes {
    /// Number of bytes that the file now has.
    pub stored: u64,
    pub complete: bool,
}

/// Receives a body and appends its bytes to a file.
///
/// # Errors
/// `OtherOffset`, `BeyondLength`, `BeforeLength`; the errors of `begin_writing`; `TooLarge`; those of `Sum::check`;
/// `Timeout` or `Malformed` if the body broke off, in which case its beginning is kept; `InsufficientStorage`.
pub async fn receive(app: &App, incoming: Incoming, body: Body) -> Result<ReceivedBytes, UploadRefusal> {
    let Incoming { account, file, offset, .. } = incoming;
    // Another account must not be able to end the request that writes.
    files::find_file(&app.writer, account, file, app.clock.now()).await?;
    let limits = Limits {
        of_process: app.config.files.uploads_in_flight,
        of_account: app.config.files.uploads_in_flight_per_account,
    };
    let receiving = app.files.uploads.begin(file, account, limits).await?;
    let announced = body.size_hint().exact();
    // If the file ends with this body, the length of the body determines that of the file.
    let here = announced.filter(|_| incoming.ends == Ends::Here);
    let length = incoming.length.or(here.map(|coming| offset.saturating_add(coming)));
    check_size(app, length)?;
    check_free(app, length.unwrap_or(offset).saturating_sub(offset)).await?;
    let id = Uuid::now_v7();
    let writer = Writer {
        id,
        offset: to_bytes(offset)?,
        length: length.map(to_bytes).transpose()?,
        new_place: &Blobs::new_place(file, offset, id),
    };
    let begun = {
        let _turn = app.files.uploads.turn(account).await;
        writing::begin_writing(&app.writer, account, file, &writer, quota(app), app.clock.now()).await?
    };
    let turn = match begun {
        Beginning::OtherOffset(stored) => return Err(UploadRefusal::OtherOffset(stored.unsigned_abs())),
        Beginning::Complete if announced == Some(0) => {
            return Ok(ReceivedBytes { stored: offset, complete: true });
        }
        Beginning::Complete => return Err(UploadRefusal::BeyondLength),
        Beginning::Begun(turn) => turn,
    };
    if announced.is_some_and(|coming| coming > turn.room.unsigned_abs()) {
        // Nothing was written, so the next request may continue in the same piece.
        let hash = turn.hash_state.clone().unwrap_or_else(|| Sha256::new().serialize().to_vec());
        let written = DurableBytes {
            file,
            writer: id,
            piece_start: turn.piece_start,
            stored: turn.stored,
            hash_state: &hash,
            progress: turn.progress.as_ref(),
        };
        writing::record_written(&app.writer, &written, true, app.clock.now()).await?;
        return Err(beyond(&turn));
    }
    let work = UploadTask::begin(app.clone(), incoming, id, turn, receiving).await?;
    outlive(app, account, work.run(body)).await?
}

/// The refusal of a body that exceeds the stated length, or the quota of the account.
fn beyond(turn: &WriteLease) -> UploadRefusal {
    if turn.length.is_some() { UploadRefusal::BeyondLength } else { too_long().into() }
}

/// How the body ended.
enum End {
    Whole(Option<HeaderMap>),
    /// The body broke off or was cut off: the bytes that have arrived are kept, and the refusal is returned.
    Broken(UploadRefusal),
}

/// A request that is writing to an upload.
struct UploadTask {
    app: App,
    incoming: Incoming,
    writer: Uuid,
    turn: WriteLease,
    receiving: Receiving,
    piece: BlobWriter,
    /// Number of bytes of this request that have arrived.
    arrived: u64,
    waiting: Vec<Bytes>,
    waiting_bytes: usize,
    /// Hash of all bytes before those being written; `None` during a write.
    hasher: Option<Sha256>,
    writing: Option<JoinHandle<io::Result<Sha256>>>,
    /// Task that makes durable and records what had been written when it began. Its result is `None` if another request
    /// holds the lease.
    recording: Option<JoinHandle<Result<Option<Durable>>>>,
    recorded: u64,
    /// State that the row certainly has.
    in_row: Durable,
    /// Offset that the row may have, if a response of the database was lost.
    may_be_in_row: i64,
    /// Whether the lease was released, so another request may be writing to this piece.
    left: bool,
    sum: Sum,
}

/// Durable bytes of the file, with the state that is needed to continue after them.
struct Durable {
    stored: i64,
    hash_state: Vec<u8>,
    progress: Option<WriterState>,
}

impl UploadTask {
    async fn begin(
        app: App,
        incoming: Incoming,
        writer: Uuid,
        turn: WriteLease,
        receiving: Receiving,
    ) -> Result<UploadTask> {
        let there = (turn.stored - turn.piece_start).unsigned_abs();
        let piece =
            app.files.blobs.open(&turn.place, there, turn.progress.as_ref()).await.map_err(disk_error)?;
        let hasher = match &turn.hash_state {
            None => Sha256::new(),
            Some(state) => restore(state)?,
        };
        let sum = Sum::new(&incoming.expected);
        let in_row = Durable {
            stored: turn.stored,
            hash_state: hasher.serialize().to_vec(),
            progress: turn.progress.clone(),
        };
        Ok(UploadTask {
            app,
            incoming,
            writer,
            turn,
            receiving,
            piece,
            arrived: 0,
            waiting: Vec::new(),
            waiting_bytes: 0,
            hasher: Some(hasher),
            writing: None,
            recording: None,
            recorded: 0,
            may_be_in_row: in_row.stored,
            left: false,
            in_row,
            sum,
        })
    }

    async fn run(mut self, body: Body) -> Result<ReceivedBytes, UploadRefusal> {
        let ended = self.receive(body).await;
        if let Err(UploadRefusal::Error(error)) = &ended
            && error.kind == Kind::InsufficientStorage
            && let Err(error) = self.go_back().await
        {
            // The row keeps the name of the piece, and the next request starts a new one.
            log::warn!(target: "salebell::files", "a full disk keeps what nobody needs: {}", chain(&error));
        }
        ended
    }

    async fn receive(&mut self, body: Body) -> Result<ReceivedBytes, UploadRefusal> {
        match self.take_all(body).await? {
            End::Whole(trailers) => self.finish(trailers).await,
            End::Broken(refusal) => {
                self.keep_received().await?;
                Err(refusal)
            }
        }
    }

    /// Reads the body until it ends or is cut off.
    async fn take_all(&mut self, mut body: Body) -> Result<End> {
        let mut record = interval(RECORD_INTERVAL);
        record.set_missed_tick_behavior(MissedTickBehavior::Delay);
        record.reset();
        let mut checked_at = 0;
        loop {
            tokio::select! {
                biased;
                () = self.receiving.stop.cancelled() => {
                    let detail = "Another request has taken over this upload.";
                    return Ok(End::Broken(Error::conflict(detail).into()));
                }
                () = self.app.stopping.cancelled() => return self.receive_remaining(body).await,
                Some(done) = self.receiving.settle.recv() => {
                    self.record_now().await?;
                    let _ = done.send(());
                }
                frame = body.frame() => if let Some(end) = self.take_frame(frame).await? {
                    return Ok(end);
                },
                _ = record.tick() => self.record_if_ripe().await?,
            }
            if self.arrived - checked_at >= RECORD_EVERY_BYTES {
                checked_at = self.arrived;
                if let Err(error) = check_free(&self.app, 0).await {
                    return Ok(End::Broken(error.into()));
                }
                self.record_if_ripe().await?;
            }
        }
    }

    /// Accepts one frame of the body; returns how the body ended, if it did.
    async fn take_frame(&mut self, frame: Option<Result<Frame<Bytes>, axum::Error>>) -> Result<Option<End>> {
        let bytes = match frame {
            None => return Ok(Some(End::Whole(None))),
            Some(Err(error)) => return Ok(Some(End::Broken(broken_off(&error).into()))),
            Some(Ok(frame)) => match frame.into_data() {
                Ok(bytes) => bytes,
                Err(frame) => return Ok(Some(End::Whole(frame.into_trailers().ok()))),
            },
        };
        if self.arrived + bytes.len() as u64 > self.turn.room.unsigned_abs() {
            return Ok(Some(End::Broken(beyond(&self.turn))));
        }
        self.take(bytes).await?;
        Ok(None)
    }

    /// Reads the bytes that the client had sent before it could know that the process is stopping, and need not send
    /// again.
    async fn receive_remaining(&mut self, mut body: Body) -> Result<End> {
        let until = Instant::now() + LEAVE_WITHIN;
        while let Ok(frame) = timeout_at(until.min(Instant::now() + QUIET), body.frame()).await {
            if let Some(end) = self.take_frame(frame).await? {
                return Ok(end);
            }
        }
        Ok(End::Broken(Error::unavailable("the process ends").into()))
    }

    async fn take(&mut self, bytes: Bytes) -> Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        self.sum.update(&bytes);
        // Yield, since hashing megabytes that had already arrived may have taken long.
        give_way().await;
        self.arrived += bytes.len() as u64;
        self.waiting_bytes += bytes.len();
        self.waiting.push(bytes);
        let at_once = (MAX_WRITE_BYTES_OF_ALL / self.app.files.uploads.count().max(1))
            .clamp(MIN_WRITE_BYTES, MAX_WRITE_BYTES);
        if self.waiting_bytes >= at_once || self.waiting.len() >= MAX_WRITE_PIECES {
            self.write().await
        } else {
            Ok(())
        }
    }

    /// Starts writing the waiting bytes, once the previous write has finished.
    async fn write(&mut self) -> Result<()> {
        self.written().await?;
        if let Some(hasher) = self.hasher.take_if(|_| !self.waiting.is_empty()) {
            self.waiting_bytes = 0;
            self.writing = Some(self.piece.write(std::mem::take(&mut self.waiting), hasher));
        }
        Ok(())
    }

    async fn written(&mut self) -> Result<()> {
        if let Some(writing) = self.writing.take() {
            self.hasher = Some(writing.await.map_err(Error::internal)?.map_err(disk_error)?);
        }
        Ok(())
    }

    /// Writes all bytes that have arrived, and returns the state of the hash.
    async fn drain(&mut self) -> Result<Vec<u8>> {
        self.write().await?;
        self.written().await?;
        let hasher = self.hasher.as_ref().ok_or_else(|| Error::internal("the hash is lost"))?;
        Ok(hasher.serialize().to_vec())
    }

    async fn record_if_ripe(&mut self) -> Result<()> {
        if self.piece.is_ripe() { self.record_aside().await } else { Ok(()) }
    }

    /// Starts making durable the bytes that have arrived, while more arrive. Bytes with a checksum are not recorded
    /// before they have been verified.
    async fn record_aside(&mut self) -> Result<()> {
        if let Some(recording) = self.recording.take_if(|recording| recording.is_finished()) {
            self.recorded_or_lost(recording).await?;
        }
        if self.recording.is_some() || self.recorded == self.arrived || !self.sum.is_none() {
            return Ok(());
        }
        let hash_state = self.drain().await?;
        let (app, piece) = (self.app.clone(), self.piece.clone());
        let (file, writer, piece_start) = (self.incoming.file, self.writer, self.turn.piece_start);
        let stored = self.stored()?;
        (self.recorded, self.may_be_in_row) = (self.arrived, stored);
        let syncing = piece.sync();
        self.recording = Some(tokio::spawn(async move {
            let progress = syncing.await.map_err(disk_error)?;
            let written = DurableBytes {
                file,
                writer,
                piece_start,
                stored,
                hash_state: &hash_state,
                progress: progress.as_ref(),
            };
            match writing::record_written(&app.writer, &written, false, app.clock.now()).await? {
                Lease::Held => {
                    piece.recorded();
                    Ok(Some(Durable { stored, hash_state, progress }))
                }
                Lease::Lost => Ok(None),
            }
        }));
        Ok(())
    }

    async fn recorded_or_lost(&mut self, recording: JoinHandle<Result<Option<Durable>>>) -> Result<()> {
        match recording.await.map_err(Error::internal)? {
            Ok(Some(in_row)) => {
                self.in_row = in_row;
                Ok(())
            }
            Ok(None) => Err(lost()),
            // The database may be available again before the upload ends.
            Err(error) if error.kind == Kind::Unavailable => {
                log::warn!(target: "salebell::files", "an offset is not told yet: {}", chain(&error));
                self.recorded = 0;
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// Makes durable the bytes that have arrived, for a request that waits for this.
    async fn record_now(&mut self) -> Result<()> {
        for _ in 0..2 {
            self.record_aside().await?;
            if let Some(recording) = self.recording.take() {
                self.recorded_or_lost(recording).await?;
            }
        }
        Ok(())
    }

    /// Completes the request after the whole body has arrived.
    async fn finish(&mut self, trailers: Option<HeaderMap>) -> Result<ReceivedBytes, UploadRefusal> {
        let sum = std::mem::take(&mut self.sum);
        if let Err(error) = sum.check(&self.incoming.expected, trailers.as_ref()) {
            self.discard_received().await?;
            return Err(error.into());
        }
        let stored = self.stored()?;
        let here = self.incoming.ends == Ends::Here;
        let length = self.turn.length.or(Some(stored).filter(|_| here));
        if length != Some(stored) || self.incoming.ends == Ends::Later {
            self.keep_received().await?;
            if here {
                return Err(UploadRefusal::BeforeLength);
            }
            return Ok(ReceivedBytes { stored: stored.unsigned_abs(), complete: false });
        }
        self.drain().await?;
        self.end_recording().await;
        self.seal().await?;
        let sha256 = self.hasher.take().map(Sha256::finalize).unwrap_or_default();
        let written = self.as_written(stored, &[], None);
        match writing::complete_file(&self.app.writer, &written, &sha256, self.app.clock.now()).await? {
            Lease::Held => {
                self.piece.recorded();
                Ok(ReceivedBytes { stored: stored.unsigned_abs(), complete: true })
            }
            Lease::Lost => Err(lost().into()),
        }
    }

    /// Makes every piece of the file readable, including those that earlier requests could not seal.
    async fn seal(&self) -> Result<()> {
        let (file, start) = (self.incoming.file, self.turn.piece_start);
        for piece in writing::list_open_pieces(&self.app.writer, file, start).await? {
            let sealing =
                self.app.files.blobs.seal(&piece.place, piece.length.unsigned_abs(), &piece.progress);
            sealing.await.map_err(disk_error)?;
        }
        self.piece.seal().await.map_err(disk_error)
    }

    /// Makes durable and records the bytes that have arrived, and releases the lease.
    async fn keep_received(&mut self) -> Result<()> {
        // Bytes that have not been verified against their checksum cannot be kept.
        if !self.sum.is_none() {
            return self.discard_received().await;
        }
        let hash_state = self.drain().await?;
        self.end_recording().await;
        let progress = self.piece.sync().await.map_err(disk_error)?;
        let stored = self.stored()?;
        self.leave(stored, &hash_state, progress.as_ref()).await
    }

    /// Discards a body that does not match its checksum, or cannot be verified.
    async fn discard_received(&mut self) -> Result<()> {
        self.drain().await?;
        self.end_recording().await;
        let there = (self.turn.stored - self.turn.piece_start).unsigned_abs();
        if self.piece.cut(there).await.map_err(disk_error)? == Cut::StillArriving {
            // The row keeps the name of the piece, and the next request starts a new one.
            return Ok(());
        }
        let hash_state = self.turn.hash_state.clone().unwrap_or_else(|| Sha256::new().serialize().to_vec());
        let progress = self.turn.progress.clone();
        self.leave(self.turn.stored, &hash_state, progress.as_ref()).await
    }

    /// Frees the space of bytes that were written but not recorded, after a failed write: the disk is full.
    async fn go_back(&mut self) -> Result<()> {
        if let Some(writing) = self.writing.take() {
            let _ = writing.await;
        }
        if let Some(recording) = self.recording.take() {
            self.recorded_or_lost(recording).await?;
        }
        // Bytes that may have been recorded must stay.
        if self.left || self.may_be_in_row != self.in_row.stored {
            return Ok(());
        }
        let there = (self.in_row.stored - self.turn.piece_start).unsigned_abs();
        if self.piece.cut(there).await.map_err(disk_error)? == Cut::Clean {
            let Durable { stored, hash_state, progress } = &self.in_row;
            let (stored, hash_state, progress) = (*stored, hash_state.clone(), progress.clone());
            self.leave(stored, &hash_state, progress.as_ref()).await?;
        }
        Ok(())
    }

    async fn leave(&mut self, stored: i64, hash_state: &[u8], progress: Option<&WriterState>) -> Result<()> {
        self.left = true;
        let written = self.as_written(stored, hash_state, progress);
        match writing::record_written(&self.app.writer, &written, true, self.app.clock.now()).await? {
            Lease::Held => {
                self.piece.recorded();
                Ok(())
            }
            Lease::Lost => Err(lost()),
        }
    }

    /// Waits for the recording task, because two records of one request must not overlap.
    async fn end_recording(&mut self) {
        if let Some(recording) = self.recording.take() {
            let _ = recording.await;
        }
    }

    fn as_written<'a>(
        &self,
        stored: i64,
        hash_state: &'a [u8],
        progress: Option<&'a WriterState>,
    ) -> DurableBytes<'a> {
        let (file, writer, piece_start) = (self.incoming.file, self.writer, self.turn.piece_start);
        DurableBytes { file, writer, piece_start, stored, hash_state, progress }
    }

    /// Number of bytes of the file, including those of this request.
    fn stored(&self) -> Result<i64> {
        Ok(self.turn.stored + to_bytes(self.arrived)?)
    }
}

/// The refusal if another instance has passed the upload to another request, or it was removed.
fn lost() -> Error {
    Error::conflict("Another request has taken over this upload, or it was removed.")
}

fn restore(state: &[u8]) -> Result<Sha256> {
    let state = <&SerializedState<Sha256>>::try_from(state)
        .map_err(|_| Error::internal("a hash state is of another size"))?;
    Sha256::deserialize(state).map_err(|_| Error::internal("a hash state cannot be read"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_instance_continues_a_hash() {
        let whole: Vec<u8> = (0..1_000_u32).flat_map(u32::to_le_bytes).collect();
        for cut in [0, 1, 63, 64, 65, 2_000, whole.len()] {
            let mut one = Sha256::new();
            one.update(&whole[..cut]);
            let mut other = restore(&one.serialize()).unwrap();
            other.update(&whole[cut..]);
            assert_eq!(other.finalize(), Sha256::digest(&whole), "cut at {cut}");
        }
        assert!(restore(&[1, 2, 3]).is_err());
    }
}
