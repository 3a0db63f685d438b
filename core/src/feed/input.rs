//! Inputs of feeds: detects their compression, encoding and format.

use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use async_compression::tokio::bufread::{GzipDecoder, ZstdDecoder};
use async_compression::zstd::DParameter;
use tokio::io::{AsyncRead, AsyncReadExt, ReadBuf};
use tokio_util::io::SyncIoBridge;

use super::encoding::{self, Decoding};
use super::error::FeedError;

/// First bytes of a gzip member (RFC 1952) and of a zstd frame (RFC 8878).
const GZIP: &[u8] = &[0x1f, 0x8b];
const ZSTD: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];
/// Largest window of a zstd frame, as a power of two: 8 MiB, which RFC 8878 recommends that every decoder supports and
/// which all levels up to 19 respect. The frame itself states how much memory it requires, up to gigabytes.
const ZSTD_WINDOW_LOG: u32 = 23;
/// Bytes read to find an XML declaration, which ends within them.
const DECLARATION: u64 = 512;
/// Largest ratio of decompressed to compressed size, and the decompressed size in bytes below which any ratio is
/// accepted.
const MAX_RATIO: u64 = 1_000;
const RATIO_GRACE: u64 = 16 << 20;
/// Size of the read buffers, in bytes.
const BUFFER: usize = 64 << 10;

/// Format of a feed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FeedFormat {
    /// A header, then records as in RFC 4180.
    Csv,
    /// A JSON object per line.
    Ndjson,
    /// RSS or Atom.
    Xml,
}

/// An open input whose format is known.
pub struct Input {
    pub format: FeedFormat,
    /// Decompressed bytes as UTF-8, without a byte order mark.
    pub reader: Box<dyn BufRead + Send>,
    /// Number of bytes read so far, before decompression.
    pub read: Arc<AtomicU64>,
    /// Total number of bytes before decompression, if known.
    pub size: Option<u64>,
}

/// Opens an input and detects its compression by the first bytes, its encoding by a byte order mark or the XML
/// declaration, and its format by the extension of `name`, or else by the first character (`{` begins NDJSON, `<` XML).
///
/// # Errors
/// The input cannot be read, or is evidently in another format.
pub async fn open(
    raw: impl AsyncRead + Send + Unpin + 'static,
    name: Option<&Path>,
    size: Option<u64>,
) -> Result<Input, FeedError> {
    let read = Arc::new(AtomicU64::new(0));
    let plain = decompress(Counting { inner: raw, read: read.clone() }).await?;
    let name = name.map(Path::to_owned);
    // The parsers are synchronous: from here on, they read on a blocking thread.
    let peek = tokio::task::spawn_blocking(move || {
        let bridge = SyncIoBridge::new(plain);
        identify(Box::new(BufReader::with_capacity(BUFFER, bridge)), name.as_deref())
    });
    let (format, inner) = peek.await.map_err(|error| FeedError::Unreadable(io::Error::other(error)))??;
    let reader = Box::new(Bounded { inner, unpacked: 0, read: read.clone() });
    Ok(Input { format, reader, read, size })
}

async fn decompress<R: AsyncRead + Send + Unpin + 'static>(
    mut raw: R,
) -> Result<Box<dyn AsyncRead + Send + Unpin>, FeedError> {
    let mut first = Vec::with_capacity(ZSTD.len());
    // A pipe may deliver one byte at a time.
    while first.len() < ZSTD.len() {
        let missing = (ZSTD.len() - first.len()) as u64;
        let got = (&mut raw).take(missing).read_to_end(&mut first).await;
        if got.map_err(FeedError::Unreadable)? == 0 {
            break;
        }
    }
    let (gzip, zstd) = (first.starts_with(GZIP), first.starts_with(ZSTD));
    let whole = AsyncReadExt::chain(std::io::Cursor::new(first), raw);
    let buffered = tokio::io::BufReader::with_capacity(BUFFER, whole);
    Ok(if gzip {
        let mut decoder = GzipDecoder::new(buffered);
        decoder.multiple_members(true);
        Box::new(decoder)
    } else if zstd {
        let mut decoder = ZstdDecoder::with_params(buffered, &[DParameter::window_log_max(ZSTD_WINDOW_LOG)]);
        decoder.multiple_members(true);
        Box::new(decoder)
    } else {
        Box::new(buffered)
    })
}

