//! The real broker over loopback, seen by a test peer that speaks frames.

mod broker;
mod closing;
mod conformance;
mod costly;
mod http;
mod login;
mod loopback;
mod methods;
mod peer;
mod perf;
mod prelogin;
mod process;
mod transcript;
mod value;
