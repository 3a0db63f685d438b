//! What the API says of a file.

use chrono::{DateTime, Utc};
use serde::Deserialize;
use uuid::Uuid;

/// The fields of a file that the commands use.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct FileInfo {
    pub(super) id: Uuid,
    pub(super) name: String,
    pub(super) state: String,
    pub(super) length: Option<u64>,
    pub(super) offset: u64,
    pub(super) sha256: Option<String>,
    pub(super) expires_at: DateTime<Utc>,
}
