//! Choice of the server for reads, by the answers of both to one probe after the other. It does no I/O.

use chrono::{DateTime, TimeDelta, Utc};

use crate::database::reads::Server;
use crate::store::reader_heartbeats::WriterHeartbeat;

/// Number of good probes in a row after which reads come back to the reader.
const GOOD_PROBES: u32 = 3;

/// Answer of a server to one probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer<T> {
    /// It does not answer in time, or accepts no connection.
    Silent,
    /// It answers, but has no heartbeat: its schema is that of the previous version.
    Unknown,
    Heartbeat(T),
}

/// What a probe has found out about the reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finding {
    /// It answers, and is not known to be behind by more than the limit.
    Good,
    /// It answers, and is behind by more than the limit.
    Behind(TimeDelta),
    /// It does not answer, while the writer does.
    Silent,
    /// Neither of them answers, so that neither is better.
    BothSilent,
}

/// Result of one probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    pub finding: Finding,
    /// How far the reader is behind; `None` if that is unknown.
    pub lag: Option<TimeDelta>,
    /// Server that reads use from now on.
    pub server: Server,
}

/// State between two probes.
#[derive(Debug)]
pub struct Choice {
    /// Longest lag of a reader that is used.
    max_lag: TimeDelta,
    server: Server,
    /// Number of good probes in a row while reads use the writer.
    good: u32,
    /// Heartbeat that the writer had at an earlier probe, so that a healthy reader has it by now.
    known: Option<WriterHeartbeat>,
}

impl Choice {
    /// Begins with the reader.
    pub fn new(max_lag: TimeDelta) -> Choice {
        Choice { max_lag, server: Server::Reader, good: 0, known: None }
    }

    /// Server that reads use now.
    pub fn server(&self) -> Server {
        self.server
    }

    /// Takes the answers of both servers to one probe.
    ///
    /// While the writer is silent, no heartbeat is written, and the lag is unknown. A reader that answers then counts as
    /// good: reads that are too old are better than none.
    pub fn update(&mut self, writer: Answer<WriterHeartbeat>, reader: Answer<DateTime<Utc>>) -> Outcome {
        let lag = match (self.known, writer, reader) {
            (Some(known), Answer::Heartbeat(_), Answer::Heartbeat(received)) => Some(lag(known, received)),
            _ => None,
        };
        self.known = match writer {
            Answer::Silent => self.known,
            Answer::Unknown => None,
            Answer::Heartbeat(newest) => Some(newest),
        };
        let finding = match (writer, reader) {
            (Answer::Silent, Answer::Silent) => Finding::BothSilent,
            (_, Answer::Silent) => Finding::Silent,
            _ => lag.filter(|lag| *lag > self.max_lag).map_or(Finding::Good, Finding::Behind),
        };
        self.good = if finding == Finding::Good { self.good.saturating_add(1) } else { 0 };
        self.server = match (self.server, finding) {
            (Server::Reader, Finding::Behind(_) | Finding::Silent) => Server::Writer,
            (Server::Writer, Finding::Good) if self.good >= GOOD_PROBES => Server::Reader,
            (server, _) => server,
        };
        Outcome { finding, lag, server: self.server }
    }
}

