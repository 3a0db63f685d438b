//! Business rules, without I/O: what money is, what an observation changes, what a watch wants.

pub mod api_key;
pub mod batch;
pub mod delivery;
pub mod export;
pub mod file;
pub mod history;
pub mod ids;
pub mod instant;
pub mod link;
pub mod mail_domain;
pub mod money;
pub mod object;
pub mod observation;
pub mod observed_offers;
pub mod offer_recorder;
pub mod price;
pub mod public_keys;
pub mod region;
pub mod retries;
pub mod search;
pub mod statistics;
pub mod text;
pub mod text_enum;
pub mod title;
pub mod watch;
pub mod week;
