//! Uploads, downloads and share links, on a directory and on S3.

mod clocks;
pub mod downloads;
mod faults;
pub mod kills;
mod life;
mod links;
mod mounts;
mod pauses;
mod resumable_uploads;
mod s3;
mod takeovers;
mod upload_clients;
pub mod uploads;
