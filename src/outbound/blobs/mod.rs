//! Where the bytes of files are: a store of blobs. PostgreSQL knows the places, the store knows nothing but bytes.
//!
//! A place is written by one request alone, under a name of its own: a request that has lost its upload to another
//! can spoil nothing that the other writes.

mod directory;
mod whole;

pub use self::directory::{Directory, Piece, Reading};
pub use self::whole::read_whole;
