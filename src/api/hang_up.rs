//! A client that disconnects while its request is handled.

use crate::app::App;

/// Guard that marks connections as suspect if it is dropped before the response.
pub struct HangUp<'a>(Option<&'a App>);

impl<'a> HangUp<'a> {
    pub fn new(app: &'a App) -> HangUp<'a> {
        HangUp(Some(app))
    }

    /// Drops the guard without effect, since there is a response.
    pub fn disarm(mut self) {
        self.0 = None;
    }
}

impl Drop for HangUp<'_> {
    fn drop(&mut self) {
        if let Some(app) = self.0 {
            app.deadline.suspect_connections();
        }
    }
}
