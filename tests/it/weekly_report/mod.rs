//! The weekly statistics and the mail that carries them.

mod stats;
mod weekly_mails;
