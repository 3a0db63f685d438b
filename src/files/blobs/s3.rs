//! Blobs in an S3 bucket. A sealed piece is one object, named by its place; the bytes of an open piece are pending parts
//! of a multipart upload. The methods are described where they are called, in [`super::Blobs`].

use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures_util::TryStreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::{BoxStream, StreamExt};
use object_store::aws::{AmazonS3, AmazonS3Builder, AwsCredential};
use object_store::multipart::{MultipartStore, PartId};
use object_store::path::Path;
use object_store::signer::{SignedUrlOptions, Signer};
use object_store::{
    BackoffConfig, ClientOptions, CredentialProvider, GetOptions, GetRange, ObjectStore, ObjectStoreExt,
    PutPayload, RetryConfig,
};
use parking_lot::Mutex;
use reqwest::Method;
use serde::Deserialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use url::Url;
use uuid::Uuid;

use super::directory::Directory;
use super::pending_parts::PendingParts;
use super::piece::{OpenUpload, StrayBlob, WriterState};
use crate::aws::{self, Chain};
use crate::config::FilesConfig;

/// Age from which a blob or an upload that no row names is an orphan. An upload that has reported nothing for a day has
/// expired, and with it everything that it wrote but never reported. Nothing older can be reported any more.
pub const ORPHAN_AGE: Duration = Duration::from_secs(25 * 3600);
/// Maximum number of parts and tails that are in memory at once, for any number of uploads.
const BUFFERS: usize = 6;
/// Timeout of one request.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Timeout of the request that combines parts into an object: S3 may need minutes.
/// <https://docs.aws.amazon.com/AmazonS3/latest/API/API_CompleteMultipartUpload.html>
const COMPLETION_TIMEOUT: Duration = Duration::from_secs(300);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Bound on the time for which a failed request is retried: shorter than `server.drain_s`.
const RETRY_FOR: Duration = Duration::from_secs(20);
/// Validity of a signed URL.
const SIGNED_FOR: Duration = Duration::from_secs(60);
/// Attempts to complete an upload: a writer that has lost the piece may send its last part at the same time, but not
/// for long.
const TRIES: usize = 3;

/// Store of blobs below one prefix of a bucket.
#[derive(Clone)]
pub struct S3(Arc<Inner>);

struct Inner {
    chain: Chain,
    client: AmazonS3,
    /// The same client with a longer timeout, to complete uploads.
    completing: AmazonS3,
    /// Client for requests that `object_store` does not support.
    http: reqwest::Client,
    prefix: String,
    scratch: Directory,
    buffers: Buffers,
}

/// Memory for all parts and tails. It is reused instead of freed: an allocator does not quickly reuse memory that many
/// threads allocate and others free.
struct Buffers {
    free: Arc<Mutex<Vec<Vec<u8>>>>,
    permits: Arc<Semaphore>,
}

/// Buffer for one part. Its memory is free again once it and the bytes made from it are dropped.
pub struct Buffer {
    bytes: Vec<u8>,
    free: Arc<Mutex<Vec<Vec<u8>>>>,
    _permit: Option<OwnedSemaphorePermit>,
}

impl Buffer {
    /// Bytes of the buffer, which still hold the contents of its previous use.
    pub fn bytes(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let bytes = std::mem::take(&mut self.bytes);
        self.free.lock().push(bytes);
    }
}