fn identify(
    reader: Box<dyn BufRead + Send>,
    path: Option<&Path>,
) -> Result<(FeedFormat, Box<dyn BufRead + Send>), FeedError> {
    let (mut first, mut reader) = peek(reader)?;
    let found = encoding::find_by_marks(&first);
    if let Some((encoding, mark)) = found {
        // The byte order mark is dropped. The UTF-8 behind it is validated where it is read; UTF-16 is decoded.
        reader.fill_buf().map_err(FeedError::Unreadable)?;
        reader.consume(mark);
        if encoding != encoding_rs::UTF_8 {
            reader = Box::new(Decoding::new(reader, encoding));
        }
        (first, reader) = peek(reader)?;
    }
    let begin = first.iter().find(|byte| !byte.is_ascii_whitespace()).copied();
    let format = path.and_then(format_of_name).unwrap_or(match begin {
        Some(b'{' | b'[') => FeedFormat::Ndjson,
        Some(b'<') => FeedFormat::Xml,
        _ => FeedFormat::Csv,
    });
    if format == FeedFormat::Ndjson && begin == Some(b'[') {
        return Err(FeedError::JsonArray);
    }
    if format == FeedFormat::Xml && found.is_none_or(|(encoding, _)| encoding == encoding_rs::UTF_8) {
        let encoding = match found {
            Some((encoding, _)) => encoding,
            None => encoding::find_declared(&first).map_err(FeedError::UnknownEncoding)?,
        };
        reader = Box::new(Decoding::new(reader, encoding));
    }
    Ok((format, reader))
}

/// The first bytes of a reader, and a reader that still returns them.
fn peek(mut reader: Box<dyn BufRead + Send>) -> Result<(Vec<u8>, Box<dyn BufRead + Send>), FeedError> {
    let mut first = Vec::new();
    reader.by_ref().take(DECLARATION).read_to_end(&mut first).map_err(FeedError::Unreadable)?;
    let whole = Read::chain(std::io::Cursor::new(first.clone()), reader);
    Ok((first, Box::new(BufReader::with_capacity(BUFFER, whole))))
}

/// Format by the extension, ignoring `.gz` and `.zst`.
fn format_of_name(path: &Path) -> Option<FeedFormat> {
    let name = path.file_name()?.to_str()?.to_ascii_lowercase();
    let name = name.trim_end_matches(".gz").trim_end_matches(".zst");
    match name.rsplit_once('.')?.1 {
        "csv" | "tsv" => Some(FeedFormat::Csv),
        "ndjson" | "jsonl" | "json" => Some(FeedFormat::Ndjson),
        "xml" | "rss" | "atom" => Some(FeedFormat::Xml),
        _ => None,
    }
}

/// Reader that refuses input which decompresses without end.
struct Bounded {
    inner: Box<dyn BufRead + Send>,
    unpacked: u64,
    /// Bytes read before decompression.
    read: Arc<AtomicU64>,
}

impl Read for Bounded {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let found = self.fill_buf()?;
        let count = found.len().min(buffer.len());
        buffer[..count].copy_from_slice(&found[..count]);
        self.consume(count);
        Ok(count)
    }
}

impl BufRead for Bounded {
    fn fill_buf(&mut self) -> std::io::Result<&[u8]> {
        let most = self.read.load(Ordering::Relaxed).saturating_mul(MAX_RATIO).max(RATIO_GRACE);
        if self.unpacked > most {
            Err(std::io::Error::other(format!("it decompresses to more than {MAX_RATIO} times its size")))
        } else {
            self.inner.fill_buf()
        }
    }

    fn consume(&mut self, count: usize) {
        self.unpacked += count as u64;
        self.inner.consume(count);
    }
}

/// Reader that counts the bytes read.
struct Counting<R> {
    inner: R,
    read: Arc<AtomicU64>,
}

impl<R: AsyncRead + Unpin> AsyncRead for Counting<R> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.inner).poll_read(context, buffer);
        self.read.fetch_add((buffer.filled().len() - before) as u64, Ordering::Relaxed);
        polled
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_format_is_read_from_the_name_below_its_compression() {
        assert_eq!(format_of_name(Path::new("a/prices.CSV.gz")), Some(FeedFormat::Csv));
        assert_eq!(format_of_name(Path::new("prices.jsonl.zst")), Some(FeedFormat::Ndjson));
        assert_eq!(format_of_name(Path::new("prices.gz")), None);
    }
}
