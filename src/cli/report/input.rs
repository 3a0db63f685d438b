//! Input of a report: a file, or standard input.

use std::os::fd::AsFd;
use std::path::PathBuf;

use anyhow::{Context as _, anyhow};

use crate::feed::input::{self, FeedFormat, Input};

/// Source of the lines.
#[derive(Clone, Debug)]
pub enum ReportSource {
    StandardInput,
    File(PathBuf),
}

impl ReportSource {
    /// Parses the argument; `-` is standard input.
    pub fn parse(text: &str) -> Self {
        if text == "-" { Self::StandardInput } else { Self::File(PathBuf::from(text)) }
    }

    /// Opens the source and detects its format.
    ///
    /// # Errors
    /// Fails if it cannot be read, or is recognizably something else.
    pub async fn open(&self) -> anyhow::Result<Input> {
        let input = match self {
            Self::StandardInput => {
                let input = std::io::stdin().as_fd().try_clone_to_owned().context("no standard input")?;
                input::open(tokio::fs::File::from_std(input.into()), None, None).await?
            }
            Self::File(path) => {
                let open = async {
                    let file = tokio::fs::File::open(path).await?;
                    let metadata = file.metadata().await?;
                    Ok::<_, std::io::Error>((file, metadata.is_file().then_some(metadata.len())))
                };
                let (file, size) = open.await.with_context(|| format!("cannot open {}", path.display()))?;
                input::open(file, Some(path), size).await?
            }
        };
        match input.format {
            FeedFormat::Xml => Err(anyhow!("the input is XML; upload it and import it as a file")),
            _ => Ok(input),
        }
    }
}