impl S3 {
    /// Makes a store without sending a request. Parts that are not full wait in `scratch`.
    ///
    /// # Errors
    /// The settings are invalid for S3.
    pub fn new(settings: &FilesConfig, scratch: Directory, chain: &Chain) -> io::Result<S3> {
        let bucket = settings.s3_bucket.clone().unwrap_or_default();
        let http = settings.s3_endpoint.as_ref().is_some_and(|endpoint| endpoint.scheme() == "http");
        let mut builder = AmazonS3Builder::new()
            .with_region(settings.s3_region.clone().unwrap_or_default())
            // The certificate of S3 does not cover a bucket name with a dot as a subdomain.
            .with_virtual_hosted_style_request(settings.s3_endpoint.is_none() && !bucket.contains('.'))
            .with_bucket_name(bucket)
            .with_credentials(Arc::new(ChainCredentials(chain.clone())))
            .with_retry(RetryConfig {
                backoff: BackoffConfig { max_backoff: Duration::from_secs(5), ..BackoffConfig::default() },
                // Only the time is limited.
                max_retries: usize::MAX,
                retry_timeout: RETRY_FOR,
            });
        if let Some(endpoint) = &settings.s3_endpoint {
            builder = builder.with_endpoint(endpoint.as_str().trim_end_matches('/'));
        }
        if let Some(key) = &settings.s3_kms_key {
            builder = builder.with_sse_kms_encryption(key);
        }
        let within = |timeout| {
            let options = ClientOptions::new().with_timeout(timeout).with_connect_timeout(CONNECT_TIMEOUT);
            builder.clone().with_client_options(options.with_allow_http(http)).build().map_err(failed)
        };
        let client = reqwest::Client::builder().timeout(TIMEOUT).connect_timeout(CONNECT_TIMEOUT);
        Ok(S3(Arc::new(Inner {
            chain: chain.clone(),
            client: within(TIMEOUT)?,
            completing: within(COMPLETION_TIMEOUT)?,
            http: client.build().map_err(io::Error::other)?,
            prefix: settings.s3_prefix.trim_matches('/').to_owned(),
            scratch,
            buffers: Buffers { free: Arc::default(), permits: Arc::new(Semaphore::new(BUFFERS)) },
        })))
    }

    /// Directory of the parts that are not full yet.
    pub fn scratch(&self) -> &Directory {
        &self.0.scratch
    }

    /// Waits for a free buffer.
    pub async fn buffer(&self) -> Buffer {
        let Buffers { free, permits } = &self.0.buffers;
        // The semaphore is never closed.
        let permit = permits.clone().acquire_owned().await.ok();
        let bytes = free.lock().pop().unwrap_or_default();
        Buffer { bytes, free: free.clone(), _permit: permit }
    }

    pub async fn seal(&self, place: &str, length: u64, progress: &WriterState) -> io::Result<()> {
        let pending = PendingParts::read(Some(progress))?;
        let rest = pending.rest(length)?;
        // The piece has been sealed before, or its writer had written more than it could report.
        if length == 0 || self.size(place).await?.is_some_and(|size| size >= length) {
            return Ok(());
        }
        let tail = self.tail(&pending, rest).await?;
        self.complete(place, length, &pending, tail).await
    }

    /// The bytes after the parts.
    pub async fn tail(&self, pending: &PendingParts, rest: u64) -> io::Result<Bytes> {
        let Some(name) = pending.tail.as_ref().filter(|_| rest > 0) else { return Ok(Bytes::new()) };
        let mut buffer = self.buffer().await;
        buffer.bytes().clear();
        let found = self.0.client.get(&self.key(name)?).await.map_err(failed)?;
        if found.meta.size != rest {
            return Err(io::Error::other(format!("a tail has {} bytes, not {rest}", found.meta.size)));
        }
        let mut stream = found.into_stream();
        while let Some(bytes) = stream.try_next().await.map_err(failed)? {
            buffer.bytes().extend_from_slice(&bytes);
        }
        if buffer.bytes().len() as u64 == rest {
            Ok(Bytes::from_owner(buffer))
        } else {
            Err(io::ErrorKind::UnexpectedEof.into())
        }
    }

