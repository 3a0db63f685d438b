//! From a sale to a notice, and from a notice to its receiver.

mod bells;
mod channels;
mod deliveries;
mod delivery_turns;
mod notices;
mod publish;
mod watches;
mod webhooks;
