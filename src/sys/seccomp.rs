//! The system calls that each role of a running tunnel may make; all others answer ENOSYS or end the process.
//! (operating system)
//!
//! # Theory of operation
//! Two filters, of which the kernel takes the stricter verdict: one ends the process at a call that only an intruder
//! would make, the other lets through what its role was seen to make and answers ENOSYS to the rest, so that a C
//! library that probes for something newer falls back. A filter belongs to a thread and is inherited by those it
//! starts: data threads install theirs first, then the thread that started them. Calls of the data path carry no
//! conditions, for the kernel remembers the verdict on those and does not run the filter.

use std::collections::BTreeMap;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch,
};

use super::os_error::OsError;

/// What a thread or process does from the moment it meets what strangers send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The main thread: runtime, configuration socket, timers, rtnetlink; in the end it removes its files.
    Control,
    /// Reads the TUN, sends datagrams.
    Transmit,
    /// Receives datagrams, writes the TUN.
    Receive,
    /// The process that resolves names with whatever the C library uses for that.
    Broker,
    /// The process inside that makes the interface, once it has joined; it goes from one namespace to another.
    LinkMaker,
    /// The process inside that makes sockets for others, while it makes those that listen; then it is confined further.
    FactoryBegin,
    /// The same from then on.
    Factory,
    /// The process that carries what comes to forwarded ports.
    Forwarder,
    /// The process that removes the pid file, or another of ours, in the end.
    Remover,
}

/// Why a filter is not in place.
#[derive(Debug, thiserror::Error)]
pub enum SeccompError {
    /// The kernel was built without filters, or refuses them.
    #[error("the kernel does not filter system calls")]
    Unavailable(#[source] OsError),
    /// There is no filter for this machine, or the kernel did not take it.
    #[error("cannot install a filter of system calls: {0}")]
    Refused(String),
}

/// A system call by name and number.
#[derive(Clone, Copy, Debug)]
struct Call {
    name: &'static str,
    number: libc::c_long,
}

macro_rules! calls {
    ($($name:ident)*) => { &[$(Call { name: stringify!($name), number: libc::$name }),*] };
}

/// Whether filters can be had here.
///
/// # Errors
/// [`SeccompError::Unavailable`].
pub fn is_available() -> Result<(), SeccompError> {
    let action: u32 = libc::SECCOMP_RET_KILL_PROCESS;
    // SAFETY: SECCOMP_GET_ACTION_AVAIL reads one u32 through the pointer, which is ours and lives on.
    let result =
        unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_GET_ACTION_AVAIL, 0_u64, &raw const action) };
    if result < 0 { Err(SeccompError::Unavailable(OsError::last())) } else { Ok(()) }
}

/// Leaves this thread, and those it starts from now on, the system calls of `role`. There is no way back.
///
/// # Errors
/// See [`SeccompError`].
pub fn restrict(role: Role) -> Result<(), SeccompError> {
    let refused = |error: seccompiler::Error| SeccompError::Refused(error.to_string());
    // The second would not let the first be installed.
    seccompiler::apply_filter(&forbidding(role)?).map_err(refused)?;
    seccompiler::apply_filter(&allowing(role)?).map_err(refused)
}

/// The names of the calls that `role` may make.
#[must_use]
pub fn allowed(role: Role) -> Vec<&'static str> {
    lists(role).into_iter().flatten().map(|call| name(*call)).collect()
}

/// The names of the calls that end a process or thread of this role.
#[must_use]
pub fn forbidden(role: Role) -> Vec<&'static str> {
    never(role).map(|call| name(*call)).collect()
}

fn name(call: Call) -> &'static str {
    call.name.trim_start_matches("SYS_")
}

fn forbidding(role: Role) -> Result<BpfProgram, SeccompError> {
    let rules = never(role).map(|call| (call.number, Vec::new())).collect();
    program(rules, SeccompAction::Allow, SeccompAction::KillProcess)
}

