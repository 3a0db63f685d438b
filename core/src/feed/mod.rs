//! Feeds: files of prices as shops and programs write them, read record by record into reported observations.

pub mod encoding;
pub mod error;
pub mod input;
pub mod mapping;
pub mod merchant;
pub mod options;
pub mod quotes;
pub mod records;
pub mod rows;
pub mod sorting;
pub mod xml;
