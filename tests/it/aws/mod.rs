//! The services of AWS as the program uses them: bus, metrics, credentials.

mod bus;
mod cloudwatch;
mod iam;
mod metadata;
mod renewal;
mod role_credentials;
