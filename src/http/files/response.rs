//! The response type for a file.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::domain::ids::FileId;
use crate::store::files::{FileState, StoredFile};

/// State of a file that its owner can see.
#[derive(Clone, Copy, Deserialize, ToSchema)]
#[schema(as = FileState)]
#[serde(rename_all = "snake_case")]
pub enum ListedState {
    Uploading,
    Complete,
}

/// A file in a response, complete or being uploaded.
#[derive(Serialize, ToSchema)]
#[schema(as = StoredFile, example = json!({
    "id": "01a0b6f2-3333-7d3e-8a4b-1c2d3e4f5a6b",
    "name": "prices.csv",
    "media_type": "text/csv",
    "state": "complete",
    "length": 146515,
    "offset": 146515,
    "sha256": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
    "content": "/v1/files/01a0b6f2-3333-7d3e-8a4b-1c2d3e4f5a6b/content",
    "created_at": "2026-11-29T10:00:00Z",
    "completed_at": "2026-11-29T10:00:05Z",
    "expires_at": "2026-12-12T10:00:00Z",
}))]
pub struct FileResponse {
    id: FileId,
    #[schema(min_length = 1, max_length = 255)]
    name: String,
    /// Media type without parameters, in lower case.
    #[schema(pattern = r"^[^/\sA-Z]+/[^/\sA-Z]+$")]
    media_type: String,
    #[schema(value_type = ListedState)]
    state: FileState,
    /// Length in bytes; `null`: not known yet.
    #[schema(required, minimum = 0)]
    length: Option<i64>,
    /// Number of bytes that are stored durably.
    #[schema(minimum = 0)]
    offset: i64,
    /// SHA-256 in hexadecimal digits, once the file is complete.
    #[schema(required, pattern = "^[0-9a-f]{64}$")]
    sha256: Option<String>,
    /// Path of the file's bytes, once it is complete.
    #[schema(required, pattern = "^/v1/files/[0-9a-f-]{36}/content$")]
    content: Option<String>,
    created_at: DateTime<Utc>,
    #[schema(required)]
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
