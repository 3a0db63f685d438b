//! External sorting: groups the observations of each offer, in the order of time, for feeds of any size. Observations
//! that do not fit into memory are sorted in runs on disk, which are merged.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, BufWriter, Seek, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::domain::observation::Observation;

/// Bytes of observations that are held in memory before they are written to a run.
const MEMORY: usize = 16 << 20;
/// Approximate size of an observation without its texts, in bytes.
const OVERHEAD: usize = 320;
/// Number of runs of a level that are merged into one run of the next. Each run being merged needs buffers of a third
/// of a MiB.
const MAX_RUNS: usize = 32;

/// An observation and its line in the input.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LineObservation {
    #[serde(rename = "l")]
    pub line: u64,
    #[serde(rename = "o")]
    pub observation: Observation,
}

impl LineObservation {
    /// Whether both observations are of the same offer.
    pub fn is_of_offer(&self, other: &LineObservation) -> bool {
        self.offer() == other.offer()
    }

    fn offer(&self) -> (&str, &str, &str) {
        let seen = &self.observation;
        (&seen.store, &seen.sku, &seen.region)
    }

    /// Sort order: by offer, then by time, then by line, so that the same input is always sorted the same way.
    fn compare(&self, other: &LineObservation) -> Ordering {
        let key = |seen: &LineObservation| (seen.observation.observed_at, seen.line);
        self.offer().cmp(&other.offer()).then_with(|| key(self).cmp(&key(other)))
    }

    fn size(&self) -> usize {
        let seen = &self.observation;
        let texts = [&seen.store_name, &seen.title, &seen.platform, &seen.url];
        let optional: usize = texts.into_iter().flatten().map(String::len).sum();
        OVERHEAD + seen.store.len() + seen.sku.len() + seen.region.len() + optional
    }
}

/// Sorter that accepts observations in any order.
pub struct Sorter {
    scratch: PathBuf,
    memory: usize,
    held: Vec<LineObservation>,
    held_bytes: usize,
    /// Runs by the number of merges that they have gone through. An observation is written once per level at most.
    levels: Vec<Vec<File>>,
}

impl Sorter {
    /// Makes a sorter that writes its runs to the folder `scratch`. They disappear when the process ends in any way.
    pub fn new(scratch: &Path) -> Sorter {
        Sorter {
            scratch: scratch.to_owned(),
            memory: MEMORY,
            // Allocated in full: growing would hold the observations twice for a moment.
            held: Vec::with_capacity(MEMORY / OVERHEAD),
            held_bytes: 0,
            levels: Vec::new(),
        }
    }

    /// Adds an observation.
    ///
    /// # Errors
    /// A run cannot be written.
    pub fn push(&mut self, seen: LineObservation) -> io::Result<()> {
        self.held_bytes += seen.size();
        self.held.push(seen);
        if self.held_bytes < self.memory { Ok(()) } else { self.spill() }
    }

    /// Writes the held observations to a run, and merges the runs of each level that is full.
    fn spill(&mut self) -> io::Result<()> {
        self.held.sort_unstable_by(LineObservation::compare);
        let mut run = Run::create(&self.scratch)?;
        for seen in self.held.drain(..) {
            run.write(&seen)?;
        }
        self.held_bytes = 0;
        let mut made = run.finish()?;
        for level in 0.. {
            if level == self.levels.len() {
                self.levels.push(Vec::new());
            }
            let runs = &mut self.levels[level];
            runs.push(made);
            if runs.len() < MAX_RUNS {
                break;
            }
            let mut merged = Run::create(&self.scratch)?;
            let mut runs = Merge::of(std::mem::take(runs))?;
            while let Some(seen) = runs.next()? {
                merged.write(&seen)?;
            }
            made = merged.finish()?;
        }
        Ok(())
    }

    /// Sorts all observations, offer by offer.
    ///
    /// # Errors
    /// A run cannot be written or read.
    pub fn finish(mut self) -> io::Result<Sorted> {
        if self.levels.is_empty() {
            self.held.sort_unstable_by(LineObservation::compare);
            return Ok(Sorted::Held(self.held.into_iter()));
        }
        if !self.held.is_empty() {
            self.spill()?;
        }
        // Frees the memory of the held observations for the read buffers.
        drop(self.held);
        Ok(Sorted::Runs(Merge::of(self.levels.into_iter().flatten().collect())?))
    }
}

/// Sorted observations.
pub enum Sorted {
    Held(std::vec::IntoIter<LineObservation>),
    Runs(Merge),
}

