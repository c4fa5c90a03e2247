//! One file per mode, each the whole story of that mode from top to bottom. (wiring)

pub mod attach;
pub mod child;
#[cfg(feature = "demo")]
pub mod demo;
#[cfg(feature = "demo")]
mod demo_guard;
#[cfg(feature = "demo")]
pub mod demo_inside;
#[cfg(feature = "demo")]
pub mod demo_peer;
pub mod device;
pub mod doctor;
pub mod exec;
pub mod forward;
pub mod inspect;
mod report;
pub mod request;
pub mod run;
pub mod run_child;
mod start;

pub use start::{StartError, resolv_conf};
