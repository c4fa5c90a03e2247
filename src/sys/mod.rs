//! The operating system: the only module that may say `unsafe`; no protocol knowledge, nothing else of the crate.
#![expect(unsafe_code, reason = "system calls that no safe crate wraps live here, and only here")]

pub mod async_fd;
pub mod caller;
pub mod clock;
pub mod confine;
pub mod environment;
pub mod fd_passing;
pub mod file_label;
pub mod fork;
pub mod inode;
#[cfg(test)]
pub(crate) mod inside;
pub mod mount;
pub mod namespace;
pub mod netlink;
pub mod null_device;
pub mod os_error;
pub mod packet_socket;
pub mod path_mtu;
pub mod pidfd;
pub mod sandbox;
pub mod seccomp;
pub mod secret_memory;
pub mod signals;
pub mod sockets;
pub mod stack;
pub mod sysctl;
pub mod tun;
pub mod udp;
pub mod wait;
