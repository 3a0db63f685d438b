//! Authentication of callers: API keys, JSON Web Tokens, and users whom the load balancer has logged in.

mod browser_users;
mod callers;
mod cognito;
mod keys;
