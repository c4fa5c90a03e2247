//! Why a command of the `wg(8)` family could not be done. (cli)

use std::borrow::Cow;
use std::io;

use crate::config::endpoint::EndpointError;
use crate::config::literal::Literal;
use crate::driver::config_file::ConfigFileError;
use crate::driver::failure::{Failure, FailureClass};
use crate::driver::instance::DirectoryError;
use crate::driver::uapi_client::UapiClientError;
use crate::key::KeyError;

/// Why a command of the `wg(8)` family could not be done.
#[derive(Debug, thiserror::Error)]
pub enum WgCommandError {
    /// The tunnel did not answer, or refused.
    #[error("cannot talk to `{name}`")]
    Talk {
        /// The tunnel.
        name: String,
        /// Why.
        source: UapiClientError,
    },
    /// Some tunnels were shown, some did not answer; those were reported one by one.
    #[error("{failed} of {all} interfaces did not answer")]
    SomeSilent {
        /// How many did not.
        failed: usize,
        /// How many there are.
        all: usize,
    },
    /// The directory of the sockets will not do.
    #[error("cannot list the running tunnels")]
    List(#[source] DirectoryError),
    /// A configuration or key file.
    #[error("{0}")]
    File(ConfigFileError),
    /// A word that is not of the grammar.
    #[error("{0} is not understood here")]
    Word(Literal),
    /// The last word wants another one behind it.
    #[error("`{0}` needs a value")]
    NoValue(&'static str),
    /// A word of peers before the first `peer`.
    #[error("`{0}` belongs to a peer; name one with `peer KEY` first")]
    NoPeer(&'static str),
    /// A value that the word does not take.
    #[error("`{word}`: {value} is not {expected}")]
    Value {
        /// The word before it.
        word: &'static str,
        /// What was typed.
        value: Literal,
        /// What is allowed.
        expected: &'static str,
    },
    /// Not a key. Never quotes it.
    #[error("{place}: {error}")]
    Key {
        /// Where it was.
        place: String,
        /// What is wrong with it.
        error: KeyError,
    },
    /// Not an endpoint.
    #[error("`endpoint`: {value} {error}")]
    Endpoint {
        /// What was typed.
        value: Literal,
        /// What is wrong with it.
        error: EndpointError,
    },
    /// The resolver has no answer.
    #[error("cannot resolve `{host}`")]
    Resolve {
        /// The name.
        host: String,
        /// What the resolver said.
        source: io::Error,
    },
    /// Standard input.
    #[error("cannot read standard input")]
    Input(#[source] io::Error),
}

impl WgCommandError {
    /// The one thing the reader can do about it.
    #[must_use]
    pub fn hint(&self) -> Option<Cow<'static, str>> {
        match self {
            Self::Talk { source, .. } => source.hint(),
            Self::File(error) => error.hint(),
            Self::Word(_) => Some("`wg4netns set --help` lists the words".into()),
            Self::SomeSilent { .. }
            | Self::List(_)
            | Self::NoValue(_)
            | Self::NoPeer(_)
            | Self::Value { .. }
            | Self::Key { .. }
            | Self::Endpoint { .. }
            | Self::Resolve { .. }
            | Self::Input(_) => None,
        }
    }
}

impl WgCommandError {
    pub(super) fn talk(source: UapiClientError, name: &str) -> Self {
        Self::Talk { name: name.to_owned(), source }
    }
}

impl Failure for WgCommandError {
    fn class(&self) -> FailureClass {
        match self {
            Self::Talk { .. }
            | Self::SomeSilent { .. }
            | Self::List(_)
            | Self::Resolve { .. }
            | Self::Input(_) => FailureClass::General,
            Self::File(error) => error.class(),
            Self::Word(_)
            | Self::NoValue(_)
            | Self::NoPeer(_)
            | Self::Value { .. }
            | Self::Key { .. }
            | Self::Endpoint { .. } => FailureClass::Usage,
        }
    }
}