    /// Combines the parts and the rest into one object. S3 checks that each part has the entity tag that we pass.
    pub async fn complete(
        &self,
        place: &str,
        length: u64,
        pending: &PendingParts,
        rest: Bytes,
    ) -> io::Result<()> {
        let upload = match &pending.upload {
            Some(upload) if !pending.parts.is_empty() => upload,
            upload => {
                if length > 0 {
                    self.put(place, rest).await?;
                }
                return match upload {
                    Some(upload) => self.abort(place, upload).await,
                    None => Ok(()),
                };
            }
        };
        let key = self.key(place)?;
        let mut tries = 0;
        loop {
            tries += 1;
            let once = async {
                let mut parts = pending.parts.clone();
                if !rest.is_empty() {
                    parts.push(self.put_part(place, upload, parts.len(), rest.clone()).await?);
                }
                let parts = parts.into_iter().map(|content_id| PartId { content_id }).collect();
                self.0.completing.complete_multipart(&key, upload, parts).await.map_err(failed)
            };
            let Err(error) = once.await else { return Ok(()) };
            // The response to an earlier attempt may have been lost.
            if self.size(place).await?.is_some_and(|size| size >= length) {
                return Ok(());
            }
            if tries == TRIES {
                return Err(error);
            }
        }
    }

    pub async fn read(&self, place: &str, start: u64, end: u64) -> io::Result<S3Reader> {
        let left = end.saturating_sub(start);
        if left == 0 {
            return Ok(S3Reader { stream: futures_util::stream::empty().boxed(), left });
        }
        let range = GetOptions { range: Some(GetRange::Bounded(start..end)), ..GetOptions::default() };
        let found = self.0.client.get_opts(&self.key(place)?, range).await.map_err(failed)?;
        Ok(S3Reader { stream: found.into_stream(), left })
    }

    pub async fn presign(
        &self,
        place: &str,
        length: u64,
        disposition: &str,
        media_type: &str,
    ) -> io::Result<Option<Url>> {
        if self.size(place).await? != Some(length) {
            return Ok(None);
        }
        let options = SignedUrlOptions::default().with_query([
            ("response-cache-control", "private, no-store"),
            ("response-content-disposition", disposition),
            ("response-content-type", media_type),
        ]);
        let key = self.key(place)?;
        let signed_for = self.signed_for().await?;
        let signed = self.0.client.signed_url_opts(Method::GET, &key, signed_for, &options).await;
        signed.map(Some).map_err(failed)
    }

    /// Validity of a signed URL. The URL states its own end, which must not be later than that of the credentials that sign
    /// it.
    async fn signed_for(&self) -> io::Result<Duration> {
        let left = self.0.chain.left(aws::CREDENTIALS_TIMEOUT).await.map_err(io::Error::other)?;
        Ok(left.map_or(SIGNED_FOR, |left| SIGNED_FOR.min(left)).max(Duration::from_secs(1)))
    }

    /// Size of an object; `None`: it does not exist.
    pub async fn size(&self, name: &str) -> io::Result<Option<u64>> {
        match self.0.client.head(&self.key(name)?).await {
            Ok(found) => Ok(Some(found.size)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(failed(error)),
        }
    }

    pub async fn put(&self, name: &str, bytes: Bytes) -> io::Result<()> {
        let putting = self.0.client.put(&self.key(name)?, PutPayload::from_bytes(bytes)).await;
        putting.map(|_| ()).map_err(failed)
    }

    pub async fn begin_upload(&self, place: &str) -> io::Result<String> {
        // The request has no bytes, but needs a connection: the number of buffers also limits the connections of
        // hundreds of uploads that begin at once.
        let _buffer = self.buffer().await;
        self.0.client.create_multipart(&self.key(place)?).await.map_err(failed)
    }

    /// Sends a part and returns its entity tag.
    pub async fn put_part(
        &self,
        place: &str,
        upload: &str,
        index: usize,
        bytes: Bytes,
    ) -> io::Result<String> {
        let (key, upload) = (self.key(place)?, upload.to_owned());
        let putting = self.0.client.put_part(&key, &upload, index, PutPayload::from_bytes(bytes));
        putting.await.map(|part| part.content_id).map_err(failed)
    }

    pub async fn remove(&self, name: &str, progress: Option<&WriterState>) -> io::Result<()> {
        if progress.is_some() {
            let pending = PendingParts::read(progress)?;
            if let Some(upload) = &pending.upload {
                self.abort(name, upload).await?;
            }
            if let Some(tail) = &pending.tail {
                self.delete(tail).await?;
            }
        }
        self.delete(name).await
    }

    async fn delete(&self, name: &str) -> io::Result<()> {
        match self.0.client.delete(&self.key(name)?).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(failed(error)),
        }
    }

