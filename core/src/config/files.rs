//! `[files]`: uploads, and where their bytes are stored.

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use url::Url;

use super::reader::Reader;

/// Size in bytes of the largest file in S3: 10,000 parts of 5 MiB.
pub const MAX_BYTES_IN_S3: i64 = 10_000 * (5 << 20);

/// Mount point of EFS on the appliance.
pub const EFS_MOUNTED_AT: &str = "/var/lib/salebell/files";

/// `[files]`: the store of files, and the limits of uploads.
#[derive(Clone, Debug)]
pub struct FilesConfig {
    /// `files.store`: `directory` or `s3`. Must not be changed while there are files.
    pub store: FileStore,
    /// `files.directory`: folder that holds the bytes; a local disk for one instance, EFS for several. With S3, a
    /// folder on a local disk where parts are collected before they are sent: some 20 MiB for each upload in flight.
    pub directory: PathBuf,
    /// `files.mounted`: whether `directory` is on a separate file system, such as EFS. A process that finds it on the
    /// root file system does not start, and one that loses it refuses uploads until it is back.
    pub mounted: bool,
    /// `files.efs`: DNS name of the EFS file system that an instance of the appliance mounts at `files.directory`, with
    /// TLS.
    pub efs: Option<String>,
    /// `files.reserve_bytes`: bytes that must stay free on the file system of `files.directory`.
    pub reserve_bytes: u64,
    /// `files.s3_bucket`: name of the bucket; required with `s3`.
    pub s3_bucket: Option<String>,
    /// `files.s3_region`: region of the bucket; required with `s3`.
    pub s3_region: Option<String>,
    /// `files.s3_endpoint`: address of an S3 other than that of AWS; the only one that may be plain http.
    pub s3_endpoint: Option<Url>,
    /// `files.s3_prefix`: folder of the bucket that belongs only to this deployment. Objects below it that look like
    /// ours are removed if no file refers to them.
    pub s3_prefix: String,
    /// `files.s3_kms_key`: KMS key that encrypts objects (SSE-KMS); without it, the bucket's default applies.
    pub s3_kms_key: Option<String>,
    /// `files.presign`: whether downloads are redirected to S3.
    pub presign: bool,
    /// `files.max_bytes`: size of the largest file.
    pub max_bytes: i64,
    /// `files.bytes_per_account`: most bytes of all files of an account together.
    pub bytes_per_account: i64,
    /// `files.files_per_account`: most files of an account, finished or not.
    pub files_per_account: i64,
    /// `files.uploads_in_flight`: most concurrent requests that send bytes to this process.
    pub uploads_in_flight: usize,
    /// `files.uploads_in_flight_per_account`: most concurrent requests of one account that send bytes to this process.
    pub uploads_in_flight_per_account: usize,
    /// `files.min_bytes_per_minute`: lowest rate of an upload. A slower request is ended; what it sent is kept.
    pub min_bytes_per_minute: u64,
    /// `files.slow_after_s`: time for which a request may be slower than `files.min_bytes_per_minute`.
    pub slow_after: Duration,
}

/// Kind of store for the bytes of files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileStore {
    Directory,
    S3,
}

impl FromStr for FileStore {
    type Err = &'static str;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "directory" => Ok(FileStore::Directory),
            "s3" => Ok(FileStore::S3),
            _ => Err("must be directory or s3"),
        }
    }
}

impl FilesConfig {
    pub(super) fn read(r: &mut Reader) -> Option<FilesConfig> {
        let files = FilesConfig {
            store: r.get("files.store")?,
            directory: r.get("files.directory")?,
            mounted: r.get("files.mounted")?,
            efs: r.optional("files.efs").filter(|name| !name.is_empty()),
            reserve_bytes: r.get("files.reserve_bytes")?,
            s3_bucket: r.optional("files.s3_bucket"),
            s3_region: r.optional("files.s3_region"),
            s3_endpoint: r.optional("files.s3_endpoint").and_then(|text| read_endpoint(r, &text)),
            s3_prefix: r.get("files.s3_prefix")?,
            s3_kms_key: r.optional("files.s3_kms_key").filter(|key| !key.is_empty()),
            presign: r.get("files.presign")?,
            max_bytes: r.get("files.max_bytes")?,
            bytes_per_account: r.get("files.bytes_per_account")?,
            files_per_account: r.get("files.files_per_account")?,
            uploads_in_flight: r.get("files.uploads_in_flight")?,
            uploads_in_flight_per_account: r.get("files.uploads_in_flight_per_account")?,
            min_bytes_per_minute: r.get("files.min_bytes_per_minute")?,
            slow_after: r.seconds("files.slow_after_s")?,
        };
        for (key, value) in [
            ("files.max_bytes", files.max_bytes.max(0) as u64),
            ("files.uploads_in_flight", files.uploads_in_flight as u64),
            ("files.uploads_in_flight_per_account", files.uploads_in_flight_per_account as u64),
        ] {
            if value < 1 {
                r.problem(key, "must be at least 1");
            }
        }
        if let Some(name) = &files.efs {
            // The name becomes a line of the tunnel's configuration.
            let plain = |label: &str| {
                !label.is_empty()
                    && !label.starts_with('-')
                    && label.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
            };
            if !(name.len() < 254 && name.contains('.') && name.split('.').all(plain)) {
                let example = "fs-0123456789abcdef0.efs.eu-central-1.amazonaws.com";
                r.problem("files.efs", format!("must be a DNS name such as {example}"));
            }
            if files.store != FileStore::Directory || !files.mounted {
                r.problem("files.efs", "needs files.store = directory and files.mounted = true");
            }
            if files.directory != Path::new(EFS_MOUNTED_AT) {
                r.problem(
                    "files.efs",
                    format!("is mounted at {EFS_MOUNTED_AT}; files.directory must be that"),
                );
            }
        }
        if files.store == FileStore::S3 {
            for (key, value) in [("files.s3_bucket", &files.s3_bucket), ("files.s3_region", &files.s3_region)]
            {
                if value.as_deref().is_none_or(str::is_empty) {
                    r.problem(key, "is required with files.store = s3");
                }
            }
            let folders = files.s3_prefix.trim_matches('/').split('/');
            let plain = |folder: &str| {
                !folder.starts_with('.')
                    && folder.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
            };
            if !folders.into_iter().all(plain) || files.s3_prefix.contains("//") {
                r.problem("files.s3_prefix", "must be folders of letters, digits, -, _ and .");
            }
            if files.max_bytes > MAX_BYTES_IN_S3 {
                r.problem(
                    "files.max_bytes",
                    format!("must be at most {MAX_BYTES_IN_S3} with files.store = s3"),
                );
            }
        }
        Some(files)
    }
}

/// Address of an S3 other than that of AWS.
fn read_endpoint(r: &mut Reader, text: &str) -> Option<Url> {
    match Url::parse(text) {
        Ok(url) if matches!(url.scheme(), "http" | "https") && url.has_host() => Some(url),
        _ => {
            r.problem("files.s3_endpoint", "must be an address of http or https");
            None
        }
    }
}
