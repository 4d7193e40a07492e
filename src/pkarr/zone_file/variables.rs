//! The variables of a zone file: `$IPV4` and `$IPV6`, where an address may stand.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::ZoneFileError;
use super::lexer::Word;

/// What the variables of a zone file stand for: the addresses at which the owner's host is reached.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct HostAddresses {
    /// `$IPV4`.
    pub ipv4: Option<Ipv4Addr>,
    /// `$IPV6`.
    pub ipv6: Option<Ipv6Addr>,
}

/// A variable, and what may stand in its place.
#[derive(Debug)]
pub(super) struct Variable {
    name: &'static str,
    pub(super) what: &'static str,
    pub(super) example: &'static str,
}

pub(super) const IPV4: Variable = Variable {
    name: "$IPV4",
    what: "an IPv4 address",
    example: "192.0.2.1",
};
pub(super) const IPV6: Variable = Variable {
    name: "$IPV6",
    what: "an IPv6 address",
    example: "2001:db8::1",
};

impl Variable {
    pub(super) fn is(&self, text: &str) -> bool {
        text.eq_ignore_ascii_case(self.name)
    }
}

/// What the variables stand for, and which were met.
#[derive(Debug, Default)]
pub(super) struct Variables {
    pub(super) addresses: HostAddresses,
    pub(super) has_ipv4: bool,
    pub(super) has_ipv6: bool,
    /// Where what was left out.
    pub(super) left_out: Vec<ZoneFileError>,
}

impl Variables {
    /// Notes that a variable was met, and what is left out if its address is not known.
    pub(super) fn take(
        &mut self,
        variable: &Variable,
        at: &Word<'_>,
        is_known: bool,
        left_out: &str,
    ) {
        let name = variable.name;
        self.has_ipv4 |= IPV4.is(name);
        self.has_ipv6 |= IPV6.is(name);
        if !is_known {
            let what = variable.what.trim_start_matches("an ");
            let message = format!("the {what} of {name} is not known; {left_out}");
            self.left_out.push(at.error(message));
        }
    }
}