fn never(role: Role) -> impl Iterator<Item = &'static Call> {
    NEVER.iter().filter(move |call| role != Role::LinkMaker || !AMONG_NETWORKS.contains(&call.number))
}

fn allowing(role: Role) -> Result<BpfProgram, SeccompError> {
    let mut rules = BTreeMap::new();
    for call in lists(role).into_iter().flatten() {
        rules.insert(call.number, conditions(role, call.number)?);
    }
    let unknown = SeccompAction::Errno(libc::ENOSYS.cast_unsigned());
    program(rules, unknown, SeccompAction::Allow)
}

fn program(
    rules: BTreeMap<libc::c_long, Vec<SeccompRule>>,
    otherwise: SeccompAction,
    matched: SeccompAction,
) -> Result<BpfProgram, SeccompError> {
    let refused = |error: seccompiler::BackendError| SeccompError::Refused(error.to_string());
    let machine = TargetArch::try_from(std::env::consts::ARCH).map_err(refused)?;
    let filter = SeccompFilter::new(rules, otherwise, matched, machine).map_err(refused)?;
    filter.try_into().map_err(refused)
}

/// With what arguments a call is let through; no rule: with any.
fn conditions(role: Role, call: libc::c_long) -> Result<Vec<SeccompRule>, SeccompError> {
    use SeccompCmpOp::{Eq, MaskedEq};
    let broker = role == Role::Broker;
    let all = |conditions: &[(u8, SeccompCmpOp, u64)]| {
        let conditions: Result<_, _> = conditions
            .iter()
            .map(|(argument, op, value)| {
                SeccompCondition::new(*argument, SeccompCmpArgLen::Dword, op.clone(), *value)
            })
            .collect();
        conditions.and_then(SeccompRule::new).map_err(|error| SeccompError::Refused(error.to_string()))
    };
    let one = |argument, op, value| all(&[(argument, op, value)]);
    match call {
        // Another network namespace, and no other kind.
        libc::SYS_unshare => Ok(vec![one(0, Eq, bits(libc::CLONE_NEWNET))?]),
        libc::SYS_setns => Ok(vec![one(1, Eq, bits(libc::CLONE_NEWNET))?]),
        // The broker's C library loads what /etc/nsswitch.conf names.
        libc::SYS_mmap | libc::SYS_mprotect if !broker => {
            Ok(vec![one(2, MaskedEq(bits(libc::PROT_EXEC)), 0)?])
        }
        libc::SYS_socket if matches!(role, Role::FactoryBegin | Role::Factory | Role::Forwarder) => [
            (libc::AF_INET, libc::SOCK_STREAM),
            (libc::AF_INET, libc::SOCK_DGRAM),
            (libc::AF_INET6, libc::SOCK_STREAM),
            (libc::AF_INET6, libc::SOCK_DGRAM),
            (libc::AF_NETLINK, libc::SOCK_RAW),
        ]
        .into_iter()
        .filter(|(family, _)| *family != libc::AF_NETLINK || role == Role::FactoryBegin)
        .map(|(family, kind)| all(&[(0, Eq, bits(family)), (1, MaskedEq(SOCK_TYPE_MASK), bits(kind))]))
        .collect(),
        libc::SYS_socket if role == Role::LinkMaker => [libc::AF_NETLINK, libc::AF_PACKET]
            .into_iter()
            .map(|family| all(&[(0, Eq, bits(family)), (1, MaskedEq(SOCK_TYPE_MASK), bits(libc::SOCK_RAW))]))
            .collect(),
        libc::SYS_socket if !broker => [libc::AF_INET, libc::AF_INET6, libc::AF_UNIX]
            .into_iter()
            .map(|family| {
                let kind = (1, MaskedEq(SOCK_TYPE_MASK), bits(libc::SOCK_DGRAM));
                all(&[(0, Eq, bits(family)), kind])
            })
            .collect(),
        libc::SYS_ioctl if role == Role::LinkMaker => {
            LINK_IOCTLS.into_iter().map(|request| one(1, Eq, request)).collect()
        }
        libc::SYS_ioctl => {
            [FIONBIO, FIONREAD, SIOCGIFINDEX].into_iter().map(|request| one(1, Eq, request)).collect()
        }
        // The landlock layer says what.
        libc::SYS_openat => Ok(vec![one(2, MaskedEq(bits(not_to_open(role))), 0)?]),
        #[cfg(all(target_arch = "x86_64", target_env = "musl"))]
        libc::SYS_open => Ok(vec![one(1, MaskedEq(bits(not_to_open(role))), 0)?]),
        // A stuck broker is ended; everybody else's signals go by pidfd.
        libc::SYS_kill => Ok(vec![one(1, Eq, bits(libc::SIGKILL))?]),
        libc::SYS_tgkill => Ok(vec![one(0, Eq, std::process::id().into())?]),
        #[cfg(target_env = "musl")]
        libc::SYS_tkill => Ok(vec![one(0, Eq, bits(nix::unistd::gettid().as_raw()))?]),
        // Threads only.
        libc::SYS_clone => Ok(vec![one(0, MaskedEq(NEW_NAMESPACES | THREAD), THREAD)?]),
        libc::SYS_prctl if role == Role::FactoryBegin => {
            [libc::PR_SET_NO_NEW_PRIVS, libc::PR_CAP_AMBIENT, libc::PR_CAPBSET_DROP]
                .into_iter()
                .map(|what| one(0, Eq, bits(what)))
                .collect()
        }
        libc::SYS_prctl => Ok(vec![one(0, Eq, bits(libc::PR_SET_NAME))?]),
        _ => Ok(Vec::new()),
    }
}

