//! `salebell games`: maintenance of the catalogue by an operator.

use std::fmt::Write;

use clap::Subcommand;

use crate::app::App;
use crate::error::Result;
use crate::store::matching;

/// Examine the catalogue of games, directly in the database.
#[derive(Debug, Subcommand)]
pub enum GamesAction {
    /// List games that exist more than once: their titles differ only in typography, such as
    /// "Tom & Jerry" and "Tom and Jerry". Nothing is merged.
    Duplicates,
}

/// Performs the action, and returns the text to print.
///
/// # Errors
/// Fails if the database is unavailable.
pub async fn run(app: &App, action: GamesAction) -> Result<String> {
    match action {
        GamesAction::Duplicates => {
            // Games without a key yet would be missing from the list and appear in a later one.
            while matching::fill_keys(&app.writer).await? > 0 {}
            let games = matching::list_same_games(&app.writer).await?;
            if games.is_empty() {
                return Ok("No two games have the same title.\n".to_owned());
            }
            let mut text = String::new();
            for (at, game) in games.iter().enumerate() {
                if at > 0 && games[at - 1].key != game.key {
                    text.push('\n');
                }
                let noun = if game.offers == 1 { "offer" } else { "offers" };
                // Writing to a string cannot fail.
                let _ = writeln!(text, "{}  {} {noun}  {}", game.id, game.offers, game.title);
            }
            text.push_str(
                "\nTo merge two: PATCH /v1/offers/{id} with the other's \"game_id\", then DELETE /v1/games/{id}. Where one store \
                 sells both, they are kept apart on purpose.\n",
            );
            Ok(text)
        }
    }
}
