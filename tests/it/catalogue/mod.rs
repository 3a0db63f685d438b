//! Games, offers and stores, and how readers find them.

mod deals;
mod games;
mod history;
mod offers;
mod search;
mod stores;
mod titles;