impl Sorted {
    /// Reads the next observation; `None` at the end.
    ///
    /// # Errors
    /// A run cannot be read.
    pub fn read_next(&mut self) -> io::Result<Option<LineObservation>> {
        match self {
            Sorted::Held(held) => Ok(held.next()),
            Sorted::Runs(runs) => runs.next(),
        }
    }
}

/// A sorted run that is being written: a line of JSON per observation, compressed.
struct Run {
    encoder: zstd::Encoder<'static, BufWriter<File>>,
}

impl Run {
    fn create(scratch: &Path) -> io::Result<Run> {
        fs::create_dir_all(scratch)?;
        let path = scratch.join(format!("salebell-run-{}", uuid::Uuid::now_v7().simple()));
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path)?;
        // A file without a name disappears with the process.
        fs::remove_file(path)?;
        let mut encoder = zstd::Encoder::new(BufWriter::new(file), 1)?;
        // Reading a run needs little more memory than this window, 2^17 bytes.
        encoder.window_log(17)?;
        Ok(Run { encoder })
    }

    fn write(&mut self, seen: &LineObservation) -> io::Result<()> {
        serde_json::to_writer(&mut self.encoder, seen)?;
        self.encoder.write_all(b"\n")
    }

    fn finish(self) -> io::Result<File> {
        let mut file = self.encoder.finish()?.into_inner().map_err(io::IntoInnerError::into_error)?;
        file.rewind()?;
        Ok(file)
    }
}

/// Sorted runs that are read as one.
pub struct Merge {
    heads: BinaryHeap<Head>,
}

struct Head {
    seen: LineObservation,
    rest: BufReader<zstd::Decoder<'static, BufReader<File>>>,
}

impl Merge {
    fn of(runs: Vec<File>) -> io::Result<Merge> {
        let mut heads = BinaryHeap::with_capacity(runs.len());
        for run in runs {
            let mut rest = BufReader::new(zstd::Decoder::new(run)?);
            if let Some(seen) = read_line(&mut rest)? {
                heads.push(Head { seen, rest });
            }
        }
        Ok(Merge { heads })
    }

    fn next(&mut self) -> io::Result<Option<LineObservation>> {
        let Some(mut head) = self.heads.pop() else { return Ok(None) };
        match read_line(&mut head.rest)? {
            None => Ok(Some(head.seen)),
            Some(next) => {
                let seen = std::mem::replace(&mut head.seen, next);
                self.heads.push(head);
                Ok(Some(seen))
            }
        }
    }
}

fn read_line(run: &mut impl BufRead) -> io::Result<Option<LineObservation>> {
    let mut line = Vec::new();
    match run.read_until(b'\n', &mut line)? {
        0 => Ok(None),
        _ => Ok(Some(serde_json::from_slice(&line)?)),
    }
}

/// Reversed order, so that the heap returns the first observation first.
impl Ord for Head {
    fn cmp(&self, other: &Self) -> Ordering {
        other.seen.compare(&self.seen)
    }
}

impl PartialOrd for Head {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Head {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Head {}

#[cfg(test)]
mod tests {
    use super::*;
    use chrono::DateTime;
    use proptest::prelude::*;

    fn seen(line: u64, sku: u8, at: i64) -> LineObservation {
        let observation = Observation {
            store: "gog".to_owned(),
            store_name: None,
            sku: sku.to_string(),
            region: "ZZ".to_owned(),
            currency: "EUR".parse().unwrap(),
            amount: 1,
            regular: None,
            observed_at: DateTime::from_timestamp(at, 0).unwrap(),
            title: None,
            platform: None,
            url: None,
            sale_ends_at: None,
            available: true,
        };
        LineObservation { line, observation }
    }

    proptest! {
        #[test]
        fn runs_make_no_difference(given in proptest::collection::vec((0_u8..5, 0_i64..20), 0..200), lines in 1_usize..20) {
            let all: Vec<LineObservation> = given.iter().enumerate().map(|(line, (sku, at))| seen(line as u64, *sku, *at)).collect();
            let mut sorter = Sorter::new(&std::env::temp_dir());
            sorter.memory = lines * OVERHEAD;
            for one in all.clone() {
                sorter.push(one).unwrap();
            }
            let mut sorted = sorter.finish().unwrap();
            let mut found = Vec::new();
            while let Some(next) = sorted.read_next().unwrap() {
                found.push(next);
            }
            let mut expected = all;
            expected.sort_by(LineObservation::compare);
            prop_assert_eq!(found, expected);
        }
    }
}
