//! Games, offers and stores, and what readers find of them.

mod deals;
mod games;
mod history;
mod offers;
mod search;
mod stores;
mod titles;