/// Flags of `open` that a role does not use: to make a file or to empty one; but for the link maker, to write.
const fn not_to_open(role: Role) -> libc::c_int {
    let making = libc::O_CREAT | libc::O_TRUNC;
    if matches!(role, Role::LinkMaker) { making } else { making | libc::O_ACCMODE }
}

fn bits(value: libc::c_int) -> u64 {
    value.cast_unsigned().into()
}

// asm-generic/ioctls.h, linux/sockios.h, linux/if_tun.h, linux/nsfs.h; the C libraries disagree on their type.
const FIONBIO: u64 = 0x5421;
const FIONREAD: u64 = 0x541b;
const SIOCGIFINDEX: u64 = 0x8933;
const TUNSETIFF: u64 = 0x4004_54ca;
const TUNSETVNETHDRSZ: u64 = 0x4004_54d8;
const TUNSETVNETLE: u64 = 0x4004_54dc;
const NS_GET_NSTYPE: u64 = 0xb703;
/// The TUN's own, and which kind a namespace is of. (TUNSETVNETLE on big-endian machines.)
const LINK_IOCTLS: [u64; 4] = [TUNSETIFF, TUNSETVNETHDRSZ, TUNSETVNETLE, NS_GET_NSTYPE];
// linux/sched.h
const THREAD: u64 = 0x0001_0000;
const NEW_NAMESPACES: u64 = 0x7e02_0000;
const SOCK_TYPE_MASK: u64 = 0xf;

fn lists(role: Role) -> [&'static [Call]; 5] {
    match role {
        Role::Control => [EVERY_THREAD, RAISE, CONTROL, CONTROL_OF_MACHINE, &[]],
        Role::Transmit => [EVERY_THREAD, RAISE, DATA_THREAD, TRANSMIT, &[]],
        Role::Receive => [EVERY_THREAD, RAISE, DATA_THREAD, RECEIVE, &[]],
        Role::Broker => [EVERY_THREAD, RAISE, BROKER, BROKER_OF_LIBRARY, POLL],
        Role::LinkMaker => [EVERY_THREAD, RAISE, LINK_MAKER, LINK_MAKER_OF_LIBRARY, POLL],
        Role::FactoryBegin => [EVERY_THREAD, RAISE, FACTORY, FACTORY_BEGIN, POLL],
        Role::Factory => [EVERY_THREAD, RAISE, FACTORY, POLL, &[]],
        Role::Forwarder => [EVERY_THREAD, RAISE, FORWARDER, FORWARDER_OF_MACHINE, &[]],
        Role::Remover => [EVERY_THREAD, RAISE, REMOVER, POLL, &[]],
    }
}

