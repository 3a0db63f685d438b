//! The response type for a file.

use chrono::{DateTime, Utc};
use serde::Serialize;

use crate::domain::ids::FileId;
use crate::store::files::{FileState, StoredFile};

/// A file in a response, complete or being uploaded.
#[derive(Serialize)]
pub struct FileResponse {
    id: FileId,
    name: String,
    media_type: String,
    state: FileState,
    /// Length in bytes; `null`: not known yet.
    length: Option<i64>,
    /// Number of bytes that are stored durably.
    offset: i64,
    /// SHA-256 in hexadecimal digits, once the file is complete.
    sha256: Option<String>,
    /// Path of the file's bytes, once it is complete.
    content: Option<String>,
    created_at: DateTime<Utc>,
    completed_at: Option<DateTime<Utc>>,
    /// Time at which the file is deleted, less than 14 days after its creation.
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
