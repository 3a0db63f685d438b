//! Checksums that a client states for the body of one request.

use axum::http::{HeaderMap, header};
use sha1::Sha1;
use sha2::{Digest, Sha256, Sha512};

use super::headers::{header_text, invalid_header};
use crate::error::{Error, Kind, Result};
use crate::http::files::uploads::tus_headers::{Checksum, ChecksumAlgorithm, parse_checksum, parse_digest};

/// The header of a checksum.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Source {
    /// `Upload-Checksum` of tus.
    Tus,
    /// `Content-Digest` (RFC 9530), which requests of every protocol may have.
    Content,
    /// `Repr-Digest`, if the body is the whole file.
    Whole,
}

impl Source {
    fn header(self) -> &'static str {
        match self {
            Source::Tus => "Upload-Checksum",
            Source::Content => "Content-Digest",
            Source::Whole => "Repr-Digest",
        }
    }

    /// Reads the checksums of the header. `None`: the header is missing.
    ///
    /// # Errors
    /// `Malformed` if a header cannot be parsed.
    fn read(self, headers: &HeaderMap) -> Result<Option<Vec<Checksum>>> {
        let Some(text) = header_text(headers, self.header())? else { return Ok(None) };
        let checksums = match self {
            Source::Tus => parse_checksum(&text).map(|checksum| vec![checksum]),
            Source::Content | Source::Whole => parse_digest(&text),
        };
        checksums.map(Some).map_err(|problem| invalid_header(self.header(), &problem))
    }
}

/// Checksums that the body must have; otherwise none of it is kept.
#[derive(Default)]
pub struct Expected {
    given: Vec<(Source, Checksum)>,
    /// Headers that follow the body as trailers.
    in_trailers: Vec<Source>,
}

impl Expected {
    /// Reads the checksums of a request of tus.
    ///
    /// # Errors
    /// `Malformed` if a header cannot be parsed.
    pub fn of_tus(headers: &HeaderMap) -> Result<Expected> {
        Expected::read(headers, &[Source::Tus, Source::Content])
    }

    /// Reads the checksums of a request of another protocol whose body is a part of a file.
    ///
    /// # Errors
    /// `Malformed` if a header cannot be parsed.
    pub fn of_part(headers: &HeaderMap) -> Result<Expected> {
        Expected::read(headers, &[Source::Content])
    }

    /// Reads the checksums of a request whose body is a whole file.
    ///
    /// # Errors
    /// `Malformed` if a header cannot be parsed.
    pub fn of_whole(headers: &HeaderMap) -> Result<Expected> {
        Expected::read(headers, &[Source::Content, Source::Whole])
    }

    fn read(headers: &HeaderMap, sources: &[Source]) -> Result<Expected> {
        let mut expected = Expected::default();
        let named = headers.get_all(header::TRAILER).iter().filter_map(|value| value.to_str().ok());
        let named: Vec<&str> = named.flat_map(|names| names.split(',')).map(str::trim).collect();
        for &source in sources {
            match source.read(headers)? {
                Some(checksums) => expected.given.extend(checksums.into_iter().map(|one| (source, one))),
                None if named.iter().any(|name| name.eq_ignore_ascii_case(source.header())) => {
                    expected.in_trailers.push(source);
                }
                None => {}
            }
        }
        Ok(expected)
    }
}

/// Checksums of a body that is being received.
#[derive(Default)]
pub struct Sum {
    sha1: Option<Sha1>,
    sha256: Option<Box<Sha256>>,
    sha512: Option<Box<Sha512>>,
}

impl Sum {
    pub fn new(expected: &Expected) -> Sum {
        let mut sum = Sum::default();
        let of_trailers = expected.in_trailers.iter().flat_map(|source| match source {
            Source::Tus => [ChecksumAlgorithm::Sha1, ChecksumAlgorithm::Sha256],
            Source::Content | Source::Whole => [ChecksumAlgorithm::Sha256, ChecksumAlgorithm::Sha512],
        });
        for algorithm in expected.given.iter().map(|(_, checksum)| checksum.algorithm).chain(of_trailers) {
            match algorithm {
                ChecksumAlgorithm::Sha1 => sum.sha1 = Some(Sha1::new()),
                ChecksumAlgorithm::Sha256 => sum.sha256 = Some(Box::default()),
                ChecksumAlgorithm::Sha512 => sum.sha512 = Some(Box::default()),
            }
        }
        sum
    }

    /// Whether no checksum is computed, and any body is valid.
    pub fn is_none(&self) -> bool {
        self.sha1.is_none() && self.sha256.is_none() && self.sha512.is_none()
    }

    /// Adds the next bytes of the body.
    pub fn update(&mut self, bytes: &[u8]) {
        if let Some(sum) = &mut self.sha1 {
            sum.update(bytes);
        }
        if let Some(sum) = &mut self.sha256 {
            sum.update(bytes);
        }
        if let Some(sum) = &mut self.sha512 {
            sum.update(bytes);
        }
    }

    /// Compares the body with the expected checksums, some of which may be in `trailers`.
    ///
    /// # Errors
    /// `ChecksumMismatch` or `DigestMismatch` if the body does not match; `Malformed` if a trailer is missing or cannot
    /// be read.
    pub fn check(self, expected: &Expected, trailers: Option<&HeaderMap>) -> Result<()> {
        let mut wanted = expected.given.clone();
        for &source in &expected.in_trailers {
            let found = trailers.map(|trailers| source.read(trailers)).transpose()?.flatten();
            let missing = || Error::malformed(format!("The trailer {} is missing.", source.header()));
            wanted.extend(found.ok_or_else(missing)?.into_iter().map(|one| (source, one)));
        }
        let sha1 = self.sha1.map(|sum| sum.finalize().to_vec());
        let sha256 = self.sha256.map(|sum| sum.finalize().to_vec());
        let sha512 = self.sha512.map(|sum| sum.finalize().to_vec());
        for (source, checksum) in wanted {
            let value = match checksum.algorithm {
                ChecksumAlgorithm::Sha1 => &sha1,
                ChecksumAlgorithm::Sha256 => &sha256,
                ChecksumAlgorithm::Sha512 => &sha512,
            };
            if value.as_ref() != Some(&checksum.value) {
                let kind = match source {
                    Source::Tus => Kind::ChecksumMismatch,
                    Source::Content | Source::Whole => Kind::DigestMismatch,
                };
                let detail = format!("The body does not match {}; none of it was kept.", source.header());
                return Err(Error::new(kind, detail));
            }
        }
        Ok(())
    }
}