/// Memory, locks, time, log lines, and the ways to end.
const EVERY_THREAD: &[Call] = calls![
    SYS_brk SYS_clock_gettime SYS_close SYS_exit SYS_exit_group SYS_fcntl SYS_futex SYS_getrandom SYS_gettid SYS_madvise
    SYS_mmap SYS_munmap SYS_recvmsg SYS_restart_syscall SYS_rt_sigprocmask SYS_rt_sigreturn SYS_sendmsg SYS_sendto
    SYS_write
];

/// How a thread signals itself: to stop with its command, or to abort.
#[cfg(not(target_env = "musl"))]
const RAISE: &[Call] = calls![SYS_tgkill];
#[cfg(target_env = "musl")]
const RAISE: &[Call] = calls![SYS_tkill];

// readv: on a TUN whose kernel knows no reading without waiting there (6.1 was seen).
const DATA_THREAD: &[Call] = calls![
    SYS_ftruncate SYS_getpid SYS_mprotect SYS_mremap SYS_readv SYS_sendmmsg SYS_sigaltstack SYS_writev
];

#[cfg(target_arch = "x86_64")]
const TRANSMIT: &[Call] = calls![SYS_preadv2 SYS_poll SYS_read];
#[cfg(not(target_arch = "x86_64"))]
const TRANSMIT: &[Call] = calls![SYS_preadv2 SYS_ppoll SYS_read];

#[cfg(target_arch = "x86_64")]
const RECEIVE: &[Call] = calls![SYS_recvmmsg SYS_preadv2 SYS_poll];
#[cfg(not(target_arch = "x86_64"))]
const RECEIVE: &[Call] = calls![SYS_recvmmsg SYS_preadv2 SYS_ppoll];

const CONTROL: &[Call] = calls![
    SYS_accept4 SYS_bind SYS_epoll_ctl SYS_flock SYS_ftruncate SYS_getpid SYS_getsockname SYS_getsockopt SYS_ioctl
    SYS_kill SYS_pidfd_send_signal SYS_read SYS_recvfrom SYS_sendmmsg SYS_setsockopt SYS_shutdown
    SYS_socket SYS_timerfd_settime SYS_unlinkat SYS_wait4
];

#[cfg(all(target_arch = "x86_64", not(target_env = "musl")))]
const CONTROL_OF_MACHINE: &[Call] = calls![SYS_dup2 SYS_epoll_wait SYS_newfstatat SYS_poll];
#[cfg(all(target_arch = "x86_64", target_env = "musl"))]
const CONTROL_OF_MACHINE: &[Call] = calls![SYS_dup2 SYS_epoll_pwait SYS_newfstatat SYS_poll];
#[cfg(not(target_arch = "x86_64"))]
const CONTROL_OF_MACHINE: &[Call] = calls![SYS_dup3 SYS_epoll_pwait SYS_newfstatat SYS_ppoll];

const BROKER: &[Call] = calls![
    SYS_bind SYS_clone SYS_connect SYS_getsockname SYS_mprotect SYS_prctl SYS_read SYS_recvfrom SYS_setsockopt
    SYS_sigaltstack SYS_socket
];

