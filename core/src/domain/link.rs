//! Usage of share links. What counts is the number of bytes served, in whichever requests.
//!
//! A file is divided into parts. A **download** is used up once the bytes served of every part add up to its size:
//! one request for the whole file is one download, and so are several requests for a piece each, in any order. Bytes
//! that are fetched twice (by a client that probes first, or resumes somewhat before the point where it broke off) use
//! up nothing, as long as they stay below half of the file per download.

/// Number of parts of a file. Bytes that are fetched twice in one part do not count towards another.
const PARTS: u64 = 256;

/// Usage of a link whose downloads are limited or counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Usage {
    /// Length of the file in bytes.
    pub length: u64,
    /// Number of complete copies that were served.
    pub downloads: u64,
    /// Bytes of all responses; those in progress count in full.
    pub bytes: u64,
    /// Bytes served of each part beyond the complete copies. Empty: none.
    pub given: Vec<u64>,
}

/// Decision on whether a response may begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    Granted,
    /// Responses in progress leave no bytes for it. If one of them breaks off, it may be granted.
    Later,
    Never,
}

impl Usage {
    /// Whether a link for `most` downloads is used up.
    pub fn is_used_up(&self, most: u64) -> bool {
        self.downloads >= most
    }

    /// Whether a link for `most` downloads may serve the bytes from `start` to before `end`.
    pub fn admit(&self, most: u64, start: u64, end: u64) -> Admission {
        let given = self.downloads.saturating_mul(self.length).saturating_add(self.given.iter().sum());
        // The previous version counts complete copies only.
        let bytes = self.bytes.max(given);
        if self.is_used_up(most) {
            return Admission::Never;
        }
        let all = most.saturating_mul(self.length);
        let fits = |bytes: u64| {
            if end - start == self.length {
                // A request for the whole file begins only while a copy is left.
                self.length == 0 || bytes / self.length < most
            } else {
                // A client that fetches parts in parallel may still have a response open that has reserved all bytes.
                bytes.saturating_add(end - start) < all.saturating_mul(2)
                    && given.saturating_add(end - start) <= all.saturating_add(all / 2)
            }
        };
        match (fits(bytes), fits(given)) {
            (true, _) => Admission::Granted,
            (false, true) => Admission::Later,
            (false, false) => Admission::Never,
        }
    }

    /// Counts `bytes` served bytes from `start` on.
    pub fn give(&mut self, start: u64, bytes: u64) {
        if self.length == 0 {
            self.downloads += 1;
            return;
        }
        let parts = PARTS.min(self.length);
        if self.given.len() as u64 != parts {
            self.given = vec![0; parts as usize];
        }
        let begin = |part: u64| (u128::from(part) * u128::from(self.length) / u128::from(parts)) as u64;
        let end = start.saturating_add(bytes);
        let mut copies = u64::MAX;
        for (part, given) in (0..parts).zip(&mut self.given) {
            let (first, last) = (begin(part), begin(part + 1));
            *given += end.min(last).saturating_sub(start.max(first));
            copies = copies.min(*given / (last - first));
        }
        if copies > 0 {
            self.downloads += copies;
            for (part, given) in (0..parts).zip(&mut self.given) {
                *given -= copies * (begin(part + 1) - begin(part));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn fresh(length: u64) -> Usage {
        Usage { length, downloads: 0, bytes: 0, given: Vec::new() }
    }

    /// Requests a range and serves it immediately if it is granted.
    fn take(usage: &mut Usage, most: u64, start: u64, end: u64) -> Admission {
        let admission = usage.admit(most, start, end);
        if admission == Admission::Granted {
            usage.bytes += end - start;
            usage.give(start, end - start);
        }
        admission
    }

    #[test]
    fn a_copy_is_one_download_however_it_is_divided() {
        for length in [2, 255, 256, 257, 1_000, 6 << 30] {
            let mut usage = fresh(length);
            assert_eq!(take(&mut usage, 2, 0, length), Admission::Granted);
            assert_eq!((usage.downloads, usage.given.iter().sum::<u64>()), (1, 0));
            let middle = length / 2;
            for (start, end) in [(middle, length), (0, middle)] {
                assert_eq!(take(&mut usage, 2, start, end), Admission::Granted, "{length}");
            }
            assert_eq!(usage.downloads, 2);
            assert_eq!(take(&mut usage, 2, 0, 1), Admission::Never);
        }
        let mut empty = fresh(0);
        assert_eq!(take(&mut empty, 1, 0, 0), Admission::Granted);
        assert_eq!(take(&mut empty, 1, 0, 0), Admission::Never);
    }

    #[test]
    fn downloads_in_progress_are_waited_for() {
        let mut usage = fresh(1_000);
        usage.bytes = 1_000;
        assert_eq!(usage.admit(1, 0, 1_000), Admission::Later);
        assert_eq!(usage.admit(1, 500, 1_000), Admission::Granted, "parts at once");
        usage.bytes = 1_900;
        assert_eq!(usage.admit(1, 500, 1_000), Admission::Later);
        usage.give(0, 1_000);
        assert_eq!(usage.admit(1, 500, 1_000), Admission::Never);
    }

    #[test]
    fn the_previous_version_counts_only_whole_copies() {
        let usage = Usage { downloads: 1, ..fresh(1_000) };
        assert_eq!(usage.admit(1, 0, 1), Admission::Never);
        assert_eq!(usage.admit(2, 0, 1_000), Admission::Granted);
    }

    proptest! {
        #[test]
        fn no_order_of_requests_gets_more_than_was_granted(
            length in 1_u64..2_000,
            most in 1_u64..4,
            requested in proptest::collection::vec((0_u64..2_000, 1_u64..2_000), 1..200),
        ) {
            let mut usage = fresh(length);
            for (start, bytes) in requested {
                let start = start % length;
                take(&mut usage, most, start, (start + bytes).min(length));
            }
            prop_assert!(usage.bytes < 2 * most * length, "{usage:?}");
            prop_assert!(usage.downloads < 2 * most);
            prop_assert_eq!(usage.bytes, usage.downloads * length + usage.given.iter().sum::<u64>());
        }
    }
}
