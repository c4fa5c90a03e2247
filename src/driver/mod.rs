//! The running tunnel: threads, tasks, sockets and the clock; no protocol decisions. (tasks)

pub mod broker;
pub mod child_channel;
pub mod clock;
pub mod command;
pub mod config_file;
pub mod daemonize;
pub mod endpoint_names;
mod ethernet;
pub mod failure;
#[cfg(test)]
pub(crate) mod fake_tunnel;
pub mod instance;
pub mod interface_name;
pub mod journal;
pub mod lifetime;
pub mod link;
pub mod link_setup;
pub mod link_watch;
pub mod log_limit;
pub mod logging;
pub mod mtu;
pub mod namespace_child;
pub mod path_trouble;
pub mod pidfile;
pub mod port_forward;
pub mod port_socket;
pub mod private_etc;
pub mod ready;
pub mod run_child;
pub mod socket_factory;
pub mod target;
pub mod tunnel;
pub mod uapi_client;
pub mod uapi_server;
pub mod uapi_socket;
pub mod udp;
pub mod veth;
