//! A file, as answers show it.

use chrono::{DateTime, Utc};
use serde::Serialize;

use crate::domain::ids::FileId;
use crate::store::files::{FileState, StoredFile};

/// A file, whole or on its way.
#[derive(Serialize)]
pub struct FileResponse {
    id: FileId,
    name: String,
    media_type: String,
    state: FileState,
    /// Bytes; `null`: not told yet.
    length: Option<i64>,
    /// How many of them are there for good.
    offset: i64,
    /// In hexadecimal digits, once it is complete.
    sha256: Option<String>,
    /// Where its bytes are fetched, once it is complete.
    content: Option<String>,
    created_at: DateTime<Utc>,
    completed_at: Option<DateTime<Utc>>,
    /// When it goes, less than 14 days after it was made.
    expires_at: DateTime<Utc>,
}

impl From<StoredFile> for FileResponse {
    fn from(file: StoredFile) -> FileResponse {
        let complete = file.is_complete();
        FileResponse {
            id: file.id,
            content: complete.then(|| format!("/v1/files/{}/content", file.id)),
            name: file.name,
            media_type: file.media_type,
            state: file.state,
            length: file.length,
            offset: file.stored,
            sha256: file.sha256.map(|sum| sum.iter().map(|byte| format!("{byte:02x}")).collect()),
            created_at: file.created_at,
            completed_at: file.completed_at,
            expires_at: file.expires_at,
        }
    }
}