/// Time between the newest heartbeat that a reader has received and one that the writer has written. Heartbeats before
/// `since` do not count: in the pause before it, the reader had nothing to receive.
fn lag(known: WriterHeartbeat, received: DateTime<Utc>) -> TimeDelta {
    (known.beat_at - received.max(known.since)).max(TimeDelta::zero())
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX_LAG: TimeDelta = TimeDelta::seconds(5);

    fn at(second: i64) -> DateTime<Utc> {
        DateTime::UNIX_EPOCH + TimeDelta::seconds(second)
    }

    /// Heartbeat at this second, of a writer whose heartbeats began at second 0.
    fn wrote(second: i64) -> Answer<WriterHeartbeat> {
        Answer::Heartbeat(WriterHeartbeat { beat_at: at(second), since: at(0) })
    }

    fn received(second: i64) -> Answer<DateTime<Utc>> {
        Answer::Heartbeat(at(second))
    }

    /// Choice after a first probe that found both servers at second 100.
    fn begun() -> Choice {
        let mut choice = Choice::new(MAX_LAG);
        let first = choice.update(wrote(100), received(100));
        assert_eq!(first, Outcome { finding: Finding::Good, lag: None, server: Server::Reader });
        choice
    }

    #[test]
    fn a_reader_that_has_the_heartbeat_of_the_previous_probe_is_not_behind() {
        let mut choice = begun();
        for second in 101..110 {
            // The newest heartbeat may not have arrived yet.
            for has in [second - 1, second] {
                let outcome = choice.update(wrote(second), received(has));
                assert_eq!(outcome.server, Server::Reader);
                assert!(outcome.lag.unwrap() <= TimeDelta::seconds(1), "{outcome:?}");
            }
        }
    }

    #[test]
    fn reads_leave_a_reader_that_is_too_far_behind_and_come_back_after_three_good_probes_in_a_row() {
        let mut choice = begun();
        for second in 101..=106 {
            let outcome = choice.update(wrote(second), received(100));
            assert_eq!(outcome.lag, Some(TimeDelta::seconds(second - 101)));
            assert_eq!(outcome.server, Server::Reader, "a lag of the limit is accepted");
        }
        let behind = choice.update(wrote(107), received(100));
        let lag = TimeDelta::seconds(6);
        assert_eq!(behind, Outcome { finding: Finding::Behind(lag), lag: Some(lag), server: Server::Writer });
        // Two good ones and a bad one do not count.
        assert_eq!(choice.update(wrote(108), received(107)).server, Server::Writer);
        assert_eq!(choice.update(wrote(109), received(108)).server, Server::Writer);
        assert_eq!(choice.update(wrote(110), received(100)).server, Server::Writer);
        assert_eq!(choice.update(wrote(111), received(110)).server, Server::Writer);
        assert_eq!(choice.update(wrote(112), received(111)).server, Server::Writer);
        assert_eq!(choice.update(wrote(113), received(112)).server, Server::Reader);
        // The count begins again with the next change.
        assert_eq!(choice.update(wrote(114), Answer::Silent).server, Server::Writer);
        assert_eq!(choice.update(wrote(115), received(114)).server, Server::Writer);
    }

    #[test]
    fn reads_leave_a_reader_that_does_not_answer_at_the_first_probe() {
        for writer in [wrote(101), Answer::Unknown] {
            let mut choice = begun();
            let outcome = choice.update(writer, Answer::Silent);
            assert_eq!(outcome, Outcome { finding: Finding::Silent, lag: None, server: Server::Writer });
        }
    }

    #[test]
    fn reads_stay_at_a_reader_that_answers_while_the_writer_does_not() {
        let mut choice = begun();
        // However long that takes, and whatever the last heartbeat was.
        for _ in 0..100 {
            let outcome = choice.update(Answer::Silent, received(90));
            assert_eq!(outcome, Outcome { finding: Finding::Good, lag: None, server: Server::Reader });
        }
        // The writer is back. Its heartbeats begin again, since there was a pause.
        let restarted = |second| Answer::Heartbeat(WriterHeartbeat { beat_at: at(second), since: at(1000) });
        assert_eq!(choice.update(restarted(1000), received(100)).server, Server::Reader);
        let outcome = choice.update(restarted(1001), received(100));
        assert_eq!(outcome.lag, Some(TimeDelta::zero()), "nothing was written that it lacks for long");
        let outcome = choice.update(restarted(1002), received(100));
        assert_eq!(outcome.lag, Some(TimeDelta::seconds(1)));
    }

    #[test]
    fn reads_leave_a_writer_that_does_not_answer_for_a_reader_that_is_behind() {
        let mut choice = begun();
        choice.update(wrote(200), received(100));
        assert_eq!(choice.update(wrote(201), received(100)).server, Server::Writer);
        for server in [Server::Writer, Server::Writer, Server::Reader] {
            assert_eq!(choice.update(Answer::Silent, received(100)).server, server);
        }
        // As soon as the writer answers again, the lag counts again.
        assert_eq!(choice.update(wrote(205), received(100)).server, Server::Writer);
    }

    #[test]
    fn nothing_changes_while_neither_answers() {
        let mut choice = begun();
        for _ in 0..10 {
            let outcome = choice.update(Answer::Silent, Answer::Silent);
            assert_eq!(outcome, Outcome { finding: Finding::BothSilent, lag: None, server: Server::Reader });
        }
        assert_eq!(choice.update(wrote(120), Answer::Silent).server, Server::Writer);
        for _ in 0..10 {
            assert_eq!(choice.update(Answer::Silent, Answer::Silent).server, Server::Writer);
        }
    }

    #[test]
    fn a_reader_without_heartbeats_is_good_since_its_lag_is_unknown() {
        let mut choice = begun();
        for (writer, reader) in [
            (wrote(200), Answer::Unknown),
            (Answer::Unknown, received(0)),
            (Answer::Unknown, Answer::Unknown),
            // The first heartbeat of a writer whose schema has just been updated.
            (wrote(201), received(0)),
        ] {
            let outcome = choice.update(writer, reader);
            assert_eq!(outcome, Outcome { finding: Finding::Good, lag: None, server: Server::Reader });
        }
    }

    #[test]
    fn a_heartbeat_of_a_writer_whose_clock_was_ahead_is_no_lag() {
        let mut choice = begun();
        choice.update(wrote(101), received(500));
        assert_eq!(choice.update(wrote(102), received(500)).lag, Some(TimeDelta::zero()));
    }
}