    pub async fn abort(&self, place: &str, upload: &str) -> io::Result<()> {
        match self.0.client.abort_multipart(&self.key(place)?, &upload.to_owned()).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(failed(error)),
        }
    }

    pub async fn list_old(&self, before: SystemTime) -> io::Result<Vec<StrayBlob>> {
        let before = DateTime::<Utc>::from(before);
        let prefix = Path::parse(&self.0.prefix).map_err(io::Error::other)?;
        let prefix = Some(prefix).filter(|prefix| !prefix.as_ref().is_empty());
        let mut objects = self.0.client.list(prefix.as_ref());
        let mut found = Vec::new();
        while let Some(object) = objects.try_next().await.map_err(failed)? {
            if object.last_modified < before
                && let Some((name, place)) = self.name(object.location.as_ref())
            {
                found.push(StrayBlob { name, place });
            }
        }
        Ok(found)
    }

    pub async fn list_open_uploads(&self, before: SystemTime) -> io::Result<Vec<OpenUpload>> {
        let before = DateTime::<Utc>::from(before);
        let (mut found, mut after) = (Vec::new(), None);
        loop {
            let page = self.list_uploads_after(after.as_ref()).await?;
            for upload in page.uploads {
                if upload.initiated < before
                    && let Some((name, place)) = self.name(&upload.key)
                    && name == place
                {
                    found.push(OpenUpload { place, id: upload.upload_id });
                }
            }
            after = page.next_key_marker.zip(page.next_upload_id_marker).filter(|_| page.is_truncated);
            if after.is_none() {
                return Ok(found);
            }
        }
    }

    async fn list_uploads_after(&self, after: Option<&(String, String)>) -> io::Result<UploadsPage> {
        let mut options = SignedUrlOptions::default().with_query([("uploads", "")]);
        if !self.0.prefix.is_empty() {
            options = options.with_query([("prefix", format!("{}/", self.0.prefix))]);
        }
        if let Some((key, upload)) = after {
            options = options.with_query([("key-marker", key), ("upload-id-marker", upload)]);
        }
        let bucket = Path::default();
        let url = self.0.client.signed_url_opts(Method::GET, &bucket, SIGNED_FOR, &options);
        // The URL is a secret as long as it is valid: no error may contain it.
        let without_url = |error: reqwest::Error| io::Error::other(error.without_url());
        let answer = self.0.http.get(url.await.map_err(failed)?).send().await.map_err(without_url)?;
        let text = answer.error_for_status().map_err(without_url)?.text().await.map_err(without_url)?;
        quick_xml::de::from_str(&text).map_err(io::Error::other)
    }

    fn key(&self, name: &str) -> io::Result<Path> {
        let key = match self.0.prefix.as_str() {
            "" => Path::parse(name),
            prefix => Path::parse(format!("{prefix}/{name}")),
        };
        key.map_err(io::Error::other)
    }

    /// Our name of an object, and the place that it belongs to. `None`: the name is not of our form, and the object is
    /// left alone.
    fn name(&self, key: &str) -> Option<(String, String)> {
        let name = key.strip_prefix(&self.0.prefix)?.trim_start_matches('/');
        Some((name.to_owned(), place_of(name)?))
    }
}

/// The place of a name, which is either that of a sealed piece or that of a tail.
fn place_of(name: &str) -> Option<String> {
    let (folder, rest) = name.split_once('/')?;
    let mut parts = rest.split('.');
    let (file, start, writer) = (parts.next()?, parts.next()?, parts.next()?);
    let hex = |text: &str, digits: usize| text.len() == digits && text.bytes().all(|b| b.is_ascii_hexdigit());
    let tail = parts.next();
    let ours = hex(folder, 2)
        && Uuid::parse_str(file).is_ok()
        && start.parse::<u64>().is_ok()
        && hex(writer, 32)
        && tail.is_none_or(|tail| hex(tail, 32))
        && parts.next().is_none();
    ours.then(|| format!("{folder}/{file}.{start}.{writer}"))
}