// It loads what /etc/nsswitch.conf names.
#[cfg(not(target_env = "musl"))]
const BROKER_OF_LIBRARY: &[Call] = calls![
    SYS_fstat SYS_ioctl SYS_lseek SYS_newfstatat SYS_openat SYS_pread64 SYS_rseq SYS_rt_sigaction
    SYS_sched_getaffinity SYS_sendmmsg SYS_set_robust_list SYS_uname SYS_writev
];
// readv: of musl before 1.2.4. ioctl: the index of an interface that an address names.
#[cfg(all(target_arch = "x86_64", target_env = "musl"))]
const BROKER_OF_LIBRARY: &[Call] = calls![SYS_ioctl SYS_open SYS_readv];
#[cfg(all(not(target_arch = "x86_64"), target_env = "musl"))]
const BROKER_OF_LIBRARY: &[Call] = calls![SYS_ioctl SYS_openat SYS_readv];

// setns, unshare, and a second socket: the far end of a veth pair is in a namespace of its own. memfd_create, lseek: an
// answer that is too long for a record.
const LINK_MAKER: &[Call] = calls![
    SYS_bind SYS_connect SYS_getpid SYS_ioctl SYS_lseek SYS_memfd_create SYS_mremap SYS_setns SYS_setsockopt
    SYS_sigaltstack SYS_socket SYS_unshare
];

#[cfg(all(target_arch = "x86_64", target_env = "musl"))]
const LINK_MAKER_OF_LIBRARY: &[Call] = calls![SYS_open];
#[cfg(not(all(target_arch = "x86_64", target_env = "musl")))]
const LINK_MAKER_OF_LIBRARY: &[Call] = calls![SYS_openat];

const FACTORY: &[Call] = calls![SYS_getpid SYS_mremap SYS_setsockopt SYS_sigaltstack SYS_socket];

/// Addresses, listeners, and how it gives up the rest.
const FACTORY_BEGIN: &[Call] = calls![
    SYS_bind SYS_capget SYS_capset SYS_connect SYS_landlock_create_ruleset SYS_landlock_restrict_self SYS_listen SYS_prctl
    SYS_seccomp
];

#[cfg(target_arch = "x86_64")]
const POLL: &[Call] = calls![SYS_poll];
#[cfg(not(target_arch = "x86_64"))]
const POLL: &[Call] = calls![SYS_ppoll];

const FORWARDER: &[Call] = calls![
    SYS_accept4 SYS_bind SYS_connect SYS_epoll_ctl SYS_getpid SYS_getsockname SYS_getsockopt SYS_listen SYS_mremap
    SYS_recvfrom SYS_setsockopt SYS_shutdown SYS_sigaltstack SYS_socket
];

#[cfg(all(target_arch = "x86_64", not(target_env = "musl")))]
const FORWARDER_OF_MACHINE: &[Call] = calls![SYS_epoll_wait SYS_poll];
#[cfg(all(target_arch = "x86_64", target_env = "musl"))]
const FORWARDER_OF_MACHINE: &[Call] = calls![SYS_epoll_pwait SYS_poll];
#[cfg(not(target_arch = "x86_64"))]
const FORWARDER_OF_MACHINE: &[Call] = calls![SYS_epoll_pwait SYS_ppoll];

const REMOVER: &[Call] = calls![
    SYS_getpid SYS_mremap SYS_newfstatat SYS_sigaltstack SYS_unlinkat
];

/// What no part of us does once it runs, and what escapes are made of.
const NEVER: &[Call] = calls![
    SYS_add_key SYS_bpf SYS_chroot SYS_delete_module SYS_execve SYS_execveat SYS_finit_module SYS_fsconfig
    SYS_fsmount SYS_fsopen SYS_fspick SYS_init_module SYS_io_uring_enter SYS_io_uring_register SYS_io_uring_setup
    SYS_kexec_load SYS_keyctl SYS_mount SYS_mount_setattr SYS_move_mount SYS_name_to_handle_at SYS_open_by_handle_at
    SYS_open_tree SYS_perf_event_open SYS_personality SYS_pidfd_getfd SYS_pivot_root SYS_process_vm_readv
    SYS_process_vm_writev SYS_ptrace SYS_request_key SYS_setns SYS_umount2 SYS_unshare SYS_userfaultfd
];

