//! From a reported price to a recorded sale; files of prices, in and out.

mod exports;
mod feeds;
pub mod imports;
mod kills;
mod prices;
mod product_data;
mod quarantine;
mod record;
pub mod sales;
