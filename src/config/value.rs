//! Single values as `wg(8)` and `wg-quick(8)` write them: prefixes, ports, marks, intervals. (vocabulary)

use std::net::IpAddr;

use ipnet::IpNet;

/// An address with or without a prefix length; without one it is the whole address. Host bits are kept.
#[must_use]
pub fn parse_prefix(text: &str) -> Option<IpNet> {
    let Some((address, length)) = text.split_once('/') else {
        return text.parse::<IpAddr>().ok().map(IpNet::from);
    };
    IpNet::new(address.parse().ok()?, parse_number(length)?.try_into().ok()?).ok()
}

/// Decimal digits only: no sign, no blanks.
#[must_use]
pub fn parse_number(text: &str) -> Option<u32> {
    (!text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())).then(|| text.parse().ok())?
}

/// A UDP port, 0 included.
#[must_use]
pub fn parse_port(text: &str) -> Option<u16> {
    parse_number(text)?.try_into().ok()
}

/// `off`, a decimal number, or a hexadecimal one behind `0x`; `off` is 0.
#[must_use]
pub fn parse_fwmark(text: &str) -> Option<u32> {
    if text.eq_ignore_ascii_case("off") {
        return Some(0);
    }
    match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(digits) if digits.bytes().all(|byte| byte.is_ascii_hexdigit()) => {
            u32::from_str_radix(digits, 16).ok()
        }
        Some(_) => None,
        None => parse_number(text),
    }
}

/// `off` or seconds up to 65535; `off` is 0.
#[must_use]
pub fn parse_keepalive(text: &str) -> Option<u16> {
    if text.eq_ignore_ascii_case("off") { Some(0) } else { parse_port(text) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_are_read_as_wg_reads_them() {
        assert_eq!(parse_prefix("10.0.0.1").unwrap().to_string(), "10.0.0.1/32");
        assert_eq!(parse_prefix("fd00::1").unwrap().to_string(), "fd00::1/128");
        assert_eq!(parse_prefix("10.1.2.3/8").unwrap().to_string(), "10.1.2.3/8");
        for wrong in ["10.0.0.0/33", "::/129", "10.0.0/8", "10.0.0.0/+8", "10.0.0.0/", "/8", "x", ""] {
            assert_eq!(parse_prefix(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn numbers_have_no_sign_and_do_not_wrap() {
        assert_eq!((parse_port("0"), parse_port("65535"), parse_port("65536")), (Some(0), Some(65535), None));
        assert_eq!((parse_port("-1"), parse_port("+1"), parse_port("")), (None, None, None));
        assert_eq!(
            (parse_fwmark("0xff"), parse_fwmark("off"), parse_fwmark("12")),
            (Some(255), Some(0), Some(12))
        );
        assert_eq!(
            (parse_fwmark("0x"), parse_fwmark("0x1ffffffff"), parse_fwmark("0x+1")),
            (None, None, None)
        );
        assert_eq!(
            (parse_keepalive("Off"), parse_keepalive("25"), parse_keepalive("x")),
            (Some(0), Some(25), None)
        );
    }
}
