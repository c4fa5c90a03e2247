//! How large a packet on an interface may be. (vocabulary of tasks)

use std::fmt;
use std::str::FromStr;

/// The kernel's own limits for the MTU of a TUN interface (`MIN_MTU` and `MAX_MTU` of drivers/net/tun.c).
const MTU_RANGE: std::ops::RangeInclusive<u32> = 68..=65535;

/// Below this the kernel switches IPv6 off on an interface (RFC 8200 §5).
const MIN_IPV6_MTU: u32 = 1280;

/// Bytes of the largest packet on an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mtu(u32);

/// What is wrong with an MTU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an MTU is a number from {} to {}", MTU_RANGE.start(), MTU_RANGE.end())]
pub struct MtuError;

impl Mtu {
    /// In bytes.
    #[must_use]
    pub const fn bytes(self) -> u32 {
        self.0
    }

    /// Whether IPv6 works with it.
    #[must_use]
    pub const fn carries_ipv6(self) -> bool {
        self.0 >= MIN_IPV6_MTU
    }
}

impl TryFrom<u32> for Mtu {
    type Error = MtuError;

    fn try_from(bytes: u32) -> Result<Self, MtuError> {
        if MTU_RANGE.contains(&bytes) { Ok(Self(bytes)) } else { Err(MtuError) }
    }
}

impl FromStr for Mtu {
    type Err = MtuError;

    fn from_str(text: &str) -> Result<Self, MtuError> {
        text.parse::<u32>().map_err(|_not_a_number| MtuError)?.try_into()
    }
}

impl fmt::Display for Mtu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_mtu_is_in_the_range_of_a_tun() {
        assert!(
            "67".parse::<Mtu>().is_err() && "65536".parse::<Mtu>().is_err() && "x".parse::<Mtu>().is_err()
        );
        assert!(!"1279".parse::<Mtu>().unwrap().carries_ipv6());
        assert!("1280".parse::<Mtu>().unwrap().carries_ipv6());
    }
}
