//! Whom a failure is to be blamed on: each has an exit code of its own. (vocabulary of tasks)

use super::namespace_child::ChildError;
use super::target::TargetError;
use crate::config::ConfigError;

/// What a failure is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureClass {
    /// It could not be done.
    General,
    /// It was asked wrongly.
    Usage,
    /// The configuration.
    Config,
    /// The target is gone or invalid.
    Target,
    /// The kernel or a permission lacks.
    Kernel,
    /// A name or a port is in use.
    InUse,
}

impl FailureClass {
    /// The exit code of every mode but `run` and `exec`, where each failure of ours is 125.
    #[must_use]
    pub const fn exit_code(self) -> u8 {
        match self {
            Self::General => 1,
            Self::Usage => 2,
            Self::Config => 3,
            Self::Target => 4,
            Self::Kernel => 5,
            Self::InUse => 6,
        }
    }
}

/// An error that knows whom to blame.
pub trait Failure: std::error::Error + 'static {
    /// Whom to blame.
    fn class(&self) -> FailureClass;
}

impl Failure for ConfigError {
    fn class(&self) -> FailureClass {
        FailureClass::Config
    }
}

impl Failure for TargetError {
    fn class(&self) -> FailureClass {
        Self::class(self)
    }
}

impl Failure for ChildError {
    fn class(&self) -> FailureClass {
        Self::class(self)
    }
}