/// Of these, what the link maker does all the same.
const AMONG_NETWORKS: [libc::c_long; 2] = [libc::SYS_setns, libc::SYS_unshare];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::time::Duration;

    use super::*;
    use crate::sys::wait;

    const ROLES: [Role; 9] = [
        Role::Control,
        Role::Transmit,
        Role::Receive,
        Role::Broker,
        Role::LinkMaker,
        Role::FactoryBegin,
        Role::Factory,
        Role::Forwarder,
        Role::Remover,
    ];

    #[test]
    fn no_role_has_more_than_45_calls_and_none_that_is_forbidden() {
        for role in ROLES {
            let allowed = allowed(role);
            let set: BTreeSet<_> = allowed.iter().collect();
            assert_eq!(set.len(), allowed.len(), "{role:?} lists a call twice");
            assert!(set.len() <= 45, "{role:?}: {} calls", set.len());
            assert!(forbidden(role).iter().all(|call| !set.contains(call)), "{role:?}");
        }
    }

    #[test]
    fn a_filtered_thread_works_and_is_told_that_other_calls_do_not_exist() {
        is_available().unwrap();
        for role in ROLES {
            std::thread::spawn(move || {
                restrict(role).unwrap();
                let grown: Vec<u64> = (0..100_000).collect();
                assert_eq!(grown.len(), 100_000);
                let refused = std::fs::create_dir("/proc/nonexistent/directory").unwrap_err();
                assert_eq!(refused.raw_os_error(), Some(libc::ENOSYS), "{role:?}");
                // The receiver panicked where it was to pause: sleeping is a system call that no role has.
                wait::poll(&mut [], Some(Duration::from_millis(1))).unwrap();
            })
            .join()
            .unwrap();
        }
    }

    #[test]
    fn arguments_are_looked_at_where_a_call_can_do_harm() {
        std::thread::spawn(|| {
            restrict(Role::Control).unwrap();
            assert!(std::net::UdpSocket::bind("127.0.0.1:0").is_ok());
            let tcp = std::net::TcpStream::connect("127.0.0.1:9").unwrap_err();
            assert_eq!(tcp.raw_os_error(), Some(libc::ENOSYS));
            let opened = std::fs::read("/proc/self/status").unwrap_err();
            assert_eq!(opened.raw_os_error(), Some(libc::ENOSYS));
        })
        .join()
        .unwrap();
    }

    #[test]
    fn whoever_makes_an_interface_goes_to_other_networks_and_to_no_other_namespaces() {
        use nix::sched::{CloneFlags, setns, unshare};
        std::thread::spawn(|| {
            let here = std::fs::File::open("/proc/self/ns/net").unwrap();
            restrict(Role::LinkMaker).unwrap();
            for other in [CloneFlags::CLONE_NEWNS, CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWUSER] {
                assert_eq!(unshare(other), Err(nix::errno::Errno::ENOSYS), "{other:?}");
                assert_eq!(setns(&here, other), Err(nix::errno::Errno::ENOSYS), "{other:?}");
            }
            // Whether it may is the kernel's affair.
            let joined = setns(&here, CloneFlags::CLONE_NEWNET);
            assert!(matches!(joined, Ok(()) | Err(nix::errno::Errno::EPERM)), "{joined:?}");
            let made = std::fs::File::create("/dev/null").unwrap_err();
            assert_eq!(made.raw_os_error(), Some(libc::ENOSYS));
            assert!(std::fs::File::options().write(true).open("/dev/null").is_ok());
            let udp = std::net::UdpSocket::bind("127.0.0.1:0").unwrap_err();
            assert_eq!(udp.raw_os_error(), Some(libc::ENOSYS));
        })
        .join()
        .unwrap();
    }
}