/// Response to `ListMultipartUploads`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct UploadsPage {
    #[serde(default)]
    is_truncated: bool,
    #[serde(default)]
    next_key_marker: Option<String>,
    #[serde(default)]
    next_upload_id_marker: Option<String>,
    #[serde(default, rename = "Upload")]
    uploads: Vec<UploadEntry>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct UploadEntry {
    key: String,
    upload_id: String,
    initiated: DateTime<Utc>,
}

fn failed(error: object_store::Error) -> io::Error {
    match error {
        object_store::Error::NotFound { .. } => io::Error::new(io::ErrorKind::NotFound, error),
        error => io::Error::other(error),
    }
}

/// Provides object_store with the credentials of the process. Its own chain is separate, and requests new credentials
/// for each client, and only when the old ones have expired or are about to.
#[derive(Debug)]
struct ChainCredentials(Chain);

impl CredentialProvider for ChainCredentials {
    type Credential = AwsCredential;

    fn get_credential<'a, 'b>(&'a self) -> BoxFuture<'b, object_store::Result<Arc<AwsCredential>>>
    where
        'a: 'b,
        Self: 'b,
    {
        Box::pin(async move {
            let found = self.0.credentials(aws::CREDENTIALS_TIMEOUT).await;
            let found = found
                .map_err(|error| object_store::Error::Generic { store: "S3", source: Box::new(error) })?;
            Ok(Arc::new(AwsCredential {
                key_id: found.access_key_id().to_owned(),
                secret_key: found.secret_access_key().to_owned(),
                token: found.session_token().map(str::to_owned),
            }))
        })
    }
}

/// Reader of a piece in an object.
pub struct S3Reader {
    stream: BoxStream<'static, object_store::Result<Bytes>>,
    left: u64,
}

impl S3Reader {
    pub async fn next(&mut self) -> io::Result<Option<Bytes>> {
        if self.left == 0 {
            return Ok(None);
        }
        match self.stream.try_next().await.map_err(failed)? {
            Some(bytes) if bytes.len() as u64 <= self.left => {
                self.left -= bytes.len() as u64;
                Ok(Some(bytes))
            }
            _ => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Blobs;
    use super::*;
    use crate::domain::ids::FileId;

    #[test]
    fn names_contain_their_place_and_foreign_names_do_not() {
        let place = Blobs::new_place(FileId::now_v7(), 5, Uuid::now_v7());
        assert_eq!(place_of(&place), Some(place.clone()));
        assert_eq!(place_of(&format!("{place}.{}", Uuid::now_v7().simple())), Some(place.clone()));
        for stranger in ["", "a", "logs/2026/x.gz", &format!("{place}.gz"), &format!("x{place}")] {
            assert_eq!(place_of(stranger), None, "{stranger}");
        }
    }

    #[test]
    fn a_page_of_uploads_is_read() {
        let page: UploadsPage = quick_xml::de::from_str(
            "<?xml version=\"1.0\"?><ListMultipartUploadsResult xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">
             <Bucket>b</Bucket><KeyMarker></KeyMarker><NextKeyMarker>k</NextKeyMarker>
             <NextUploadIdMarker>u</NextUploadIdMarker><MaxUploads>1000</MaxUploads><IsTruncated>true</IsTruncated>
             <Upload><Key>a/b</Key><UploadId>1</UploadId><Initiator><ID>x</ID></Initiator>
             <Initiated>2010-11-10T20:48:33.000Z</Initiated></Upload>
             <Upload><Key>a/c</Key><UploadId>2</UploadId><Initiated>2010-11-10T20:48:33.000Z</Initiated></Upload>
             </ListMultipartUploadsResult>",
        )
        .unwrap();
        assert_eq!((page.uploads.len(), page.is_truncated), (2, true));
        assert_eq!(page.next_key_marker.zip(page.next_upload_id_marker), Some(("k".into(), "u".into())));
    }
}
